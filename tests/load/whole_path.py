"""The whole path (REST, queue, Redis, SSE) against our bare engine in a process of its own: tokens per second.

Sixteen answers at a time and one; from the first question to the last event on one side, from the first call to the
last token on the other. The same model, threads, room and questions.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.load.bare_engine import Together, bare_engine
from tests.load.peers.models import random_model
from tests.load.peers.peer import Asked, Seat, cores, settle
from tests.load.peers.questions import words
from tests.load.peers.rounds import ratio
from tests.load.peers.sibyl_serve import SibylServe
from tests.load.peers.wire import Question

STREAMS = {16: 0.90, 1: 0.95}  #: goals
TOKENS = 256
PROMPT_TOKENS = 32
ROUNDS = 7
KIND = "q4_0"


def measure(*, scale: float = 1.0, threads: int | None = None) -> dict[str, Any]:
    """Return both sides' figures and their ratios."""
    rounds, tokens = max(1, round(ROUNDS * scale)), max(64, round(TOKENS * min(1.0, scale)))
    seat = Seat(model=random_model("120m", KIND), slots=max(STREAMS), threads=threads or cores(), context_tokens=1024)
    figures: dict[str, Any] = {
        "what": f"tokens/s of answers asked at once, 120M random weights {KIND}, {seat.threads} threads, "
        f"{tokens} tokens, {rounds} pairs"
    }
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder, bare_engine(seat) as bare:
        with SibylServe().start(seat, Path(folder)) as path:
            for streams, goal in STREAMS.items():
                alone: list[Together] = []
                served: list[Asked] = []
                for number in range(-1, rounds):  # the first pair warms both up
                    questions = [words(PROMPT_TOKENS, streams, number, place) for place in range(streams)]
                    asks = [[Question(question=question, max_tokens=tokens)] for question in questions]
                    for side in ("bare", "path") if number % 2 else ("path", "bare"):
                        settle()
                        if side == "bare":
                            alone.append(bare.generate(questions, tokens))
                        else:
                            served.append(path.ask(asks))
                figures[f"{streams} streams" if streams > 1 else "1 stream"] = _figures(alone[1:], served[1:], goal)
    return figures


def _figures(alone: list[Together], served: list[Asked], goal: float) -> dict[str, Any]:
    tokens = sum(each.tokens for each in served)
    return {
        "engine_tokens_per_s": statistics.median(each.tokens_per_s for each in alone),
        "path_tokens_per_s": statistics.median(each.tokens_per_s for each in served),
        "engine_first_ms": 1000 * statistics.median(one.first_s for each in alone for one in each.each),
        "path_first_ms": 1000 * statistics.median(answer.first_s for each in served for answer in each.answers),
        "client_cpu_us": 1e6 * sum(each.client_cpu_s for each in served) / tokens,
        "ratio": ratio([each.tokens_per_s for each in served], [each.tokens_per_s for each in alone]),
        "goal": goal,
    }
