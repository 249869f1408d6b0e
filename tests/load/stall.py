"""How long a running answer pauses while somebody else's long prompt is read: ours, and llama-server as it comes.

One client's answer is being written when another one asks with a prompt of 2,000 tokens. Counted is the worst gap
between two pieces of the running answer from that question to its first token, as the client sees it.
"""

import statistics
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.load.peers.llama_server import LlamaServer
from tests.load.peers.models import random_model
from tests.load.peers.peer import Asked, Peer, Seat, cores
from tests.load.peers.questions import words
from tests.load.peers.rounds import sides
from tests.load.peers.sibyl_serve import SibylServe
from tests.load.peers.wire import Question

PROMPT_TOKENS = 2000
RUNNING_TOKENS = 1500
ROUNDS = 5
KIND = "q4_0"
GOAL_MS = 100
_SLOTS = 4
_LEAD_READS = 100  # of the running answer, before the long prompt comes
_CONTEXT_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Stall:
    """What one long prompt did to a running answer."""

    worst_ms: float
    usual_ms: float  #: median gap before it came
    first_ms: float  #: to the first token of the long prompt's own answer


def measure(*, scale: float = 1.0, threads: int | None = None) -> dict[str, Any]:
    """Return the worst gaps of both sides."""
    rounds = max(1, round(ROUNDS * scale))
    seat = Seat(
        model=random_model("120m", KIND), slots=_SLOTS, threads=threads or cores(), context_tokens=_CONTEXT_TOKENS
    )
    peers: tuple[Peer, ...] = (SibylServe(), LlamaServer())
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder, sides(peers, seat, Path(folder)) as compared:
        compared.alternate(1, lambda side, _: side.ask([[Question(question=words(4, "warm-up"), max_tokens=8)]]))
        found = compared.alternate(rounds, lambda side, number: side.ask(_questions(number)))
        figures: dict[str, Any] = {
            "what": f"worst gap in a running answer while a prompt of {PROMPT_TOKENS} tokens is read, 120M random "
            f"weights {KIND}, {seat.threads} threads, {rounds} rounds",
            "goal": f"{GOAL_MS} ms or less",
        }
        for name, asked in found.items():
            stalls = [_stall(each) for each in asked]
            figures[name] = {
                "worst gap, median of rounds_ms": statistics.median(stall.worst_ms for stall in stalls),
                "worst gap of all_ms": max(stall.worst_ms for stall in stalls),
                "usual gap_ms": statistics.median(stall.usual_ms for stall in stalls),
                "first token of the long one_ms": statistics.median(stall.first_ms for stall in stalls),
            }
        return figures | compared.notes


def _questions(number: int) -> list[list[Question]]:
    running = Question(question=words(12, "running", number), max_tokens=RUNNING_TOKENS, kind="running")
    coming = Question(
        question=words(PROMPT_TOKENS, "coming", number), max_tokens=8, kind="coming", after_reads=_LEAD_READS
    )
    return [[running], [coming]]


def _stall(asked: Asked) -> Stall:
    running, coming = sorted(asked.answers, key=lambda answer: answer.kind != "running")
    times = running.token_times_s
    if not times[0] < coming.sent_s < coming.token_times_s[0] < times[-1]:
        raise RuntimeError("the running answer was not running all the while: RUNNING_TOKENS is too small here")
    gaps = [(later, later - earlier) for earlier, later in pairwise(times)]
    # A gap counts from the question on, and until the first token after the long prompt's own.
    during = [gap for ended, gap in gaps if ended > coming.sent_s and ended - gap < coming.token_times_s[0]]
    before = [gap for ended, gap in gaps if ended <= coming.sent_s]
    return Stall(1000 * max(during), 1000 * statistics.median(before), 1000 * coming.first_s)
