"""Sibyl side by side with the other servers of GGUF models: tokens per second and time to first token.

One, four and sixteen clients; each asks one short question and one of a few hundred tokens, half of them in the other
order. All sides have the same model, threads, room, questions and client; every answer must have all its tokens.
"""

import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.load.peers.example_server import ExampleServer
from tests.load.peers.llama_cpp_server import LlamaCppServer
from tests.load.peers.llama_server import LlamaServer
from tests.load.peers.models import random_model
from tests.load.peers.peer import Asked, Peer, Running, Seat, cores
from tests.load.peers.questions import words
from tests.load.peers.rounds import ratio, sides
from tests.load.peers.sibyl_serve import SibylServe
from tests.load.peers.wire import Answer, Question

CLIENTS = (1, 4, 16)
PEERS: tuple[Peer, ...] = (SibylServe(), LlamaServer(), LlamaCppServer(), ExampleServer())
GOALS = {"llama-server": {1: 1.0, 4: 1.0, 16: 1.0}, "llama_cpp.server": {16: 5.0}, "examples/server": {16: 2.0}}
LENGTHS = {"short": 16, "long": 300}  #: tokens of a question
TOKENS = 128
ROUNDS = 5
KIND = "q4_0"
_CONTEXT_TOKENS = 1024


def measure(*, scale: float = 1.0, threads: int | None = None) -> dict[str, Any]:
    """Return the figures of every side that can be had, and how many times ours are theirs."""
    rounds, tokens = max(1, round(ROUNDS * scale)), max(32, round(TOKENS * min(1.0, scale)))
    seat = Seat(
        model=random_model("120m", KIND),
        slots=max(CLIENTS),
        threads=threads or cores(),
        context_tokens=_CONTEXT_TOKENS,
    )
    figures: dict[str, Any] = {
        "what": f"120M random weights {KIND}, {seat.threads} threads, questions of about "
        f"{' and '.join(map(str, LENGTHS.values()))} tokens, greedy answers of {tokens}, {rounds} rounds",
        "sides": {peer.name: peer.about() for peer in PEERS},
    }
    with (
        tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder,
        sides(PEERS, seat, Path(folder)) as compared,
    ):
        compared.alternate(1, lambda side, _: side.ask([[Question(question=words(4, "warm-up"), max_tokens=8)]]))
        for clients in CLIENTS:
            found = compared.alternate(rounds, partial(_ask, clients=clients, tokens=tokens))
            figures[f"{clients} clients" if clients > 1 else "1 client"] = _figures(found, clients)
        return figures | compared.notes


def _ask(side: Running, number: int, *, clients: int, tokens: int) -> Asked:
    return side.ask(
        [
            [
                Question(question=words(LENGTHS[kind], clients, number, client), max_tokens=tokens, kind=kind)
                for kind in (LENGTHS if client % 2 else reversed(LENGTHS))
            ]
            for client in range(clients)
        ]
    )


def _figures(found: dict[str, list[Asked]], clients: int) -> dict[str, Any]:
    ours = found[SibylServe.name]
    figures: dict[str, Any] = {}
    for name, rounds in found.items():
        answers = [answer for asked in rounds for answer in asked.answers]
        tokens = sum(asked.tokens for asked in rounds)
        figures[name] = {
            "tokens_per_s": statistics.median(asked.tokens_per_s for asked in rounds),
            "first_token_ms": _first_ms(answers),
            **{
                f"of {kind} questions_ms": _first_ms([answer for answer in answers if answer.kind == kind])
                for kind in LENGTHS
            },
            "server_cpu_us": 1e6 * sum(asked.server_cpu_s for asked in rounds) / tokens,
            "client_cpu_us": 1e6 * sum(asked.client_cpu_s for asked in rounds) / tokens,
        }
        if name != SibylServe.name:
            times = ratio([asked.tokens_per_s for asked in ours], [asked.tokens_per_s for asked in rounds])
            figures[name]["ours is so many times that"] = times
            if goal := GOALS.get(name, {}).get(clients):
                figures[name]["goal"] = goal
    return figures


def _first_ms(answers: Sequence[Answer]) -> float:
    return 1000 * statistics.median(answer.first_s for answer in answers)
