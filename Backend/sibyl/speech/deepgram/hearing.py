"""One recognition by Deepgram, over as many connections as it takes.

The bridge's thread sends: audio, KeepAlive while none comes, Finalize, CloseStream. The connection's own thread listens
and emits what is heard, straight into the bridge's crossing. Whichever of the two fails, the other one is woken.

A connection that breaks costs no word and repeats none: audio is kept until it was told in a final, and sent again from
there. It is never thrown away otherwise: with a minute of it, sending waits for finals. Nothing waits without a limit
(``Patience``); a peer that brings nothing to what is awaited is left as if it had broken.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sibyl.core.errors import RecogniserBusy, RecogniserFailed
from sibyl.speech.deepgram.kept import KeptAudio
from sibyl.speech.deepgram.link import Link, LinkLost, OnMessage
from sibyl.speech.deepgram.transcript import Transcript
from sibyl.speech.hearing import Heard, Listening
from sibyl.speech.inlet import AudioInlet, Flush
from sibyl.speech.recogniser import OnHeard, RecognitionRequest

logger = logging.getLogger(__name__)

TAIL_S = 0.05  # no word is so short; Deepgram may leave such a rest out of its last result
CAUGHT_UP_S = 0.5
LOOK_S = 0.1  # so often a thread that waits for audio looks at its connection
PIECE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long what is waited for."""

    keep_alive_s: float = 4.0  #: without audio until KeepAlive is sent; Deepgram closes after 10 s
    flush_s: float = 3.0  #: without progress, until a flush counts as answered
    send_s: float = 10.0  #: a send that blocks for so long breaks the connection
    silence_s: float = 8.0  #: without progress, where answers are due: at the end, or with all that is kept
    summary_s: float = 1.0  #: from the summary behind all finals until Deepgram closes
    kept_s: float = 60.0  #: most audio without a final
    reconnects: int = 3  #: in a row, without a final between them
    pause_s: float = 0.25  #: before the first of them; doubled for each further one
    outage_s: float = 20.0  #: after so long without a connection no further try is begun


Connect = Callable[[OnMessage, Callable[[], None]], Link]
"""Opens a connection; raises as ``Link`` does."""


class DeepgramHearing:
    """One call of ``recognise``."""

    def __init__(
        self,
        request: RecognitionRequest,
        audio: AudioInlet,
        on_heard: OnHeard,
        *,
        connect: Connect,
        model: str,
        patience: Patience,
    ) -> None:
        """Prepare it; ``run`` does all."""
        self._abort = request.abort
        self._audio = audio
        self._on_heard = on_heard
        self._connect = connect
        self._model = model
        self._patience = patience
        self._transcript = Transcript(interim=request.interim, words=request.words, flush_s=patience.flush_s)
        self._kept = KeptAudio(request.sample_rate_hz)
        self._lock = threading.Lock()  # guards the transcript, and keeps what is emitted in order
        self._news = threading.Event()  # a message, the end of a connection, or the abort
        self._failure: BaseException | None = None  # what ``on_heard`` raised
        self._link: Link | None = None
        self._listening = False
        self._lost = 0  # connections in a row
        self._final_s = 0.0  # when the connection began
        self._sent_at = 0.0
        self._ending = False  # no audio comes any more
        self._crowded_at: float | None = None  # since when sending waits for finals
        self._asked = False  # for them
        self._summed_up_s: float | None = None  # what was told when a connection said that it was all

    def run(self) -> None:
        """Hear until the end of the audio; see ``Recogniser.recognise``."""
        with self._abort.hook(self._wake):
            try:
                self._open()
                while not self._done():
                    try:
                        self._go_on()
                    except LinkLost as lost:
                        self._leave(lost)
                        self._open()
                self._close()
                self._tell(lambda now_s: self._transcript.end())
                self._raise_failure()
            finally:
                self._close()
                self._report()

    # Sending -------------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        link, now_s = self._open_link(), time.monotonic()
        self._raise_failure()
        if link.ended.is_set():
            if self._done():
                return
            raise LinkLost(link.fault or "closed too early")
        self._kept.forget(self._transcript.settled_s)
        if self._transcript.flushing:
            self._tell(self._transcript.overdue)
        if self._ending:
            self._wait_for_rest(now_s)
        elif self._kept.end_s - self._kept.first_s >= self._patience.kept_s:
            self._wait_for_finals(link, now_s)
        else:
            self._crowded_at = None
            self._send_next(link, now_s)

    def _send_next(self, link: Link, now_s: float) -> None:
        item = self._audio.take(LOOK_S, most_bytes=PIECE_BYTES)
        if item is None:
            self._keep_alive(link, now_s)
        elif isinstance(item, bytes):
            self._kept.add(item)  # first: a send that fails must not lose it
            self._transcript.audio_s = self._kept.end_s
            link.send_audio(item)
            self._sent_at = time.monotonic()
        elif isinstance(item, Flush):
            self._tell(lambda now_s: self._transcript.flush(item.number, self._kept.end_s, now_s))
            if self._transcript.flushing:
                link.finalize()
        else:
            self._ending = True
            self._transcript.moved_s = time.monotonic()
            self._transcript.complete = False
            link.finish()

    def _keep_alive(self, link: Link, now_s: float) -> None:
        if now_s - self._sent_at >= self._patience.keep_alive_s:
            link.keep_alive()
            self._sent_at = now_s

    def _wait_for_rest(self, now_s: float) -> None:
        if not self._done():
            self._wait_until(self._limit_of_rest(), now_s)

    def _wait_for_finals(self, link: Link, now_s: float) -> None:
        if self._crowded_at is None:
            self._crowded_at, self._asked = now_s, False
        if not self._asked and self._transcript.processed_s + CAUGHT_UP_S >= self._kept.end_s:
            self._asked = True  # it is not behind, it has just not made up its mind
            link.finalize()
        self._keep_alive(link, now_s)
        self._wait_until(max(self._crowded_at, self._transcript.moved_s) + self._patience.silence_s, now_s)

    def _wait_until(self, limit_s: float, now_s: float) -> None:
        if now_s >= limit_s:
            raise LinkLost("it went silent")
        self._wait(limit_s - now_s)

    def _wait(self, most_s: float) -> None:
        self._news.wait(max(0.0, min(LOOK_S, most_s)))
        self._news.clear()

    def _done(self) -> bool:
        """Whether all was told: to the end of the audio, or as much of it as Deepgram will tell."""
        if not self._ending or self._link is None:
            return False
        over = self._link.ended.is_set()  # first: what the listener told before it ended is told
        told, complete = self._told_to_end(), self._transcript.complete
        if over and told:
            return True
        # A summary alone proves nothing, there may be one in between. But the second one for the same rest does.
        complete = complete and (told or self._summed_up_s == self._transcript.final_s)
        over = over and self._link.fault is None
        return complete and (over or time.monotonic() >= self._limit_of_rest())

    def _told_to_end(self) -> bool:
        return not self._transcript.pending and self._transcript.processed_s + TAIL_S >= self._kept.end_s

    def _limit_of_rest(self) -> float:
        summed_up = self._transcript.complete and self._told_to_end()
        return self._transcript.moved_s + (self._patience.summary_s if summed_up else self._patience.silence_s)

    # Connections ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Connect, try by try, and send again what was not told yet."""
        since_s = time.monotonic()
        while True:
            self._abort.raise_if_requested()
            try:
                self._open_once()
                return
            except LinkLost as lost:
                self._leave(lost)
                if time.monotonic() - since_s > self._patience.outage_s:
                    raise _given_up(lost) from lost
            except RecogniserBusy as busy:
                if not self._listening:
                    raise
                self._leave(LinkLost(busy.message))

    def _open_once(self) -> None:
        self._link = link = self._connect(self._on_message, self._news.set)
        if self._abort.requested:
            link.hang_up()  # the request came before there was anything to hang up
        now_s = self._sent_at = time.monotonic()
        self._crowded_at = None
        self._transcript.begin(self._kept.first_s, now_s)
        self._final_s = self._transcript.final_s
        if not self._listening:
            self._listening = True
            self._on_heard(Listening(model=self._model))
        link.listen()
        logger.info(
            "Connected to Deepgram",
            extra={
                "action": "deepgram_connected",
                "request_id": link.request_id,
                "again_s": round(self._kept.end_s - self._kept.first_s, 3),
            },
        )
        for piece in self._kept:
            link.send_audio(piece)
        if self._ending:
            link.finish()
        elif self._transcript.flushing:
            link.finalize()

    def _leave(self, lost: LinkLost) -> None:
        """Close what is left of a connection, and rest before another one; raise if it is no use or not wanted."""
        self._close()
        self._raise_failure()
        self._abort.raise_if_requested()
        if self._transcript.final_s > self._final_s:
            self._lost = 0
        self._final_s = self._transcript.final_s
        self._kept.forget(self._transcript.settled_s)
        if self._ending and self._transcript.complete:
            self._summed_up_s = self._transcript.final_s
        self._lost += 1
        logger.warning(
            "Deepgram was lost: %s",
            lost,
            extra={"action": "deepgram_lost", "in_a_row": self._lost, "listened": self._listening},
        )
        if self._lost > self._patience.reconnects:
            raise _given_up(lost) from lost
        rest_until_s = time.monotonic() + self._patience.pause_s * 2 ** (self._lost - 1)
        while not self._abort.requested and (rest_s := rest_until_s - time.monotonic()) > 0:
            self._news.clear()
            if not self._abort.requested:
                self._news.wait(rest_s)

    def _open_link(self) -> Link:
        if self._link is None:
            raise LinkLost("it was closed")
        return self._link

    def _close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    # What is heard -------------------------------------------------------------------------------------------------

    def _on_message(self, message: object) -> None:
        """Take a message, in the connection's thread. Never raises: that would end the SDK's listening."""
        self._tell(lambda now_s: self._transcript.take(message, now_s))
        self._news.set()

    def _tell(self, hear: Callable[[float], list[Heard]]) -> None:
        with self._lock:
            if self._failure is not None:
                return
            for heard in hear(time.monotonic()):
                try:
                    self._on_heard(heard)
                except BaseException as error:  # the abort's reason may be a cancellation
                    self._failure = error
                    self._wake()
                    return

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        """Have both threads look: there is a failure, or the abort. Never blocks."""
        self._news.set()
        link = self._link
        if link is not None:
            link.hang_up()

    def _report(self) -> None:
        if self._transcript.ignored:
            logger.warning(
                "%d messages of Deepgram could not be read",
                self._transcript.ignored,
                extra={"action": "deepgram_ignored", "messages": self._transcript.ignored},
            )


def _given_up(lost: LinkLost) -> RecogniserFailed:
    return RecogniserFailed(f"Deepgram is out of reach ({lost}). `sibyl doctor` looks at the connection.")
