"""Another sample rate, over a stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sibyl.speech.resampling import Resampler

HEARD_HZ = 16_000
RATES_HZ = (8_000, 11_025, 22_050, 44_100, 48_000)


def tone(rate_hz: int, samples: int, pitch_hz: float = 440.0) -> bytes:
    """Return a tone."""
    clock = np.arange(samples) / rate_hz
    return (12_000 * np.sin(2 * np.pi * pitch_hz * clock)).astype("<i2").tobytes()


@settings(max_examples=40, deadline=None)
@given(
    rate_hz=st.sampled_from(RATES_HZ),
    pieces=st.lists(st.integers(0, 3_000), max_size=12),
    ends=st.sets(st.integers(0, 11)),
)
def test_what_comes_out_is_as_long_as_what_went_in(rate_hz: int, pieces: list[int], ends: set[int]) -> None:
    """After each end, however often the stream goes on, and so no time ever moves."""
    resampler, pushed, got = Resampler(rate_hz, HEARD_HZ), 0, 0

    for number, samples in enumerate(pieces):
        got += len(resampler.push(tone(rate_hz, samples))) // 2
        pushed += samples
        if number in ends:
            got += len(resampler.finish()) // 2
            assert got == round(pushed * HEARD_HZ / rate_hz)
    got += len(resampler.finish()) // 2

    assert got == round(pushed * HEARD_HZ / rate_hz)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_pieces_change_no_sample(rate_hz: int) -> None:
    """Not one bit of them."""
    audio = tone(rate_hz, rate_hz)

    def resampled(size: int) -> bytes:
        resampler = Resampler(rate_hz, HEARD_HZ)
        pieces = [resampler.push(audio[start : start + size]) for start in range(0, len(audio), size)]
        return b"".join([*pieces, resampler.finish()])

    assert resampled(2) == resampled(1_234) == resampled(len(audio))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_tone_stays_that_tone_at_its_time(rate_hz: int) -> None:
    """Neither pitch nor place nor loudness moves: it is within a hundredth of the same tone made at the new rate."""
    resampler = Resampler(rate_hz, HEARD_HZ)

    heard = np.frombuffer(resampler.push(tone(rate_hz, rate_hz)) + resampler.finish(), "<i2").astype(float)

    expected = np.frombuffer(tone(HEARD_HZ, HEARD_HZ), "<i2").astype(float)
    inner = slice(1_000, -1_000)  # a tone that begins and ends at once rings there
    assert np.abs(heard - expected)[inner].max() < 120


def test_the_loudest_sound_is_cut_and_never_folded() -> None:
    """A square wave overshoots; as integers it would jump from the loudest to its opposite."""
    square = np.repeat(np.array([32_767, -32_768] * 50, dtype="<i2"), 240)
    resampler = Resampler(48_000, HEARD_HZ)

    heard = np.frombuffer(resampler.push(square.tobytes()) + resampler.finish(), "<i2")

    middles = heard.reshape(-1, 80)[:, 40]
    assert (middles[::2] > 30_000).all()
    assert (middles[1::2] < -30_000).all()


def test_an_equal_rate_passes_through() -> None:
    """As it is."""
    resampler = Resampler(HEARD_HZ, HEARD_HZ)

    assert resampler.push(b"\1\2") == b"\1\2"
    assert resampler.finish() == b""
