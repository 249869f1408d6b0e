"""One thread steps all paced generations: together, in time, each with its own rests, errors and end."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from sibyl.bridge.abort import Abort
from sibyl.core.errors import EngineError, TaskCancelled
from sibyl.engines.beat import Beat
from tests.processes import until

PACE = 100.0


def steps(count: int, note: Callable[[], None] = lambda: None) -> Callable[[], bool]:
    """A generation of so many steps."""
    left = count

    def step() -> bool:
        nonlocal left
        note()
        left -= 1
        return left > 0

    return step


def test_those_of_one_pace_are_stepped_together_by_one_thread() -> None:
    """Eight generations that begin at different moments: one thread, and bursts of eight."""
    beat, threads, times = Beat(), set[int](), list[float]()
    lock = threading.Lock()

    def note() -> None:
        with lock:
            threads.add(threading.get_ident())
            times.append(time.monotonic())

    def play() -> None:
        beat.play(steps(20, note), tokens_per_s=PACE, rests=None, abort=Abort())

    players = [threading.Thread(target=play) for _ in range(8)]
    for player in players:
        player.start()
        time.sleep(0.0013)  # not a wait: they begin out of step, which is what is tested
    for player in players:
        player.join(10)

    times.sort()
    wakes = 1 + sum(later - earlier > 0.5 / PACE for earlier, later in pairwise(times))
    assert len(threads) == 1
    assert len(times) == 8 * 20
    assert wakes < 8 * 20 / 4


def test_the_first_step_is_at_once_and_the_others_keep_the_pace() -> None:
    """Nineteen intervals, the first of them up to twice as long."""
    times: list[float] = []
    began = time.monotonic()

    Beat().play(steps(20, lambda: times.append(time.monotonic() - began)), tokens_per_s=PACE, rests=None, abort=Abort())

    assert times[0] < 0.5 / PACE + 0.05
    assert times[-1] >= 19 / PACE


def test_one_that_rests_holds_up_nobody() -> None:
    """It is left out while it says so, and goes on afterwards."""
    beat, rest = Beat(), threading.Event()
    stepped: list[str] = []
    resting = threading.Thread(
        target=lambda: beat.play(
            steps(2, lambda: stepped.append("rested")),
            tokens_per_s=PACE,
            rests=lambda: not rest.is_set(),
            abort=Abort(),
        )
    )
    resting.start()

    beat.play(steps(5, lambda: stepped.append("ran")), tokens_per_s=PACE, rests=None, abort=Abort())
    assert stepped == ["ran"] * 5
    rest.set()
    resting.join(5)

    assert stepped == ["ran"] * 5 + ["rested"] * 2


def test_an_error_is_its_own_generations() -> None:
    """Its caller gets it; the others go on."""
    beat, ran = Beat(), list[int]()

    def fail() -> bool:
        raise EngineError("no more")

    other = threading.Thread(
        target=lambda: beat.play(steps(10, lambda: ran.append(1)), tokens_per_s=PACE, rests=None, abort=Abort())
    )
    other.start()
    with pytest.raises(EngineError, match="no more"):
        beat.play(fail, tokens_per_s=PACE, rests=None, abort=Abort())
    other.join(5)

    assert len(ran) == 10


def test_a_stop_ends_it_at_once_and_no_step_comes_after() -> None:
    """Though the next one would be a long while away."""
    beat, abort, ran = Beat(), Abort(), list[int]()
    threading.Timer(0.05, abort.request, (TaskCancelled(),)).start()
    began = time.monotonic()

    with pytest.raises(TaskCancelled):
        beat.play(steps(100, lambda: ran.append(1)), tokens_per_s=0.1, rests=None, abort=abort)

    assert time.monotonic() - began < 2
    assert len(ran) == 1
    assert beat._players == []


def test_its_thread_ends_with_the_last_generation_and_another_begins_with_the_next() -> None:
    """Nothing runs while nothing is played."""
    beat = Beat()
    for _ in range(2):
        beat.play(steps(1), tokens_per_s=PACE, rests=None, abort=Abort())
        until(lambda: beat._thread is None, limit_s=5, what="end of its thread")
