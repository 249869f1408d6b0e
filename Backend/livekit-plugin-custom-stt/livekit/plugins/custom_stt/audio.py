"""Audio that was pushed and not yet told in finals, with the flushes between: what a new session would need.

Bounded: the oldest is let go when it becomes too much. Positions are samples since the begin of the stream.
"""

from collections import deque
from dataclasses import dataclass

SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True)
class Flush:
    """The wish that all audio before ``position`` is told in finals."""

    number: int
    position: int


class RetainedAudio:
    """PCM (signed 16 bit, little-endian, mono) from ``start`` to ``end``."""

    def __init__(self, rate_hz: int, limit_s: float | None) -> None:
        """Begin empty.

        Args:
            limit_s: seconds that are kept at most; None: all.
        """
        self.rate_hz = rate_hz
        self.start = 0
        self.ended = False  #: nothing comes any more
        self._limit = None if limit_s is None else round(limit_s * rate_hz)
        self._pcm = bytearray()
        self._flushes: deque[Flush] = deque()
        self._numbers = 0

    @property
    def end(self) -> int:
        """The position behind the last sample."""
        return self.start + len(self._pcm) // SAMPLE_BYTES

    def append(self, pcm: bytes) -> None:
        """Add whole samples; the oldest are let go if they become too many."""
        self._pcm += pcm
        if self._limit is not None:
            self.forget(self.end - self._limit)

    def read(self, position: int, most: int) -> bytes:
        """Return at most so many samples from a position that is kept."""
        first = (position - self.start) * SAMPLE_BYTES
        return bytes(self._pcm[first : first + most * SAMPLE_BYTES])

    def forget(self, until: int) -> None:
        """Let go of all before this position."""
        samples = min(until, self.end) - self.start
        if samples > 0:
            del self._pcm[: samples * SAMPLE_BYTES]
            self.start += samples

    def flush(self) -> None:
        """Ask that all so far is told. Without new audio, a second one that still waits is the same."""
        if not self._flushes or self._flushes[-1].position != self.end:
            self._numbers += 1
            self._flushes.append(Flush(self._numbers, self.end))

    def next_flush(self, after: int) -> Flush | None:
        """Return the first unanswered flush with a higher number."""
        return next((flush for flush in self._flushes if flush.number > after), None)

    def answered(self, number: int) -> Flush | None:
        """Note that a flush was answered, and return it; None: it was, or nobody asked."""
        found = next((flush for flush in self._flushes if flush.number == number), None)
        if found is not None:
            self._flushes.remove(found)
        return found
