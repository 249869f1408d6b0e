"""The embedded recogniser: PocketSphinx and its English model, which come in one wheel; nothing is downloaded.

Each session computes in a child process, at about a tenth of real time on one core. A child that dies is replaced, and
the new one hears again what was not told in finals yet, so neither a word is lost nor a final told twice. It has no
usable confidence: that of words and finals is None.
"""

import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from sibyl.core.errors import InvalidRequest, RecogniserFailed, RecogniserUnavailable
from sibyl.speech.hearing import Final, Flushed, Listening, Partial, Processed, SpeechStarted, UtteranceEnd
from sibyl.speech.inlet import END, AudioInlet, Flush
from sibyl.speech.pocketsphinx.child import Child, ChildDied, Children
from sibyl.speech.pocketsphinx.messages import FRAME_SAMPLES, RATE_HZ, Ask, Begin, Reply, ResumePoint, Told
from sibyl.speech.recogniser import OnHeard, RecognitionRequest

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK_S = 0.2  # decoded at a time; an abort waits for no more
RECALLED_SAMPLES = 640 * FRAME_SAMPLES  # 19.2 s before the resume point: a new child learns the noise from them
DEATHS = 2  # in the same words, that are mended
_PIECE_BYTES = 32_000  # audio of one message, which must fit into a pipe
_MISSING = "PocketSphinx cannot be used: {why}. Get it with: .venv/bin/pip install --force-reinstall pocketsphinx"


class PocketSphinxRecogniser:
    """PocketSphinx, for some sessions at a time."""

    name = "pocketsphinx"

    def __init__(self, *, processes: int = 10) -> None:
        """Start nothing yet.

        Args:
            processes: at most, and so sessions at a time.
        """
        self._children = Children(processes)

    def recognise(self, request: RecognitionRequest, audio: AudioInlet, on_heard: OnHeard) -> None:
        """Take audio until its end; see ``Recogniser.recognise``. Only English is heard."""
        if request.language.partition("-")[0].lower() != "en":
            raise InvalidRequest(
                f"PocketSphinx hears English only, not {request.language!r}; ask for another provider."
            )
        if not _installed():
            raise RecogniserUnavailable(_MISSING.format(why="it is not installed"))
        session = _Session(self._children, request, on_heard)
        try:
            session.run(audio)
        finally:
            session.leave()

    def check(self) -> str:
        """Say which version is installed; see ``Recogniser.check``."""
        if not _installed():
            raise RecogniserUnavailable(_MISSING.format(why="it is not installed"))
        return f"pocketsphinx {importlib.metadata.version('pocketsphinx')}, English"

    def close(self) -> None:
        """End all child processes. No recognition may be running."""
        self._children.close()


def _installed() -> bool:
    return importlib.util.find_spec("pocketsphinx") is not None


class _Session:
    """One session: its child, and the audio that another child would need."""

    def __init__(self, children: Children, request: RecognitionRequest, on_heard: OnHeard) -> None:
        self._children = children
        self._request = request
        self._on_heard = on_heard
        self._abort = request.abort
        self._child: Child | None = None
        self._informed = False
        self._point = ResumePoint()
        self._kept = bytearray()  # audio as the child gets it: from a while before the point, up to what it took
        self._kept_from = 0
        self._deaths = 0  # since the point moved
        self._started = False  # a begin of speech was told, and no end
        self._received = 0  # samples, at the session's own rate
        self._processed_s = 0.0

    def run(self, audio: AudioInlet) -> None:
        # Not before it is needed: it imports numpy, and the API starts without.
        from sibyl.speech.resampling import Resampler

        rate_hz = self._request.sample_rate_hz
        resampler = Resampler(rate_hz, RATE_HZ)
        chunk_bytes = 2 * round(CHUNK_S * rate_hz)
        self._on_heard(Listening(model=self._listening()))
        while True:
            item = audio.take(most_bytes=chunk_bytes)
            if isinstance(item, bytes):
                self._received += len(item) // 2
                self._hear(resampler.push(item))
            elif isinstance(item, Flush):
                self._stop(resampler.finish())
                self._on_heard(Flushed(number=item.number))
            elif item is END:
                self._stop(resampler.finish())
                return

    def leave(self) -> None:
        """Give the child back; it may still owe an answer, which the next session waits for."""
        if self._child is not None:
            self._children.give_back(self._child)

    def _hear(self, pcm: bytes) -> None:
        if not pcm:
            return
        reply = self._ask(Ask.HEAR, pcm)
        self._kept += pcm
        self._take(reply)
        self._processed(min(reply.processed / RATE_HZ, self._received / self._request.sample_rate_hz))

    def _stop(self, rest: bytes) -> None:
        self._hear(rest)
        self._take(self._ask(Ask.STOP, b""))
        self._processed(self._received / self._request.sample_rate_hz)

    def _take(self, reply: Reply, *, again: bool = False) -> None:
        """Tell what a reply says, and let go of audio that nobody will need.

        Args:
            again: its audio was heard before, by a child that died.
        """
        if reply.point.at > self._point.at:
            self._deaths = 0
        self._point = reply.point
        behind = min((reply.point.at - self._kept_from) // FRAME_SAMPLES * FRAME_SAMPLES, RECALLED_SAMPLES)
        del self._kept[: 2 * (reply.point.at - behind - self._kept_from)]
        self._kept_from = reply.point.at - behind
        for told in reply.told:
            if not again or not (isinstance(told, Partial) or (isinstance(told, SpeechStarted) and self._started)):
                self._tell(told)

    def _tell(self, told: Told) -> None:
        self._started = not isinstance(told, UtteranceEnd)
        if isinstance(told, Partial | Final) and not self._request.words:
            told = replace(told, words=())
        self._on_heard(told)

    def _processed(self, audio_s: float) -> None:
        self._processed_s = max(self._processed_s, audio_s)
        self._on_heard(Processed(audio_s=self._processed_s))

    # The child, whoever it is ---------------------------------------------------------------------------------------

    def _listening(self) -> str:
        return self._mended(lambda: self._ready().greeting(self._abort).model) or ""

    def _ask(self, ask: Ask, body: bytes) -> Reply:
        return self._mended(lambda: self._ready().ask(ask, body, self._abort))

    def _mended(self, act: Callable[[], T]) -> T:
        """Act with a child, and again with another one when it dies."""
        while True:
            try:
                return act()
            except ChildDied as died:
                self._deaths += 1
                logger.warning(
                    "A recogniser's process died", extra={"action": "recogniser_died", "deaths": self._deaths}
                )
                if self._deaths > DEATHS:
                    raise RecogniserFailed("The recogniser's process died again and again.") from died
                assert self._child is not None
                self._child, self._informed = self._children.replace(self._child), False

    def _ready(self) -> Child:
        """Return a child that has heard what the one before it had."""
        if self._child is None:
            self._child = self._children.take()
        if not self._informed:
            self._inform(self._child)
            self._informed = True
        return self._child

    def _inform(self, child: Child) -> None:
        if why := child.greeting(self._abort).missing:
            raise RecogniserUnavailable(_MISSING.format(why=why))
        begin = Begin(
            at=self._kept_from,
            point=self._point,
            endpointing_s=self._request.endpointing_s,
            interim=self._request.interim,
        )
        child.ask(Ask.BEGIN, begin.body(), self._abort)
        known = 2 * (self._point.at - self._kept_from)
        kept = bytes(self._kept)  # what is taken from it on the way is not taken from this
        for pcm in _pieces(kept[:known]):
            child.ask(Ask.RECALL, pcm, self._abort)
        for pcm in _pieces(kept[known:]):
            self._take(child.ask(Ask.HEAR, pcm, self._abort), again=True)


def _pieces(pcm: bytes) -> Iterator[bytes]:
    return (pcm[start : start + _PIECE_BYTES] for start in range(0, len(pcm), _PIECE_BYTES))
