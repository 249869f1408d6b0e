"""Notices that a computation does not come back, which no exception and no return code would ever tell."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 1.0


class Watchdog:
    """A thread that looks at what another one does."""

    def __init__(self, limit_s: float, on_stuck: Callable[[], None]) -> None:
        """Call ``on_stuck``, once and from a thread of our own, when one computation takes longer than ``limit_s``."""
        self._limit_s = limit_s
        self._on_stuck = on_stuck
        self._began: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the block."""
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(min(LOOK_S, self._limit_s)):
            began = self._began
            if began is not None and time.monotonic() - began > self._limit_s:
                self._on_stuck()
                return
