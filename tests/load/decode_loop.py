"""Our decode loop against the same batches of llama.cpp driven from C (llama-batched-bench): tokens per second.

The engine is called as a worker calls it, by a thread for each answer: it takes the most likely token, makes text of
it, looks for stops and hands it over. The other side does none of this; it computes random tokens. Counted is the time
while all answers are being written. Both sides have the same model, threads, lengths, and the same kind of room.
"""

import statistics
from typing import Any

from tests.load.bare_engine import bare_engine
from tests.load.peers import batched_bench
from tests.load.peers.environments import Unavailable
from tests.load.peers.models import random_model
from tests.load.peers.peer import Seat, cores, settle
from tests.load.peers.questions import words
from tests.load.peers.rounds import ratio

SEQUENCES = (1, 4, 16)
KINDS = ("q4_0", "bf16")
PROMPT_TOKENS = 64
TOKENS = 256
ROUNDS = 5
GOAL = 0.97
_CONTEXT_TOKENS = 768


def measure(*, scale: float = 1.0, threads: int | None = None) -> dict[str, Any]:
    """Return both sides' figures and their ratios, for each kind of room and number of sequences."""
    threads = threads or cores()
    rounds, tokens = max(1, round(ROUNDS * scale)), max(128, round(TOKENS * min(1.0, scale)))
    figures: dict[str, Any] = {
        "what": f"tokens/s while {', '.join(map(str, SEQUENCES))} answers are written, 120M random weights, "
        f"{threads} threads, prompts of {PROMPT_TOKENS}, {tokens} tokens, {rounds} rounds",
        "flash attention": "as Sibyl chooses on this processor, on both sides",
        "goal": f"{GOAL} at 16, in room of the kind that the worker has (each its own)",
    }
    try:
        for kind in KINDS:
            figures[kind] = {
                "each its own room": _compared(kind, threads, rounds, tokens, unified=False),
                "shared room": _compared(kind, threads, rounds, tokens, unified=True),
            }
    except Unavailable as reason:
        return figures | {"skipped": str(reason)}
    return figures


def _compared(kind: str, threads: int, rounds: int, tokens: int, *, unified: bool) -> dict[str, Any]:
    slots = max(SEQUENCES)
    seat = Seat(model=random_model("120m", kind), slots=slots, threads=threads, context_tokens=_CONTEXT_TOKENS)
    pool_tokens = slots * 512 if unified else None
    ours: dict[int, list[float]] = {count: [] for count in SEQUENCES}
    theirs: dict[int, list[float]] = {count: [] for count in SEQUENCES}
    with bare_engine(seat, pool_tokens=pool_tokens) as engine:
        prompt = round(engine.generate([words(PROMPT_TOKENS, "warm-up")], 16).prompt_tokens)

        def run_ours(number: int) -> None:
            for count in SEQUENCES:
                questions = [words(PROMPT_TOKENS, kind, number, count, place) for place in range(count)]
                settle()
                ours[count].append(engine.generate(questions, tokens).decoding_tokens_per_s)

        def run_theirs(number: int) -> None:
            settle()
            found = batched_bench.tokens_per_s(
                seat.model,
                sequences=SEQUENCES,
                prompt_tokens=prompt,
                tokens=tokens,
                threads=threads,
                unified=unified,
            )
            for count, speed in found.items():
                theirs[count].append(speed)

        for number in range(rounds):
            for run in (run_theirs, run_ours) if number % 2 else (run_ours, run_theirs):
                run(number)
    return {
        f"{count} sequences": {
            "ours_tokens_per_s": statistics.median(ours[count]),
            "c_tokens_per_s": statistics.median(theirs[count]),
            "ratio": ratio(ours[count], theirs[count]),
        }
        for count in SEQUENCES
    }
