"""Audio files of every kind, whole, broken and hostile: what comes out, and what it costs."""

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from sibyl.bridge.abort import Abort
from sibyl.core.errors import (
    AudioTooLong,
    AudioUnreadable,
    RecogniserFailed,
    RecogniserUnavailable,
    SibylError,
    TaskCancelled,
)
from sibyl.speech import audio_decoder, audio_file
from sibyl.speech.audio_decoder import TooLong, Unreadable, decoded
from sibyl.speech.audio_file import FileInlet, opened
from sibyl.speech.inlet import END
from tests.recordings import as_file, spoken, tone


def sound(audio: bytes) -> NDArray[np.int16]:
    """The samples of a file, as the decoder's process gives them."""
    pieces = []
    with opened(audio, Abort()) as file:
        while piece := file.read():
            pieces.append(piece)
    return np.frombuffer(b"".join(pieces), dtype="<i2")


def loudness_at(samples: NDArray[np.int16], frequency_hz: float) -> float:
    """How much of the sound is at this frequency, from 0 to 1."""
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64) * np.hanning(len(samples)))) ** 2
    at = round(frequency_hz * len(samples) / audio_decoder.RATE_HZ)
    return float(spectrum[max(0, at - 4) : at + 5].sum() / spectrum.sum())


def test_sound_of_the_right_shape_comes_out_as_it_is() -> None:
    """Each sample, also the loudest and the most negative."""
    samples = np.array([0, 1, -1, 32767, -32768, 12345] * 5000, dtype=np.int16)

    assert np.array_equal(sound(as_file(samples)), samples)
    assert np.array_equal(sound(as_file(samples, "FLAC")), samples)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (44100, 2)])
def test_other_formats_rates_and_channels_become_16_khz_of_one_channel(form: str, rate_hz: int, channels: int) -> None:
    """A tone stays that tone, and as long as it was."""
    audio = tone(1.0, form=form, rate_hz=rate_hz, channels=channels)

    samples = np.frombuffer(b"".join(decoded(audio)), dtype="<i2")

    assert loudness_at(samples, 440) > 0.95
    assert 7000 < np.abs(samples[2000:-2000]).max() < 9000
    assert abs(len(samples) - 16_000) <= (4000 if form == "MP3" else 2)  # MP3 is made of frames


def test_channels_are_mixed_and_not_picked() -> None:
    """Who speaks on the right is heard as well."""
    right = np.zeros((16_000, 2), dtype=np.int16)
    right[:, 1] = 1000

    assert set(np.frombuffer(b"".join(decoded(as_file(right))), dtype="<i2")) == {500}


def test_floating_point_sound_is_not_taken_for_whole_numbers() -> None:
    """A WAV of floats from -1 to 1; what is louder than can be is cut off, and what is no number is silence."""
    samples = np.array([0.5, -0.5, 2.0, -2.0, np.nan, np.inf, 1e38], dtype="<f4").tobytes()
    kind = b"fmt " + struct.pack("<IHHIIHH", 16, 3, 1, 16_000, 64_000, 4, 32)
    data = b"data" + struct.pack("<I", len(samples)) + samples
    audio = b"RIFF" + struct.pack("<I", 4 + len(kind) + len(data)) + b"WAVE" + kind + data

    pcm = np.frombuffer(b"".join(decoded(audio)), "<i2")

    assert list(pcm) == [16384, -16384, 32767, -32768, 0, 32767, 32767]


def test_a_file_is_read_in_pieces_of_whole_samples() -> None:
    """However they come through the pipe; and its length is known at the end."""
    with opened(spoken([1, 2, 3]), Abort()) as file:
        pieces = []
        while piece := file.read(999):
            pieces.append(piece)

        assert all(len(piece) % 2 == 0 for piece in pieces)
        assert file.read_s == sum(map(len, pieces)) / 32_000 == 0.7
        assert file.read() == b""


def test_what_comes_before_a_moment_is_skipped_to_the_sample() -> None:
    """Also from a format in which one cannot seek so exactly."""
    for form in ("WAV", "MP3"):
        audio = tone(2.0, form=form, rate_hz=44_100)
        whole = sound(audio)
        with opened(audio, Abort()) as file:
            file.skip(0.7501)
            assert file.samples == 12_002
            rest = b"".join(iter(file.read, b""))

        assert np.array_equal(np.frombuffer(rest, dtype="<i2"), whole[12_002:])


def test_skipping_behind_the_end_leaves_nothing() -> None:
    """A recogniser may have placed the last word there."""
    with opened(spoken([1]), Abort()) as file:
        file.skip(99)

        assert file.read() == b"" and file.read_s == 0.5


BROKEN = {
    "nothing": b"",
    "text": b"Why? " * 1000,
    "zeros": bytes(10_000),
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "half a head": spoken([1])[:20],
    "a head of FLAC and noise": b"fLaC" + os.urandom(5000),
    "a head of Ogg and noise": b"OggS" + os.urandom(5000),
    "raw PCM": b"\x01\x00" * 8000,
}


@pytest.mark.parametrize("audio", BROKEN.values(), ids=BROKEN)
def test_what_is_no_audio_is_refused(audio: bytes) -> None:
    """In words that say what would be."""
    with pytest.raises(Unreadable):
        list(decoded(audio))


def test_the_process_of_the_decoder_says_why_it_gave_up() -> None:
    """An exit code for each reason, which become errors with the words for a client."""
    with pytest.raises(AudioUnreadable, match="WAV, FLAC, Ogg or MP3"):
        sound(b"Why?")


def test_a_recording_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose head says another length: what counts is what comes out."""
    monkeypatch.setattr(audio_decoder, "LONGEST_S", 1.0)

    assert list(decoded(tone(1.0)))
    for audio in (tone(1.1), tone(20.0, form="FLAC")):
        with pytest.raises(TooLong):
            list(decoded(audio))


def test_more_channels_or_samples_than_anybody_speaks_in_are_refused() -> None:
    """A head of a few bytes must not ask for blocks of gigabytes."""
    for audio in (as_file(np.zeros((10, 64), dtype=np.int16)), as_file(np.zeros(10, dtype=np.int16), rate_hz=999_999)):
        with pytest.raises(Unreadable):
            list(decoded(audio))


DEATHS: dict[str, tuple[str, type[SibylError]]] = {
    "a crash": ("os.kill(os.getpid(), signal.SIGSEGV)", AudioUnreadable),
    "an assertion of C": ("os.abort()", AudioUnreadable),
    "all of its time": ("os.kill(os.getpid(), signal.SIGXCPU)", AudioUnreadable),
    "all of its memory": ("bytearray(8 << 30)", AudioUnreadable),
    "an unknown code": ("sys.exit(77)", AudioUnreadable),
    "too long": ("sys.exit(4)", AudioTooLong),
    "no library": ("sys.exit(5)", RecogniserUnavailable),
    "somebody else": ("os.kill(os.getpid(), signal.SIGTERM)", RecogniserFailed),
}


@pytest.mark.parametrize(("end", "error"), DEATHS.values(), ids=DEATHS)
def test_a_decoder_that_dies_costs_its_file_alone(
    end: str, error: type[SibylError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker goes on; that somebody ends the process from outside is no fault of the file."""
    code = (
        f"import os, signal, sys; from sibyl.speech import audio_decoder as d; d._limit(); os.write(1, b'abcd'); {end}"
    )
    run_instead(monkeypatch, code)

    with opened(b"x", Abort()) as file:
        assert file.read() == b"abcd"
        with pytest.raises(error) as raised:
            file.read()

    assert type(raised.value) is error


def test_a_decoder_that_gives_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec in an endless loop: its file is unreadable, after a while."""
    run_instead(monkeypatch, "import time; time.sleep(600)")
    monkeypatch.setattr(audio_file, "STALL_S", 0.3)

    with opened(b"x", Abort()) as file, pytest.raises(AudioUnreadable):
        file.read()


def test_an_abort_ends_the_decoder_at_once() -> None:
    """Also while it is waited for; and its process is gone."""
    abort = Abort()
    with opened(tone(60.0), abort) as file:
        process = file._decoder
        file.read()
        threading.Timer(0.1, abort.request, [TaskCancelled()]).start()
        with pytest.raises(TaskCancelled):
            while True:
                assert file.read()
                time.sleep(0.01)  # slower than the decoder, so that it waits for us

    assert process.returncode == -signal.SIGKILL


def test_a_file_that_nobody_reads_to_its_end_leaves_no_process() -> None:
    """The block ends, and so does the decoder."""
    with opened(tone(60.0), Abort()) as file:
        file.read()
        process = file._decoder

    assert process.returncode is not None


def test_a_decoder_ends_with_the_worker_that_reads_it() -> None:
    """A killed worker cleans nothing up; its decoder notices that nobody reads."""
    decoder = subprocess.Popen(
        [sys.executable, "-m", audio_decoder.__name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert decoder.stdin is not None and decoder.stdout is not None
    decoder.stdin.write(tone(60.0))
    decoder.stdin.close()
    decoder.stdout.read(1000)
    decoder.stdout.close()

    assert decoder.wait(10) is not None


def test_a_recogniser_that_looks_ahead_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only asks whether there is more gets no more than a bit ahead of what it has processed: memory is bounded."""
    monkeypatch.setattr(audio_file, "AHEAD_S", 1.0)
    with opened(spoken([1] * 100), Abort()) as file:
        inlet = FileInlet(file, Abort())
        taken = 0
        while isinstance(piece := inlet.take(0), bytes):
            taken += len(piece)
        assert piece is None and 1.0 <= taken / 32_000 < 4.0

        inlet.processed(1e9)
        while isinstance(piece := inlet.take(0), bytes):
            taken += len(piece)

        assert piece is END and taken / 32_000 == pytest.approx(10.4)
        assert inlet.take() is END


def test_one_who_waits_without_limit_is_never_held_back() -> None:
    """It could not tell that it processed anything before it has more."""
    with opened(spoken([1] * 700), Abort()) as file:
        inlet = FileInlet(file, Abort())
        pieces = iter(lambda: inlet.take(), END)

        assert sum(len(piece) for piece in pieces if isinstance(piece, bytes)) == 70.4 * 32_000


def run_instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have this code run as the decoder."""
    popen: Callable[..., object] = subprocess.Popen

    def start(command: list[str], **options: object) -> object:
        return popen([command[0], "-c", code], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
