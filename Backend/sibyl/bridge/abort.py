"""The request to stop, as it crosses from the event loop to a thread that may be deep in a C call.

The first reason wins and stays. A thread that computes in Python looks at ``requested`` or calls
``raise_if_requested``; a library that can be stopped from outside (llama.cpp's abort flag, a socket to close) registers
a hook.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Abort:
    """One generation's stop request. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._hooks: list[Callable[[], None]] = []
        self._reason: BaseException | None = None

    @property
    def requested(self) -> bool:
        """Whether the work should end now."""
        return self._reason is not None

    @property
    def reason(self) -> BaseException | None:
        """Why, or None while it may go on."""
        return self._reason

    def request(self, reason: BaseException) -> None:
        """Ask the thread to stop. Only the first call counts. Hooks run in the calling thread and must not block."""
        # The hooks run under the lock, so that none runs after its block: what it stops may be somebody else's by then.
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            for hook in tuple(self._hooks):
                hook()

    def raise_if_requested(self) -> None:
        """Raise the reason, if there is one."""
        if self._reason is not None:
            raise self._reason

    @contextmanager
    def hook(self, stop: Callable[[], None]) -> Iterator[None]:
        """Have ``stop`` called when the request comes, also if it came already, while the block runs."""
        with self._lock:
            self._hooks.append(stop)
            requested = self._reason is not None
        if requested:
            stop()
        try:
            yield
        finally:
            with self._lock:
                self._hooks.remove(stop)
