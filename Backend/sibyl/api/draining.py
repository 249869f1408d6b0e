"""The word that the process ends, for everyone who would otherwise wait on."""

from collections.abc import Callable


class Draining:
    """Unset, then set for good. No follower needs a task of its own to wait for it."""

    def __init__(self) -> None:
        self._set = False
        self._listeners: dict[Callable[[], None], None] = {}

    def set(self) -> None:
        """Set it and tell all who listen. It may be called from a signal handler."""
        self._set = True
        for wake in tuple(self._listeners):
            wake()

    def is_set(self) -> bool:
        """Whether the process drains."""
        return self._set

    def listen(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called when it is set. It must neither wait nor raise."""
        self._listeners[wake] = None

    def unlisten(self, wake: Callable[[], None]) -> None:
        """Have it called no more."""
        del self._listeners[wake]
