"""Audio for `sibyl listen`: a file, or standard input, as one channel of 16 bit PCM in small pieces.

Rates that a session takes stay as they are; others are resampled. Nothing is held that is not about to be sent.
"""

import asyncio
import os
import stat
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sibyl.speech.resampling import Resampler

LEAST_HZ, MOST_HZ, RESAMPLED_HZ = 8_000, 48_000, 16_000
PIECE_S = 0.1
FULL_SCALE = 32768
READ_BYTES = 16 * 1024
HEAD_BYTES = 64 * 1024  # a WAV whose audio has not begun by then is none
_WITHOUT_END = frozenset({0, 0x7FFFFFFF, 0xFFFFFFFF})  # what programs write whose length is not known yet
_OTHERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"\x1aE\xdf\xa3": "WebM", b"caff": "CAF", b"FORM": "AIFF"}
_USE_FFMPEG = "Give it as a file, or turn it into WAV on the way: ffmpeg -i pipe:0 -f wav - | sibyl listen -"

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSource:
    """Audio to listen to. ``pieces`` may be read once."""

    rate_hz: int
    length_s: float | None  #: None: it ends when it ends
    live: bool  #: it comes when it comes, and is lost if nobody takes it
    pieces: AsyncIterator[bytes]


def open_file(path: Path, *, raw_hz: int | None, real_time: bool) -> AudioSource:
    """Return the audio of a file.

    Args:
        raw_hz: it is bare PCM of this rate; None: its beginning says what it is.
        real_time: hand it out as fast as somebody speaks.

    Raises:
        click.ClickException: it cannot be read, or is no audio.
    """
    import soundfile  # 40 ms, and only needed here

    raw = {} if raw_hz is None else {"samplerate": raw_hz, "channels": 1, "format": "RAW", "subtype": "PCM_16"}
    try:
        with path.open("rb"):  # libsndfile's words for a file that is not there are not clear
            audio = soundfile.SoundFile(path, endian="LITTLE" if raw else None, **raw)
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except soundfile.LibsndfileError:
        raise click.UsageError(
            f"{path} is no audio that can be read (WAV, FLAC, Ogg, MP3 and others can). Turn it into WAV with "
            f"ffmpeg -i {path.name} speech.wav, or give bare PCM with --raw --sample-rate HZ."
        ) from None
    rate_hz = _session_rate_hz(audio.samplerate)

    async def pieces() -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop()
        began = clock.time()
        read_s = 0.0
        with closing(audio):
            mix = _Mix(audio.samplerate, rate_hz)
            while len(block := audio.read(int(audio.samplerate * PIECE_S), dtype="float32", always_2d=True)):
                read_s += len(block) / audio.samplerate
                if real_time:
                    await asyncio.sleep(began + read_s - clock.time())
                yield mix(block)
            yield mix.finish()

    length_s = audio.frames / audio.samplerate
    return AudioSource(rate_hz=rate_hz, length_s=length_s or None, live=False, pieces=pieces())


async def open_standard_input(*, raw_hz: int, sniff: bool) -> AudioSource:
    """Return what comes through standard input: a WAV if it begins like one, else bare PCM of ``raw_hz``.

    Args:
        sniff: whether its beginning is looked at; else it is bare PCM whatever it looks like.

    Raises:
        click.ClickException: it is another format, which cannot be read from a pipe.
    """
    number = sys.stdin.fileno()
    live = not stat.S_ISREG(os.fstat(number).st_mode)
    head = b""
    if sniff:
        while len(head) < 12 and (more := await _read(number)):
            head += more
        for magic, name in _OTHERS.items():
            if head.startswith(magic):
                raise click.UsageError(f"Standard input is {name}, which cannot be read from a pipe. {_USE_FFMPEG}")
    if not (sniff and head.startswith(b"RIFF") and head[8:12] == b"WAVE"):
        bare = WavFormat(rate_hz=raw_hz, channels=1, at=0, size=None)
        return AudioSource(rate_hz=raw_hz, length_s=None, live=live, pieces=_stream(number, head, bare, raw_hz))
    while (form := wav_format(head)) is None:
        more = await _read(number)
        if not more or len(head) > HEAD_BYTES:
            raise click.UsageError("Standard input begins like a WAV, but has no audio in it.")
        head += more
    rate_hz = _session_rate_hz(form.rate_hz)
    length_s = None if form.size is None else form.size / (2 * form.channels * form.rate_hz)
    pieces = _stream(number, head[form.at :], form, rate_hz)
    return AudioSource(rate_hz=rate_hz, length_s=length_s, live=live, pieces=pieces)


def _session_rate_hz(rate_hz: int) -> int:
    return rate_hz if LEAST_HZ <= rate_hz <= MOST_HZ else RESAMPLED_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class WavFormat:
    """What the head of a WAV says."""

    rate_hz: int
    channels: int
    at: int  #: where the audio begins
    size: int | None  #: bytes of audio; None: until the end


def wav_format(head: bytes) -> WavFormat | None:
    """Return what the beginning of a WAV says; None: more of it is needed.

    Raises:
        click.ClickException: its samples are not 16 bit PCM.
    """
    at, found = 12, None
    while len(head) >= at + 8:
        name, size = struct.unpack_from("<4sI", head, at)
        at += 8
        if name == b"data":
            if found is None:
                raise click.UsageError(f"Standard input is a WAV that says nothing of its samples. {_USE_FFMPEG}")
            rate_hz, channels = found
            return WavFormat(rate_hz=rate_hz, channels=channels, at=at, size=None if size in _WITHOUT_END else size)
        if name == b"fmt " and len(head) >= at + 16:
            kind, channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", head, at)
            if kind not in (1, 0xFFFE) or bits != 16 or not channels or not rate_hz:
                raise click.UsageError(f"Standard input is a WAV, but not of 16 bit PCM. {_USE_FFMPEG}")
            found = (rate_hz, channels)
        at += size + size % 2
    return None


async def _read(number: int) -> bytes:
    """Return what is there at a file descriptor, none at its end; waits for it without holding up the loop."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(number, _settle, readable)
    except PermissionError:  # a file: it never lets us wait
        return os.read(number, READ_BYTES)
    try:
        await readable
    finally:
        loop.remove_reader(number)
    return os.read(number, READ_BYTES)


def _settle(readable: "asyncio.Future[None]") -> None:
    if not readable.done():  # the loop looks again before the reader is gone
        readable.set_result(None)


async def _stream(number: int, begun: bytes, form: WavFormat, to_hz: int) -> AsyncIterator[bytes]:
    """Yield what was read and what comes, up to the end of the audio; what follows it in a WAV is no audio."""
    mix = _Mix(form.rate_hz, to_hz)
    frame_bytes = 2 * form.channels
    left = form.size
    data = begun
    while True:
        whole = data if left is None else data[:left]
        whole = whole[: len(whole) - len(whole) % frame_bytes]
        if whole:
            frames = np.frombuffer(whole, "<i2").reshape(-1, form.channels).astype(np.float32)
            yield mix(frames / np.float32(FULL_SCALE))
        data = data[len(whole) :]
        left = None if left is None else left - len(whole)
        if left is not None and left < frame_bytes:
            break
        more = await _read(number)
        if not more:
            break
        data += more
    yield mix.finish()


class _Mix:
    """Any number of channels at any rate become one channel of 16 bit PCM at the rate that is wanted.

    16 bit samples of one channel at that rate come out as they were.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._resampler = None if from_hz == to_hz else _resampler(from_hz, to_hz)

    def __call__(self, frames: Samples) -> bytes:
        mono = frames.mean(axis=1) if frames.shape[1] > 1 else frames[:, 0]
        pcm = np.clip(np.rint(mono * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes()
        return pcm if self._resampler is None else self._resampler.push(pcm)

    def finish(self) -> bytes:
        """Return what is left."""
        return b"" if self._resampler is None else self._resampler.finish()


def _resampler(from_hz: int, to_hz: int) -> "Resampler":
    from sibyl.speech.resampling import Resampler  # few files need it

    return Resampler(from_hz, to_hz)
