"""Audio of one sample rate to another, over a stream, so that times stay what they were.

What comes out depends on the samples that went in and not on the pieces they came in, and after ``finish`` it is as
long as what went in, to the sample.
"""

import numpy as np
import numpy.typing as npt
import soxr

_LOUDEST = 32767


class Resampler:
    """One stream of PCM (signed 16 bit, little-endian, mono), in whatever pieces it comes."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        """Begin a stream. Equal rates pass through as they are."""
        self._from_hz, self._to_hz = from_hz, to_hz
        # Floats: of integers the library would add a dither to the output, which differs with the pieces.
        self._stream = None if from_hz == to_hz else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")
        self._taken = self._given = 0  # samples

    def push(self, pcm: bytes) -> bytes:
        """Take whole samples; return what is ready, which may be nothing yet."""
        if self._stream is None:
            return pcm
        self._taken += len(pcm) // 2
        return self._resample(self._stream, pcm, last=False)

    def finish(self) -> bytes:
        """Return what is left of all that was pushed. What is pushed afterwards follows it without a gap."""
        if self._stream is None:
            return b""
        due = 2 * (round(self._taken * self._to_hz / self._from_hz) - self._given)
        rest = self._resample(self._stream, b"", last=True)
        self._stream.clear()
        self._given += due // 2 - len(rest) // 2
        return rest[:due].ljust(due, b"\0")  # the library rounds by itself: a sample more or less

    def _resample(self, stream: soxr.ResampleStream, pcm: bytes, *, last: bool) -> bytes:
        samples = np.frombuffer(pcm, "<i2").astype(np.float32)
        resampled: npt.NDArray[np.float32] = stream.resample_chunk(samples, last=last)
        self._given += len(resampled)
        whole: npt.NDArray[np.float32] = np.clip(np.rint(resampled), -_LOUDEST - 1, _LOUDEST)
        return whole.astype("<i2").tobytes()
