"""An audio file on its way to a recogniser: decoded in a process of its own, piece by piece, as it is taken.

Nothing is held but the file and a piece, however long the sound is. The clock of the audio is that of the whole file,
also for who begins in the middle: it is decoded from its begin and what comes before is dropped, since no codec
promises to seek exactly.
"""

import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sibyl.bridge.abort import Abort
from sibyl.core.errors import AudioTooLong, AudioUnreadable, RecogniserFailed, RecogniserUnavailable, SibylError
from sibyl.speech import audio_decoder
from sibyl.speech.audio_decoder import LONGEST_S, RATE_HZ, SAMPLE_BYTES
from sibyl.speech.inlet import END, AudioInlet, Taken

logger = logging.getLogger(__name__)

BLOCK_BYTES = 64 * 1024
STALL_S = 60.0  # a decoder that gives nothing for so long is stuck
AHEAD_S = 60.0  # taken and not yet processed; who only looks whether there is more gets none above it
_LOOK_S = 0.05
_END_S = 5.0

_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})  # no file causes these

_TOO_LONG = f"The recording is longer than {LONGEST_S / 3600:.0f} hours. Cut it into parts."
_NO_LIBRARY = "Audio files cannot be decoded here: install soundfile and soxr (pip install soundfile soxr)."


class AudioFile:
    """The sound of one file, from front to back: signed 16 bit, little-endian, one channel, 16 kHz."""

    def __init__(self, decoder: "subprocess.Popen[bytes]", abort: Abort) -> None:
        self.samples = 0  #: read so far
        self._decoder = decoder
        self._abort = abort
        self._odd = b""

    @property
    def read_s(self) -> float:
        """Seconds of audio read so far; after the end, its length."""
        return self.samples / RATE_HZ

    def read(self, most_bytes: int = BLOCK_BYTES) -> bytes:
        """Return the next piece, whole samples; empty at the end.

        Raises:
            AudioUnreadable, AudioTooLong: it cannot be decoded, or not to its end.
            RecogniserUnavailable: the decoder's libraries are missing.
            Exception: the reason of the abort.
        """
        assert self._decoder.stdout is not None
        pipe, piece = self._decoder.stdout.fileno(), self._odd
        while len(piece) < SAMPLE_BYTES:
            ready, _, _ = select.select([pipe], [], [], STALL_S)
            more = os.read(pipe, most_bytes - len(piece)) if ready else b""
            self._abort.raise_if_requested()
            if not more:
                self._require_good_end(stuck=not ready)
                return b""
            piece += more
        whole = len(piece) - len(piece) % SAMPLE_BYTES
        piece, self._odd = piece[:whole], piece[whole:]
        self.samples += whole // SAMPLE_BYTES
        return piece

    def skip(self, seconds: float) -> None:
        """Read and drop the sound before this moment. Raises as ``read``."""
        left = round(seconds * RATE_HZ) - self.samples
        while left > 0 and (piece := self.read(min(BLOCK_BYTES, left * SAMPLE_BYTES))):
            left -= len(piece) // SAMPLE_BYTES

    def _require_good_end(self, *, stuck: bool) -> None:
        if stuck:
            self._decoder.kill()
        code = self._decoder.wait(_END_S)
        match code:
            case 0:
                return
            case audio_decoder.UNREADABLE:
                raise AudioUnreadable()
            case audio_decoder.TOO_LONG:
                raise AudioTooLong(_TOO_LONG)
            case audio_decoder.NO_LIBRARY:
                raise RecogniserUnavailable(_NO_LIBRARY)
        logger.warning("The decoder of an audio file died", extra={"action": "decoder_died", "code": code})
        if not stuck and -code in _FROM_OUTSIDE:
            raise RecogniserFailed("The decoder of the file was ended from outside. Send the file again.")
        raise AudioUnreadable()


@contextmanager
def opened(audio: bytes, abort: Abort) -> Iterator[AudioFile]:
    """Decode a file in a process of its own while the block runs. The abort ends it at once.

    Raises:
        Exception: the reason of the abort.
    """
    decoder = subprocess.Popen(
        [sys.executable, "-P", "-m", audio_decoder.__name__],  # -P: what lies in the working directory is not ours
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the worker, which lets what runs finish
    )
    assert decoder.stdin is not None and decoder.stdout is not None
    try:
        with abort.hook(decoder.kill):
            with suppress(BrokenPipeError):  # its exit code will say why
                try:
                    decoder.stdin.write(audio)
                finally:
                    decoder.stdin.close()
            yield AudioFile(decoder, abort)
    finally:
        decoder.kill()
        decoder.stdout.close()
        decoder.wait()


class FileInlet(AudioInlet):
    """The inlet of a file: each piece is decoded when the recogniser comes for it."""

    def __init__(self, file: AudioFile, abort: Abort) -> None:
        super().__init__(abort)
        self.failure: SibylError | None = None  #: why the file could not be read to its end
        self._file = file
        self._begin_s = file.read_s
        self._processed_s = 0.0
        self._news = threading.Condition()

    def processed(self, audio_s: float) -> None:
        """Take note of how far the recogniser is."""
        with self._news:
            self._processed_s = audio_s
            self._news.notify_all()

    def prefetch(self) -> None:
        """Decode the first piece, so that a file that is no audio fails at once. Raises as ``AudioFile.read``."""
        self.put(self._file.read() or END)

    def take(self, timeout_s: float | None = None, *, most_bytes: int = BLOCK_BYTES) -> Taken | None:
        """As in an inlet of live audio; None also when far more was taken than processed."""
        if not self._items:
            if timeout_s is not None and not self._wants_more(min(timeout_s, _LOOK_S)):
                self._abort.raise_if_requested()
                return None
            try:
                piece = self._file.read(most_bytes)
            except SibylError as error:
                # Through the abort, so that it comes out of the recogniser as it is, whatever lies between.
                self.failure = error
                self._abort.request(error)
                piece = b""
            self.put(piece or END)
        return super().take(timeout_s, most_bytes=most_bytes)

    def _wants_more(self, wait_s: float) -> bool:
        def near() -> bool:
            return self._file.read_s - self._begin_s - self._processed_s < AHEAD_S

        with self._news:
            return self._news.wait_for(near, wait_s)
