"""Turns at a thing that does one job at a time: the urgent first, then in the order of asking."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from sibyl.bridge.abort import Abort


class Turns:
    """Who may use it now. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: set[tuple[bool, int]] = set()
        self._numbers = count()
        self._taken = False

    @contextmanager
    def turn(self, abort: Abort, *, urgent: bool = False) -> Iterator[None]:
        """Wait for a turn and have it while the block runs.

        Raises:
            Exception: the reason of the abort, as soon as it is requested while this waits.
        """
        with abort.hook(self._wake), self._changed:
            ticket = (not urgent, next(self._numbers))
            self._waiting.add(ticket)
            try:
                self._changed.wait_for(lambda: abort.requested or (not self._taken and min(self._waiting) == ticket))
                abort.raise_if_requested()
                self._taken = True
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
