"""Silero's voice activity detector, the one in faster-whisper's wheel, over a stream.

faster-whisper calls it on whole recordings. Here its state goes from each call to the next, so the probabilities of a
recording are the same in whatever pieces it comes.
"""

import numpy as np

from sibyl.core.errors import RecogniserUnavailable
from sibyl.speech.whisper.buffer import Samples
from sibyl.speech.whisper.voice_gate import FRAME

_CONTEXT = 64  # samples of the frame before that the network sees again
_FRAMES = 256  # of one call, which takes memory for all of them


class SileroStream:
    """One session's detector. The network is shared, which is safe: its state is kept here."""

    def __init__(self) -> None:
        """Load the network, at the first time.

        Raises:
            RecogniserUnavailable: faster-whisper, or onnxruntime, which runs the network, is not installed.
        """
        try:
            from faster_whisper.vad import get_vad_model

            self._network = get_vad_model().session
        except (ImportError, RuntimeError) as error:
            raise RecogniserUnavailable(
                f"Silero's detector cannot be loaded ({error}). Install it: pip install faster-whisper onnxruntime"
            ) from error
        self._context = np.zeros(_CONTEXT, np.float32)
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)

    def __call__(self, samples: Samples) -> list[float]:
        """Return the probability that it is speech for each of some whole frames."""
        frames = samples.reshape(-1, FRAME)
        probabilities: list[float] = []
        for begin in range(0, len(frames), _FRAMES):
            probabilities += self._some(frames[begin : begin + _FRAMES])
        return probabilities

    def _some(self, frames: Samples) -> list[float]:
        ends = frames[:, -_CONTEXT:]
        contexts = np.concatenate((self._context[np.newaxis], ends[:-1]))
        self._context = ends[-1]
        seen = np.concatenate((contexts, frames), axis=1)
        found, self._h, self._c = self._network.run(None, {"input": seen, "h": self._h, "c": self._c})
        return [float(probability) for probability in np.ravel(found)]
