"""Turns: one at a time, the urgent first, and an abort ends the waiting."""

import threading

import pytest

from sibyl.bridge.abort import Abort
from sibyl.speech.whisper.turns import Turns
from tests.processes import until


class Asker:
    """A thread that asks for a turn and notes that it had it."""

    def __init__(self, turns: Turns, name: str, had: list[str], *, urgent: bool = False) -> None:
        self.abort = Abort()
        self._thread = threading.Thread(target=self._ask, args=(turns, name, had, urgent))
        self._thread.start()
        until(lambda: len(turns._waiting) > 0 and self._is_waiting(turns), limit_s=5, what="asks")

    def _is_waiting(self, turns: Turns) -> bool:
        return self.abort._hooks != []

    def _ask(self, turns: Turns, name: str, had: list[str], urgent: bool) -> None:
        try:
            with turns.turn(self.abort, urgent=urgent):
                had.append(name)
        except RuntimeError as error:
            had.append(f"{name}: {error}")

    def join(self) -> None:
        self._thread.join(5)
        assert not self._thread.is_alive()


def test_the_urgent_come_first_then_who_asked_first() -> None:
    """While one has the turn, three ask; the last to ask is urgent."""
    turns, had = Turns(), list[str]()

    with turns.turn(Abort()):
        askers = [Asker(turns, "first", had), Asker(turns, "second", had), Asker(turns, "urgent", had, urgent=True)]
        assert had == []
    for asker in askers:
        asker.join()

    assert had == ["urgent", "first", "second"]


def test_an_abort_ends_the_waiting_and_nobody_else_s() -> None:
    """The reason is raised at once, while the turn is still taken; the next one gets it."""
    turns, had = Turns(), list[str]()

    with turns.turn(Abort()):
        first, second = Asker(turns, "first", had), Asker(turns, "second", had)
        first.abort.request(RuntimeError("gone"))
        first.join()
        assert had == ["first: gone"]
    second.join()

    assert had == ["first: gone", "second"]


def test_a_block_that_raises_gives_its_turn_back() -> None:
    """The next turn is free."""
    turns = Turns()

    with pytest.raises(RuntimeError), turns.turn(Abort()):
        raise RuntimeError("broken")
    with turns.turn(Abort()):
        pass
