"""Audio files that tests make: of words for the scripted recogniser, and of tones in every format."""

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
import soundfile
from numpy.typing import NDArray

BLOCK: Final = 1600  # samples of 100 ms at 16 kHz: one word, or silence
SLOW: Final = -2  # the scripted recogniser takes half a second for this word
HANG: Final = -3  # and for this one until it is aborted
FAIL: Final = -1


def spoken(*utterances: Sequence[int], silence_blocks: int = 4) -> bytes:
    """Return a WAV file in which the scripted recogniser hears these words: ``w7`` for 7, silence behind each list."""
    values = [value for words in utterances for value in (*words, *[0] * silence_blocks)]
    return as_file(np.repeat(np.array(values, dtype=np.int16), BLOCK))


def said(*utterances: Sequence[int]) -> str:
    """Return what it hears in them."""
    return " ".join(f"w{value}" for words in utterances for value in words)


def as_file(samples: NDArray[np.int16], form: str = "WAV", rate_hz: int = 16_000) -> bytes:
    """Return samples as a file; of two dimensions, the second one is the channel."""
    file = io.BytesIO()
    # libsndfile 1.2.2 garbles whole numbers of two channels when it writes MP3 (reading is right).
    soundfile.write(file, samples / 32768 if form == "MP3" else samples, rate_hz, format=form)
    return file.getvalue()


def tone(seconds: float, *, form: str = "WAV", rate_hz: int = 16_000, channels: int = 1) -> bytes:
    """Return a file with a tone of 440 Hz."""
    clock = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = (8000 * np.sin(2 * np.pi * 440 * clock)).astype(np.int16)
    return as_file(np.repeat(wave[:, None], channels, axis=1), form, rate_hz)
