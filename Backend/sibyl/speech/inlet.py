"""Audio on its way from the event loop to a recogniser's thread, in order, with flushes between.

It has no bound of its own: the session counts what was received and not yet processed, and ends what runs too far
ahead.
"""

import threading
from collections import deque
from dataclasses import dataclass

from sibyl.bridge.abort import Abort


@dataclass(frozen=True, slots=True)
class Flush:
    """Decode all that came before and tell it in finals, then emit ``Flushed`` with this number."""

    number: int


class AudioEnd:
    """The one value ``END``: nothing comes any more."""


END = AudioEnd()
Taken = bytes | Flush | AudioEnd


class AudioInlet:
    """A queue of PCM (signed 16 bit, little-endian, mono, whole samples) with one reader, who may block."""

    def __init__(self, abort: Abort) -> None:
        self._abort = abort
        self._items: deque[Taken] = deque()
        self._ready = threading.Condition()

    def put(self, item: Taken) -> None:
        """Hand in audio, a flush or the end. Never waits; what comes after the end is dropped."""
        with self._ready:
            if not self._items or self._items[-1] is not END:
                self._items.append(item)
                self._ready.notify()

    def take(self, timeout_s: float | None = None, *, most_bytes: int = 64 * 1024) -> Taken | None:
        """Return the next item; waits for it. Neighbouring pieces of audio may come as one of up to ``most_bytes``.

        Args:
            timeout_s: None waits for ever; after this time without an item None is returned.
            most_bytes: even; a piece that is longer comes in parts.

        Returns ``END`` again and again after the end.

        Raises:
            Exception: the reason of the abort, as soon as it is requested.
        """
        with self._abort.hook(self._wake), self._ready:
            self._ready.wait_for(lambda: self._items or self._abort.requested, timeout_s)
            self._abort.raise_if_requested()
            if not self._items:
                return None
            if not isinstance(self._items[0], bytes):
                return self._items[0] if self._items[0] is END else self._items.popleft()
            return self._audio(most_bytes)

    def _audio(self, most_bytes: int) -> bytes:
        parts, size = [], 0
        while self._items and size < most_bytes:
            item = self._items[0]
            if not isinstance(item, bytes):
                break
            self._items.popleft()
            if size + len(item) > most_bytes:
                self._items.appendleft(item[most_bytes - size :])
                item = item[: most_bytes - size]
            parts.append(item)
            size += len(item)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _wake(self) -> None:
        with self._ready:
            self._ready.notify_all()
