"""Sixteen questions at once under one long system prompt: who computes it how often.

Total time, and median time to first token, of Sibyl and of llama-server, each with room of its own for every slot and,
to its advantage, with the room that all slots share. The system prompt is another one in each round.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.load.peers.llama_server import LlamaServer
from tests.load.peers.models import random_model
from tests.load.peers.peer import Asked, Peer, Seat, cores
from tests.load.peers.questions import words
from tests.load.peers.rounds import ratio, sides
from tests.load.peers.sibyl_serve import SibylServe
from tests.load.peers.wire import Question

QUESTIONS = 16
SHARED_TOKENS = 400
OWN_TOKENS = 12
TOKENS = 16
ROUNDS = 7
KIND = "q4_0"
GOAL = 0.25
_CONTEXT_TOKENS = 1024


def measure(*, scale: float = 1.0, threads: int | None = None) -> dict[str, Any]:
    """Return the times of every side, and what part of theirs ours are."""
    rounds = max(1, round(ROUNDS * scale))
    seat = Seat(
        model=random_model("120m", KIND), slots=QUESTIONS, threads=threads or cores(), context_tokens=_CONTEXT_TOKENS
    )
    peers: tuple[Peer, ...] = (SibylServe(), LlamaServer(), LlamaServer("llama-server, shared room", "--kv-unified"))
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder, sides(peers, seat, Path(folder)) as compared:
        compared.alternate(1, lambda side, _: side.ask([[Question(question=words(4, "warm-up"), max_tokens=8)]]))
        found = compared.alternate(rounds, lambda side, number: side.ask(_questions(number)))
        figures: dict[str, Any] = {
            "what": f"{QUESTIONS} questions at once, {SHARED_TOKENS} tokens of system prompt in common, answers of "
            f"{TOKENS}, 120M random weights {KIND}, {seat.threads} threads, {rounds} rounds",
            "goal": f"{GOAL} of llama-server's, both",
        }
        ours = found[SibylServe.name]
        for name, asked in found.items():
            figures[name] = {"total_ms": statistics.median(map(_total_ms, asked))}
            figures[name]["first_token_ms"] = statistics.median(map(_first_ms, asked))
            if name != SibylServe.name:
                figures[name]["total, ours to theirs"] = ratio([*map(_total_ms, ours)], [*map(_total_ms, asked)])
                figures[name]["first token, ours to theirs"] = ratio([*map(_first_ms, ours)], [*map(_first_ms, asked)])
        return figures | compared.notes


def _questions(number: int) -> list[list[Question]]:
    system = words(SHARED_TOKENS, "shared", number)
    return [
        [Question(question=words(OWN_TOKENS, "own", number, place), system=system, max_tokens=TOKENS)]
        for place in range(QUESTIONS)
    ]


def _total_ms(asked: Asked) -> float:
    return 1000 * asked.took_s


def _first_ms(asked: Asked) -> float:
    return 1000 * statistics.median(answer.first_s for answer in asked.answers)
