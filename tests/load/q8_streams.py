"""Two to four answers of a q8_0 model at a time: batches shaped by what rows cost here, against plain ones.

Both engines are ours, each in a process of its own; one of them does not calibrate. Tokens per second while all answers
are being written.
"""

import statistics
from typing import Any

from tests.load.bare_engine import bare_engine
from tests.load.peers.models import random_model
from tests.load.peers.peer import Seat, cores, settle
from tests.load.peers.questions import words
from tests.load.peers.rounds import ratio

STREAMS = (2, 3, 4)
PRESETS = ("120m", "500m")
TOKENS = 128
PROMPT_TOKENS = 16
ROUNDS = 7
GOAL = 1.3


def measure(*, scale: float = 1.0, threads: int | None = None) -> dict[str, Any]:
    """Return both sides' figures and their ratios; --short leaves the larger model out."""
    rounds, tokens = max(1, round(ROUNDS * scale)), max(48, round(TOKENS * min(1.0, scale)))
    threads = threads or cores()
    presets = PRESETS if scale >= 1 else PRESETS[:1]
    figures: dict[str, Any] = {
        "what": f"tokens/s of {', '.join(map(str, STREAMS))} answers at a time, random weights q8_0, {threads} threads,"
        f" {tokens} tokens, {rounds} pairs",
        "goal": GOAL,
    }
    for preset in presets:
        figures[preset] = _compared(preset, threads, rounds, tokens)
    return figures


def _compared(preset: str, threads: int, rounds: int, tokens: int) -> dict[str, Any]:
    seat = Seat(model=random_model(preset, "q8_0"), slots=max(STREAMS), threads=threads, context_tokens=512)
    speeds: dict[bool, dict[int, list[float]]] = {shaped: {count: [] for count in STREAMS} for shaped in (True, False)}
    with bare_engine(seat) as shaped, bare_engine(seat, calibrate=False) as plain:
        for number in range(-1, rounds):  # the first round warms both up
            for count in STREAMS:
                questions = [words(PROMPT_TOKENS, number, count, place) for place in range(count)]
                for calibrated in (True, False) if number % 2 else (False, True):
                    settle()
                    engine = shaped if calibrated else plain
                    speeds[calibrated][count].append(engine.generate(questions, tokens).decoding_tokens_per_s)
    return {
        f"{count} streams": {
            "shaped_tokens_per_s": statistics.median(speeds[True][count][1:]),
            "plain_tokens_per_s": statistics.median(speeds[False][count][1:]),
            "ratio": ratio(speeds[True][count][1:], speeds[False][count][1:]),
        }
        for count in STREAMS
    }
