"""One speech session as a pure machine: frames, hearings and times go in; messages and effects come out.

It knows no socket, no thread and no clock. Its caller hands in what happened with the time at which it did, carries out
the effects, writes what is in ``outbox``, and calls ``tick`` when ``due`` says so. States and answers are the table in
Backend/README.md, "Speech"; each row is a method here or a line of one.

    CONFIG ──config──> LOADING ──Listening──> STREAM ──end of any kind──> DRAIN ──the recogniser returns──> ENDED

A client that is cut off changes no state: the session goes on without it until it comes back or the grace is over.
What is awaited at any moment is in one table, ``_timers``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, assert_never

from sibyl.core.errors import InvalidRequest, RecogniserBusy, RecogniserUnavailable, SibylError, VendorRefused
from sibyl.speech.effects import Begin, Effect, Feed, Resume, Stop
from sibyl.speech.hearing import Heard, Listening
from sibyl.speech.inlet import END, Flush
from sibyl.speech.messages import timestamp
from sibyl.speech.outbox import Outbox
from sibyl.speech.tally import Tally
from sibyl.speech.transcript import Transcript
from sibyl.wire import speech as wire

CONFIG_S = 10.0
LOAD_S = 300.0  # a model may be on its way over a network
FRAME_BYTES = 64 * 1024
KEEP_ALIVE_S = 5.0  # how often a client should say that it is there
ACK_S = 0.5
LAG_S = 3.0
EXPIRING_S = 60.0
ERRORS = 20  # unreadable messages that are forgiven
FLUSHES = 256  # that wait for their answer
UNREAD = 8192  # messages that wait for the client, more than any replay

NORMAL, UNSUPPORTED, POLICY, TOO_BIG, INTERNAL, RESTART, LATER = 1000, 1003, 1008, 1009, 1011, 1012, 1013


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """What a session may cost."""

    idle_s: float = 30.0
    session_s: float = 10_800.0
    backlog_s: float = 30.0
    grace_s: float = 15.0
    drain_s: float = 30.0


class Phase(Enum):
    """Where a session stands."""

    CONFIG = auto()
    LOADING = auto()
    STREAM = auto()
    DRAIN = auto()
    ENDED = auto()


class Session:
    """One session. Every method takes ``now``, in seconds of a clock that never goes back, and returns effects."""

    def __init__(self, session_id: str, token: str, limits: SessionLimits, *, now: float, utc_s: float) -> None:
        """Begin in CONFIG, with a client.

        Args:
            utc_s: seconds since the Unix epoch at ``now``.
        """
        self.session_id = session_id
        self.token = token
        self.outbox = Outbox()
        self.phase = Phase.CONFIG
        self.closing: tuple[int, str] | None = None  #: close the socket with this once the outbox is empty
        self._limits = limits
        self._utc_s = utc_s - now
        self._began = now
        self._config = wire.SpeechConfig()
        self.provider = ""  #: the recogniser's name, for ``ready``
        self._model: str | None = None  # None: it does not listen yet
        self._frame_at = now  # the last of any kind
        self._load_at = now
        self._cut_at: float | None = None  # since when there is no client
        self._gone = False  # and none will come back
        self._drain_at: float | None = None  # since when only the rest is heard
        self._end: tuple[str, int, str] = ("end_of_stream", NORMAL, "Normal closure")
        self._odd = b""
        self._tally = Tally()
        self._transcript = Transcript(self.outbox, self._tally)
        self._errors = 0
        self._lagging = self._warned_late = self._expiring = False
        self._acked: tuple[float, float, float] = (0.0, 0.0, 0.0)
        self._acked_at = -math.inf

    # What the client does ------------------------------------------------------------------------------------------

    def text(self, text: str, now: float) -> list[Effect]:
        """Take a text frame."""
        self._frame_at = now
        if self.phase is Phase.ENDED:
            return []
        message = wire.read_message(text)
        if self.phase is Phase.CONFIG:
            if isinstance(message, wire.Config):
                return self.configure(message.fields, now)
            return self._refuse("bad_config", "The first message must be a JSON object with the config.", POLICY)
        match message:
            case wire.Config():
                self._error("already_configured", "The session is configured; begin another one for another config.")
            case wire.Finalize():
                return self._finalize(message.id, now)
            case wire.EndOfStream():
                return self._drain("end_of_stream", NORMAL, "Normal closure", now)
            case wire.Unknown():
                self._warn("unknown_type", "This type of message is not known; it was ignored.")
            case wire.Unreadable():
                return self._unreadable(now)
            case wire.KeepAlive():
                pass
            case _:
                assert_never(message)
        return []

    def binary(self, data: bytes, now: float) -> list[Effect]:
        """Take a binary frame."""
        self._frame_at = now
        if self.phase is Phase.CONFIG:
            return self._refuse("unsupported", "Audio came before the config; send the config first.", UNSUPPORTED)
        if self.phase in (Phase.DRAIN, Phase.ENDED):
            self._late(len(data))
            return []
        if len(data) > FRAME_BYTES:
            return self._fail("frame_too_large", f"A frame may hold {FRAME_BYTES} bytes.", TOO_BIG, now)
        whole = self._odd + data
        self._odd = whole[len(whole) & ~1 :]
        pcm = whole[: len(whole) & ~1]
        self._tally.received(pcm, len(data))
        if not pcm:
            return []
        fed: list[Effect] = [Feed(pcm)]
        return fed + self._look_at_backlog(now)

    def configure(self, fields: Mapping[str, Any], now: float) -> list[Effect]:
        """Take the config, from the first message or from a query."""
        try:
            self._config = self._transcript.config = wire.check_config(fields)
        except wire.ConfigRefused as error:
            return self._refuse(error.code, error.message, UNSUPPORTED if error.code == "unsupported" else POLICY)
        self._tally.rate_hz = self._config.sample_rate
        resume = self._config.resume
        return self.begin(now) if resume is None else [Resume(resume.token, resume.last_seq)]

    def begin(self, now: float) -> list[Effect]:
        """Begin anew with the config that was taken."""
        self.phase = Phase.LOADING
        self._load_at = now
        return [Begin(self._config)]

    def cut_off(self, now: float) -> list[Effect]:
        """The client is gone without a word. Its session goes on for the grace."""
        self._cut_at = now
        self._odd = b""  # it sends from the last whole sample on
        return self.left() if self._model is None else []  # else it has no token to come back with

    def left(self) -> list[Effect]:
        """The client is gone and will not come back."""
        ended, self._gone, self.phase = self.phase is Phase.ENDED, True, Phase.ENDED
        return [] if ended else [Stop()]

    def attach(self, last_seq: int, now: float) -> bool:
        """A client is back and has seen the messages up to ``last_seq``. False: those after it are not all kept.

        Also False: the grace is over, and the session is only waiting for its recogniser to leave.
        """
        if self._gone or not self.outbox.rewind(last_seq):
            return False
        self._cut_at = None
        self._odd = b""  # of a connection that is half open
        self._frame_at = now
        if self.phase is not Phase.ENDED:
            self._ready(now, resumed=True)
            self._ack(now)  # the last one may be lost, and who keeps to its pace would wait for it for ever
        return True

    # What the recogniser does --------------------------------------------------------------------------------------

    def heard(self, heard: Heard, now: float) -> list[Effect]:
        """Take what the recogniser emitted."""
        if self.phase is Phase.ENDED:
            return []
        if isinstance(heard, Listening):
            self._model = heard.model
            if self.phase is Phase.LOADING:
                self.phase = Phase.STREAM
            elif self.phase is Phase.DRAIN:
                self._drain_at = now
            self._frame_at = now
            self._ready(now, resumed=False)
        else:
            self._transcript.take(heard, self._utc_s + now)
        return []

    def returned(self, now: float) -> list[Effect]:
        """The recogniser is done."""
        if self.phase is Phase.ENDED:
            return []
        if self.phase is not Phase.DRAIN:
            return self.failed(SibylError(), now)
        self._session_ends(now, whole=True)
        return []

    def failed(self, error: Exception, now: float) -> list[Effect]:
        """The recogniser cannot go on. What it said about it is told only where it was meant for clients."""
        if self.phase is Phase.ENDED:
            return []
        if self._model is None:
            return self._refuse_to_begin(error)
        return self._fail("internal", "The recogniser failed; the server's log has the details.", INTERNAL, now)

    # What time does ------------------------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When ``tick`` must be called next; infinity: never."""
        return min((at for at, _ in self._timers()), default=math.inf)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        for at, act in self._timers():
            if at <= now:
                effects += act(now)
        return effects

    def shut_down(self, now: float) -> list[Effect]:
        """The server ends."""
        if self._model is None:
            return self._refuse("server_shutdown", "The server ends; connect again in a moment.", RESTART, 1.0)
        return self._drain("server_shutdown", RESTART, "The server ends", now)

    @property
    def over(self) -> bool:
        """Whether nothing of it is needed any more: it has ended, and no client is left to be told."""
        return self.phase is Phase.ENDED and self._gone

    def _timers(self) -> list[tuple[float, Callable[[float], list[Effect]]]]:
        limits, phase = self._limits, self.phase
        timers: list[tuple[float, Callable[[float], list[Effect]]]] = []
        if self._gone:
            return timers
        if self._model is not None and phase is not Phase.ENDED and self._tally.progress != self._acked:
            timers.append((self._acked_at + ACK_S, self._ack))  # first: the others may end the session
        if self._cut_at is not None:
            timers.append((self._cut_at + limits.grace_s, lambda _: self.left()))
        elif phase is Phase.CONFIG:
            timers.append((self._began + CONFIG_S, self._config_timeout))
        elif phase is Phase.LOADING or (phase is Phase.DRAIN and self._drain_at is None):
            timers.append((self._load_at + LOAD_S, self._load_timeout))
        elif phase is Phase.STREAM:
            timers.append((self._frame_at + limits.idle_s, self._idle_timeout))
        if phase is Phase.STREAM:
            timers.append((self._began + limits.session_s, self._session_over))
            if not self._expiring and limits.session_s > EXPIRING_S:
                timers.append((self._began + limits.session_s - EXPIRING_S, self._expires_soon))
        if phase is Phase.DRAIN and self._drain_at is not None:
            timers.append((self._drain_at + limits.drain_s, self._drain_timeout))
        return timers

    def _config_timeout(self, now: float) -> list[Effect]:
        return self._refuse("config_timeout", f"No config came within {CONFIG_S:.0f} s.", POLICY)

    def _load_timeout(self, now: float) -> list[Effect]:
        return self._refuse("model_unavailable", "The recogniser did not get ready in time.", INTERNAL)

    def _idle_timeout(self, now: float) -> list[Effect]:
        idle_s = self._limits.idle_s
        self._error("idle_timeout", f"Nothing came for {idle_s:g} s; send keepalive while nobody speaks.", fatal=True)
        return self._drain("idle_timeout", POLICY, "Idle", now)

    def _session_over(self, now: float) -> list[Effect]:
        return self._drain("max_session", NORMAL, "Normal closure", now)

    def _expires_soon(self, now: float) -> list[Effect]:
        self._expiring = True
        self._warn("expiring", f"The session ends in {EXPIRING_S:.0f} s; begin another one.")
        return []

    def _drain_timeout(self, now: float) -> list[Effect]:
        return self._fail("drain_timeout", "The rest could not be heard in time.", INTERNAL, now)

    def _ack(self, now: float) -> list[Effect]:
        tally = self._tally
        self._acked, self._acked_at = tally.progress, now
        received_s, processed_s, final_s = tally.progress
        self._put("ack", audio_received_s=received_s, audio_processed_s=processed_s, final_s=final_s, lag_s=tally.lag_s)
        return []

    # Parts of the above --------------------------------------------------------------------------------------------

    def _finalize(self, id: str | int | None, now: float) -> list[Effect]:
        if self._transcript.unanswered >= FLUSHES or len(self.outbox) > UNREAD:
            return self._too_many("Too many finalize: wait for the answers, and read them.", now)
        number = self._transcript.flush(id)
        # After the end of the audio it is answered behind the last final.
        return [] if self.phase is Phase.DRAIN else [Feed(Flush(number))]

    def _unreadable(self, now: float) -> list[Effect]:
        self._errors += 1
        if self._errors <= ERRORS:
            self._error("bad_message", "A text frame must be a JSON object of at most 16 KiB.")
            return []
        return self._too_many("Too many unreadable messages.", now)

    def _too_many(self, message: str, now: float) -> list[Effect]:
        if self.phase in (Phase.DRAIN, Phase.ENDED):
            return []
        if self._model is None:
            return self._refuse("too_many_errors", message, POLICY)
        self._error("too_many_errors", message, fatal=True)
        return self._drain("too_many_errors", POLICY, "Too many errors", now)

    def _late(self, size: int) -> None:
        self._tally.dropped_bytes += size
        if not self._warned_late and self.phase is Phase.DRAIN:
            self._warned_late = True
            self._warn("late_audio", "Audio came after the end; it was dropped.")

    def _look_at_backlog(self, now: float) -> list[Effect]:
        lag_s = self._tally.lag_s
        if lag_s > self._limits.backlog_s:
            message = "Audio came faster than it can be heard; keep to the pace of the acks, or try again later."
            self._error("overloaded", message, fatal=True, retry_after_s=RecogniserBusy.retry_after_s)
            return self._drain("overloaded", LATER, "Overloaded", now)
        if lag_s > LAG_S and not self._lagging:
            self._lagging = True
            self._warn("lag", f"{lag_s:.1f} s of audio wait to be heard.")
        elif lag_s < LAG_S / 2:
            self._lagging = False
        return []

    def _drain(self, reason: str, code: int, words: str, now: float) -> list[Effect]:
        """Take no more audio, have the rest heard, end with this."""
        if self.phase not in (Phase.STREAM, Phase.LOADING):
            return []
        self.phase = Phase.DRAIN
        self._drain_at = None if self._model is None else now  # it is loading, and has heard nothing
        self._end = (reason, code, words)
        self._transcript.audio_ended = True
        self._tally.dropped_bytes += len(self._odd)
        return [Feed(END)]

    def _fail(self, code: str, message: str, close: int, now: float) -> list[Effect]:
        """End without the rest."""
        if self.phase is Phase.ENDED:
            return []
        if self._model is None:
            return self._refuse(code, message, close)
        self._error(code, message, fatal=True)
        self._end = (code, close, code)
        self._session_ends(now, whole=False)
        return [Stop()]

    def _refuse(self, code: str, message: str, close: int, retry_after_s: float | None = None) -> list[Effect]:
        """End before it began."""
        if self.phase is Phase.ENDED:
            return []
        self._error(code, message, fatal=True, retry_after_s=retry_after_s)
        self.phase, self.closing = Phase.ENDED, (close, code)
        return [Stop()]

    def _refuse_to_begin(self, error: Exception) -> list[Effect]:
        match error:
            case RecogniserUnavailable():
                return self._refuse("model_unavailable", error.message, INTERNAL)
            case RecogniserBusy():
                return self._refuse("overloaded", error.message, LATER, error.retry_after_s)
            case VendorRefused():
                return self._refuse("auth", error.message, INTERNAL)
            case InvalidRequest():
                return self._refuse("bad_config", error.message, POLICY)
        return self._refuse("internal", "The recogniser failed; the server's log has the details.", INTERNAL)

    def _session_ends(self, now: float, *, whole: bool) -> None:
        reason, code, words = self._end
        self._transcript.finish(self._utc_s + now, whole=whole)
        totals = self._tally.totals(duration_s=now - self._began)
        self._put("session_ended", reason=reason, session_id=self.session_id, totals=totals)
        self.phase, self.closing = Phase.ENDED, (code, words)

    def _ready(self, now: float, *, resumed: bool) -> None:
        limits = self._limits
        received_s, _, final_s = self._tally.progress
        self._put(
            "ready",
            message="Listening.",
            session_id=self.session_id,
            resume_token=self.token,
            provider=self.provider,
            model=self._model,
            limits={
                "idle_s": limits.idle_s,
                "max_session_s": limits.session_s,
                "max_frame_bytes": FRAME_BYTES,
                "max_backlog_s": limits.backlog_s,
                "keepalive_s": KEEP_ALIVE_S,
                "grace_s": limits.grace_s,
                "drain_s": limits.drain_s,
            },
            expires_at=self._stamp(self._began + limits.session_s),
            resumed=resumed,
            audio_received_s=received_s,
            final_s=final_s,
        )

    def _put(self, type: str, **fields: Any) -> None:
        self.outbox.put({"type": type, **fields})

    def _warn(self, code: str, message: str) -> None:
        self._put("warning", code=code, message=message)

    def _error(self, code: str, message: str, *, fatal: bool = False, retry_after_s: float | None = None) -> None:
        more = {} if retry_after_s is None else {"retry_after_s": retry_after_s}
        self._put("error", code=code, message=message, fatal=fatal, **more)

    def _stamp(self, now: float) -> str:
        return timestamp(self._utc_s + now)
