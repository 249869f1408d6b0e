"""Our decode loop against the same batches of llama.cpp driven from C (llama-batched-bench): tokens per second.

The engine is called as a worker calls it, by a thread for each answer: it takes the most likely token, makes text of
it, looks for stops and hands it over. The other side does none of this; it computes random tokens. Counted is the time
while all answers are being written. Both sides have the same model, threads and lengths, and each answer its own room.

A shared machine changes its speed within a minute by more than the sides differ. So they take turns of a few seconds,
in the order ours, theirs, theirs, ours; what counts is the median of the ratios of the pairs. CPU time for each token
stands beside it: it does not grow when somebody else computes on the same core, though it does when they fill the
caches.
"""

import os
import statistics
from collections.abc import Sequence
from typing import Any

from tests.load.bare_engine import BareEngine, bare_engine
from tests.load.peers.batched_bench import Speed, speeds
from tests.load.peers.environments import Unavailable
from tests.load.peers.models import random_model
from tests.load.peers.peer import Seat, cores, settle
from tests.load.peers.questions import words

SEQUENCES = (1, 4, 16)  # in this order: the short ones warm both sides up for the one that has a goal
KINDS = ("q4_0", "bf16")
PROMPT_WORDS = 8
TOKENS = 24
PAIRS = 10
GOAL = 0.97
_CONTEXT_TOKENS = 256

Speeds = dict[int, Speed]
"""By the number of sequences."""


def measure(*, scale: float = 1.0, threads: int | None = None) -> dict[str, Any]:
    """Return both sides' figures and their ratios, for each kind of weights and number of sequences."""
    threads = threads or cores()
    pairs = max(2, round(PAIRS * scale))
    figures: dict[str, Any] = {
        "what": f"tokens/s while {', '.join(map(str, SEQUENCES))} answers are written, 120M random weights, "
        f"{threads} threads, {TOKENS} tokens, each its own room, {pairs} pairs of turns",
        "ratio": "ours by theirs, median of the pairs; by CPU time for each token: theirs by ours; then quarter points",
        "flash attention": "as Sibyl chooses on this processor, on both sides",
        "goal": f"{GOAL} at 16",
    }
    try:
        for kind in KINDS:
            figures[kind] = {"load_1min": os.getloadavg()[0]} | _compared(kind, threads, pairs)
    except Unavailable as reason:
        return figures | {"skipped": str(reason)}
    return figures


def _compared(kind: str, threads: int, pairs: int) -> dict[str, Any]:
    seat = Seat(model=random_model("120m", kind), slots=max(SEQUENCES), threads=threads, context_tokens=_CONTEXT_TOKENS)
    ours: list[Speeds] = []
    theirs: list[Speeds] = []
    with bare_engine(seat) as engine:
        prompt = round(engine.generate([words(PROMPT_WORDS, "warm-up")], TOKENS).prompt_tokens)

        def run_ours(number: int) -> None:
            ours.append({count: _ours(engine, count, (kind, number, count)) for count in SEQUENCES})

        def run_theirs(_: int) -> None:
            theirs.append(speeds(seat.model, sequences=SEQUENCES, prompt_tokens=prompt, tokens=TOKENS, threads=threads))

        for number in range(pairs):
            for run in (run_theirs, run_ours) if number % 2 else (run_ours, run_theirs):
                settle()
                run(number)
    return {
        f"{count} sequences": _table([speed[count] for speed in ours], [speed[count] for speed in theirs])
        for count in SEQUENCES
    }


def _ours(engine: BareEngine, count: int, name: tuple[object, ...]) -> Speed:
    together = engine.generate([words(PROMPT_WORDS, *name, place) for place in range(count)], TOKENS)
    return Speed(together.decoding_tokens_per_s, together.decoding_cpu_s_per_token)


def _table(ours: Sequence[Speed], theirs: Sequence[Speed]) -> dict[str, Any]:
    by_time = [our.tokens_per_s / their.tokens_per_s for our, their in zip(ours, theirs, strict=True)]
    by_cpu = [their.cpu_s_per_token / our.cpu_s_per_token for our, their in zip(ours, theirs, strict=True)]
    return {
        "ours_tokens_per_s": statistics.median(speed.tokens_per_s for speed in ours),
        "c_tokens_per_s": statistics.median(speed.tokens_per_s for speed in theirs),
        "ratio": statistics.median(by_time),
        "ratio_quarters": _quarters(by_time),
        "ours_cpu_us_per_token": statistics.median(speed.cpu_s_per_token for speed in ours) * 1e6,
        "c_cpu_us_per_token": statistics.median(speed.cpu_s_per_token for speed in theirs) * 1e6,
        "ratio_by_cpu": statistics.median(by_cpu),
        "ratio_by_cpu_quarters": _quarters(by_cpu),
    }


def _quarters(values: Sequence[float]) -> str:
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return f"{first:.3f} to {third:.3f}"
