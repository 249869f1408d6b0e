"""The audio that Deepgram has not told in finals yet, kept to be sent again over another connection. Pure."""

from collections import deque
from collections.abc import Iterator

SAMPLE_BYTES = 2


class KeptAudio:
    """PCM from a moment of the session's audio on."""

    def __init__(self, rate_hz: int) -> None:
        """Begin with none."""
        self._rate_hz = rate_hz
        self._pieces: deque[bytes] = deque()
        self._first = 0  # place of the first byte that is kept
        self._end = 0

    @property
    def first_s(self) -> float:
        """Where it begins."""
        return self._first / SAMPLE_BYTES / self._rate_hz

    @property
    def end_s(self) -> float:
        """How much audio there was in all."""
        return self._end / SAMPLE_BYTES / self._rate_hz

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def add(self, pcm: bytes) -> None:
        """Keep what comes next."""
        self._pieces.append(pcm)
        self._end += len(pcm)

    def forget(self, until_s: float) -> None:
        """Drop what lies before this moment, to the nearest sample."""
        until = min(round(until_s * self._rate_hz) * SAMPLE_BYTES, self._end)
        while self._pieces and self._first + len(self._pieces[0]) <= until:
            self._first += len(self._pieces.popleft())
        if self._first < until:
            self._pieces[0] = self._pieces[0][until - self._first :]
            self._first = until
