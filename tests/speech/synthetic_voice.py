"""A voice without words that Silero takes for speech: harmonics under formants that wander from vowel to vowel."""

import numpy as np
import numpy.typing as npt

RATE_HZ = 16_000
_VOWELS = np.array(
    [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410)], np.float64
)
_FORMANTS = ((1.0, 80.0), (0.5, 100.0), (0.25, 140.0))  # loudness, width in Hz
_VOWEL_S = 0.15


def voice(seconds: float, *, seed: int = 0) -> bytes:
    """Return PCM of somebody who speaks without a pause."""
    rng = np.random.default_rng(seed)
    clock = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    knots = np.arange(0, seconds + 2 * _VOWEL_S, _VOWEL_S)
    path = _VOWELS[rng.integers(0, len(_VOWELS), len(knots))]
    formants = [np.interp(clock, knots, path[:, index]) for index in range(len(_FORMANTS))]
    pitch_hz = np.interp(clock, knots, rng.uniform(100, 150, len(knots)))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    sound = np.zeros(len(clock))
    for harmonic in range(1, 36):
        hertz = harmonic * pitch_hz
        loud = sum(
            gain / (1 + ((hertz - formant) / width) ** 2)
            for formant, (gain, width) in zip(formants, _FORMANTS, strict=True)
        )
        sound += loud * np.sin(harmonic * phase)
    sound *= 0.6 + 0.4 * np.sin(2 * np.pi * 4 * clock)
    return _pcm(0.3 * sound / np.abs(sound).max() + 0.002 * rng.standard_normal(len(clock)))


def silence(seconds: float) -> bytes:
    """Return PCM of nothing at all."""
    return bytes(2 * round(seconds * RATE_HZ))


def noise(seconds: float, *, seed: int = 0) -> bytes:
    """Return PCM of a steady hiss."""
    return _pcm(0.05 * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ)))


def _pcm(sound: npt.NDArray[np.float64]) -> bytes:
    return (np.clip(sound, -1, 1) * 32_767).astype("<i2").tobytes()
