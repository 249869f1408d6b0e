"""The program that decodes one audio file: the file on stdin, PCM on stdout, and an exit code that says how it ended.

A process of its own, since libsndfile and its codecs are C code that reads what anybody sends: a file on which they
crash, loop or ask for all memory ends this process and nothing else. It reads the whole file before it writes, knows no
setting and no secret of ours, and ends when nobody reads it any more.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import Final

RATE_HZ: Final = 16_000
SAMPLE_BYTES: Final = 2
LONGEST_S: Final = 4 * 3600.0
CHANNELS: Final = 32
RATES_HZ: Final = (1_000, 384_000)
BLOCK_SAMPLES: Final = 1 << 18  # of all channels together: 1 MiB as decoded
MEMORY_BYTES: Final = 512 * 1024 * 1024  # beside what the libraries take to start
CPU_S: Final = 600  # four hours of MP3 take about half a minute
FORMATS: Final = frozenset({"WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF"})

# How it ended. Any other code, or a signal, is a crash.
UNREADABLE, TOO_LONG, NO_LIBRARY = 3, 4, 5


class TooLong(Exception):
    """It goes on after ``LONGEST_S``."""


class Unreadable(Exception):
    """It is no audio, or audio of a kind that we do not take."""


def main() -> int:
    """Decode stdin to stdout; return the exit code."""
    try:
        import soundfile  # noqa: F401

        import sibyl.speech.resampling  # noqa: F401
    except (ImportError, OSError):
        return NO_LIBRARY
    _limit()
    audio = sys.stdin.buffer.read()
    out = sys.stdout.buffer
    try:
        for block in decoded(audio):
            out.write(block)
        out.flush()
    except TooLong:
        return TOO_LONG
    except (Unreadable, MemoryError):
        return UNREADABLE
    except BrokenPipeError:  # nobody wants the rest
        pass
    return 0


def decoded(audio: bytes) -> Iterator[bytes]:
    """Yield the file's sound as PCM: signed 16 bit, little-endian, one channel, 16 kHz.

    Raises:
        Unreadable: libsndfile does not read it.
        TooLong: it is longer than ``LONGEST_S``; also after a part of it was yielded, where the file lies about it.
    """
    import numpy as np
    import soundfile

    from sibyl.speech.resampling import Resampler

    try:
        file = soundfile.SoundFile(BytesIO(audio))
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError):
        raise Unreadable from None
    with file:
        rate_hz, channels = file.samplerate, file.channels
        if file.format not in FORMATS or not RATES_HZ[0] <= rate_hz <= RATES_HZ[1] or channels > CHANNELS:
            raise Unreadable
        resampler = None if rate_hz == RATE_HZ else Resampler(rate_hz, RATE_HZ)
        most, taken = round(LONGEST_S * rate_hz), 0
        while True:
            try:
                samples = file.read(BLOCK_SAMPLES // channels, dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError):
                raise Unreadable from None
            if not len(samples):
                break
            taken += len(samples)
            if taken > most:
                raise TooLong
            # Not as integers from the library: it would take floats of -1 to 1 for whole numbers.
            mono = np.clip(np.nan_to_num(samples.mean(axis=1)), -1.0, 1.0)
            pcm = np.clip(np.rint(mono * 32768.0), -32768, 32767).astype("<i2").tobytes()
            yield pcm if resampler is None else resampler.push(pcm)
        if resampler is not None:
            yield resampler.finish()


def _limit() -> None:
    """Take no more memory and time than any file needs, and leave no picture of the memory when it crashes."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, CPU_S)
    with suppress(OSError), open("/proc/self/statm", encoding="ascii") as statm:  # only Linux has it, and counts so
        _lower(resource.RLIMIT_AS, int(statm.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES)


def _lower(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(what, (most, hard))


if __name__ == "__main__":
    sys.exit(main())
