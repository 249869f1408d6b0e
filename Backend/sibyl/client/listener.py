"""One speech session over as many connections as that takes, as a machine: messages and audio in, frames out.

It promises that no sample is lost and none is heard twice: audio is kept until the server has told it in finals, and a
new connection goes on where the server says that it stopped. A session that the server does not know any more, or that
it ended before the audio did, is followed by another one, which gets what was not told. It knows no socket, no clock;
`Listening` lends it its own::

    while not listener.over:
        connect, send listener.config()
            send what listener.take(now) returns, until it returns None
            hand out what listener.receive(text) returns
        wait listener.cut(now).wait_s

All places in the audio are bytes from the beginning of the source. A session counts from its own beginning, so times
are moved: who listens sees one clock.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import random

from sibyl.client.call import pause_of
from sibyl.client.errors import CannotConnect, Refused, ServerFailed, UnexpectedReply
from sibyl.client.reconnect import Pause, Reconnect
from sibyl.client.tasks import optional, read_object, required
from sibyl.core import errors
from sibyl.core.errors import SibylError

SAMPLE_BYTES = 2
FRAME_S = 0.25  # of audio in a frame, at most
KEPT_S = 60.0  # of audio that was sent and not yet told in finals; what is older is given up
FINALIZE = '{"type": "finalize", "id": "end"}'
END_OF_STREAM = '{"type": "end_of_stream"}'
KEEP_ALIVE = '{"type": "keepalive"}'

_TIMES = ("t", "start", "end", "last_word_end", "audio_received_s", "audio_processed_s", "final_s")
# The server ended the session, not the speech: all that it got was told, and another session gets the rest.
_GOES_ON = frozenset({"max_session", "server_shutdown", "overloaded", "idle_timeout"})
_ERRORS: Mapping[str, type[SibylError]] = {
    "overloaded": errors.RecogniserBusy,
    "model_unavailable": errors.RecogniserUnavailable,
    "auth": errors.VendorRefused,
    "internal": errors.RecogniserFailed,
    "drain_timeout": errors.RecogniserFailed,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechWish:
    """What a session shall be like. None leaves it to the server."""

    sample_rate_hz: int = 16_000  #: of the audio: signed 16 bit, little-endian, one channel; 8,000 to 48,000
    language: str | None = None
    provider: str | None = None
    interim: bool = True  #: whether partials are wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One message of the server, with its times on the clock of the source."""

    type: str
    message: Mapping[str, object]

    @property
    def text(self) -> str:
        """What was said, of a ``partial`` or a ``final``; what is to be said, of a ``warning`` or an ``error``."""
        return optional(self.message, "text", str) or optional(self.message, "message", str) or ""

    def seconds(self, name: str) -> float:
        """Return one of its times, or raise UnexpectedReply."""
        return _number(self.message, name)


class Listener:
    """One speech, from its first sample to its last word."""

    def __init__(
        self,
        wish: SpeechWish,
        *,
        retry_s: float | None,
        give_up_s: float | None,
        jitter: Callable[[], float] = random,
    ) -> None:
        """Begin at the first sample.

        Args:
            retry_s: how long to try for the first session; 0 tries once, None is for ever.
            give_up_s: the same for a connection that was cut later.
        """
        self._wish = wish
        self._jitter = jitter
        self._give_up_s = give_up_s
        self._reconnect = Reconnect(give_up_s=retry_s)
        self._kept = bytearray()  # audio from _base on
        self._base = self._sent = self._processed = self._told = 0
        self._origin = 0  # where the present session began
        self._source_ended = False
        self._said_last = self._finalized = self._said_end = False  # on this connection
        self._ready = False  # on this connection
        self._token: str | None = None
        self._last_seq = 0
        self._frame_bytes = self._bytes(FRAME_S)
        self._window_bytes = self._bytes(KEPT_S / 4)
        self._keep_alive_s = 5.0
        self._spoke_at = 0.0  # when the last frame was sent
        self._fault: SibylError | None = None  # why the server is about to end the session
        self.lost_s = 0.0  #: audio that had to be given up before it was told
        self.over = False  #: all was told

    # Audio ---------------------------------------------------------------------------------------------------------

    def put(self, audio: bytes) -> None:
        """Add audio. Any length: half a sample waits for its other half."""
        if not self._source_ended:
            self._kept += audio

    def end(self, *, drop_unsent: bool = False) -> None:
        """No audio comes any more. ``drop_unsent``: what was not sent yet is not sent any more."""
        if drop_unsent:
            del self._kept[self._sent - self._base :]
        self._source_ended = True

    @property
    def unsent_s(self) -> float:
        """Audio that waits to be sent."""
        return self._seconds(self._end - self._sent)

    @property
    def processed_s(self) -> float:
        """Audio that was heard."""
        return self._seconds(self._processed)

    # A connection --------------------------------------------------------------------------------------------------

    def config(self) -> str:
        """Return the first frame of a connection."""
        wish = self._wish
        fields: dict[str, object] = {"type": "config", "sample_rate": wish.sample_rate_hz, "encoding": "pcm_s16le"}
        fields |= {"channels": 1, "interim": wish.interim}
        if wish.language is not None:
            fields["language"] = wish.language
        if wish.provider is not None:
            fields["provider"] = wish.provider
        if self._token is not None:
            fields["resume"] = {"token": self._token, "last_seq": self._last_seq}
        self._ready = self._said_last = self._finalized = self._said_end = False
        self._fault = None
        return json.dumps(fields)

    def take(self, now: float) -> bytes | str | None:
        """Return the next frame to send; None: nothing until audio or a message comes, or ``quiet_until``."""
        if not self._ready or self._said_end:
            return None
        frame: bytes | str | None = None
        unsent = (self._end - self._sent) & ~1
        if unsent:
            # At the pace of the acks: what runs ahead of the recogniser would end the session.
            room = self._window_bytes - (self._sent - self._processed)
            size = min(unsent, self._frame_bytes, room) & ~1
            if size > 0:
                at = self._sent - self._base
                frame = bytes(self._kept[at : at + size])
                self._sent += size
        elif self._source_ended and not self._said_last:
            # What is told after the end of the stream is told in one piece; before it each utterance is one.
            self._said_last = True
            frame = FINALIZE
        elif self._finalized:
            self._said_end = True
            frame = END_OF_STREAM
        if frame is None and now >= self.quiet_until:
            frame = KEEP_ALIVE
        if frame is not None:
            self._spoke_at = now
        return frame

    @property
    def quiet_until(self) -> float:
        """When the server should get a sign of life; infinity: it needs none."""
        return self._spoke_at + self._keep_alive_s if self._ready and not self._said_end else math.inf

    def receive(self, text: str | bytes) -> Told | None:
        """Take a message and return it; None if it was handed out before.

        Raises:
            SibylError: the session cannot go on, and no other would do better.
        """
        try:
            message = dict(read_object(json.loads(text)))
        except (ValueError, RecursionError) as fault:
            raise UnexpectedReply() from fault
        kind = required(message, "type", str)
        seq = optional(message, "seq", int)
        if kind == "ready":
            self._begin(message)
        elif seq is not None:
            if seq <= self._last_seq:
                return None
            self._last_seq = seq
        match kind:
            case "ack":
                # Not ``ready``: a server that is cut off after each of them is not getting anywhere.
                self._reconnect = self._reconnect.succeeded()
                self._processed = max(self._processed, self._place(message, "audio_processed_s"))
                self._forget(self._place(message, "final_s"))
            case "final":
                self._forget(self._place(message, "end"))
            case "finalized":
                self._finalized = self._said_last
            case "error" if message.get("fatal") is True:
                self._fault = _session_error(message)
            case "session_ended":
                self._end_session(message)
        return Told(type=kind, message=self._moved(message))

    def cut(self, now: float, error: SibylError | None = None) -> Pause:
        """Take the end of a connection, whatever ended it; go on after the pause.

        Raises:
            SibylError: why there will be no other one.
        """
        fault = self._fault or error or CannotConnect("The connection was cut.")
        following = None
        if isinstance(fault, CannotConnect | ServerFailed | UnexpectedReply | errors.RecogniserBusy):
            following = self._reconnect.failed(now, jitter=self._jitter(), asked_s=fault.retry_after_s)
        if following is None:
            raise fault
        self._ready = False
        self._reconnect = following
        return pause_of(following, now, fault)

    # Parts of the above --------------------------------------------------------------------------------------------

    def _begin(self, message: Mapping[str, object]) -> None:
        limits = read_object(message.get("limits"))
        self._token = required(message, "resume_token", str)
        self._frame_bytes = min(self._bytes(FRAME_S), required(limits, "max_frame_bytes", int))
        self._window_bytes = self._bytes(_number(limits, "max_backlog_s") / 2)
        self._keep_alive_s = _number(limits, "keepalive_s")
        if message.get("resumed") is not True:
            self._origin = self._processed = max(self._told, self._base)
            self.lost_s += self._seconds(self._origin - self._told)
            self._told = self._origin
            self._last_seq = 0
        self._sent = self._place(message, "audio_received_s")
        if not self._base <= self._sent <= self._end:
            raise UnexpectedReply("The server speaks of audio that it never got. Is it a Sibyl of the same version?")
        self._ready = True
        self._reconnect = replace(self._reconnect, give_up_s=self._give_up_s)

    def _end_session(self, message: Mapping[str, object]) -> None:
        reason = required(message, "reason", str)
        self._processed = max(self._processed, self._place(read_object(message.get("totals")), "audio_processed_s"))
        whole = self._source_ended and self._processed >= self._end & ~1
        if reason == "end_of_stream" or (whole and reason in _GOES_ON):
            self.over = True
        elif reason in _GOES_ON:
            self._forget(self._processed)
            self._token = None
            if not isinstance(self._fault, errors.RecogniserBusy):
                self._fault = None
        else:
            raise self._fault or ServerFailed(reason, f"The server ended the session: {reason}.")

    def _forget(self, told: int) -> None:
        """Let go what was told, and what is kept for too long."""
        self._told = max(self._told, told)
        base = max(self._told, self._sent - self._bytes(KEPT_S), self._base)
        base = min(base, self._sent)
        del self._kept[: base - self._base]
        self._base = base

    def _moved(self, message: Mapping[str, object]) -> Mapping[str, object]:
        """Return the message with its times on the clock of the source."""
        if not self._origin:
            return message
        by_s = self._seconds(self._origin)
        moved = {name: _later(value, by_s) if name in _TIMES else value for name, value in message.items()}
        words = message.get("words")
        if isinstance(words, list):
            moved["words"] = [
                {name: _later(value, by_s) if name in _TIMES else value for name, value in read_object(word).items()}
                for word in words
            ]
        return moved

    @property
    def _end(self) -> int:
        return self._base + len(self._kept)

    def _place(self, message: Mapping[str, object], name: str) -> int:
        return self._origin + self._bytes(_number(message, name))

    def _bytes(self, seconds: float) -> int:
        return round(seconds * self._wish.sample_rate_hz) * SAMPLE_BYTES

    def _seconds(self, places: int) -> float:
        return places / SAMPLE_BYTES / self._wish.sample_rate_hz


def _later(value: object, by_s: float) -> object:
    return round(value + by_s, 6) if isinstance(value, int | float) else value


def _number(fields: Mapping[str, object], name: str) -> float:
    value = fields.get(name)
    if not isinstance(value, int | float):
        raise UnexpectedReply()
    return float(value)


def _session_error(message: Mapping[str, object]) -> SibylError:
    code, text = required(message, "code", str), optional(message, "message", str) or None
    kind = _ERRORS.get(code)
    error = Refused(code, text) if kind is None else kind(text)
    asked_s = message.get("retry_after_s")
    if isinstance(asked_s, int | float):
        error.retry_after_s = round(asked_s)
    return error
