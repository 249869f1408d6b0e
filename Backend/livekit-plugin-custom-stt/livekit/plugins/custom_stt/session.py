"""The server's session as seen from here: what it received, heard and told, over all connections to it. Pure.

Positions are samples of the stream. ``sent`` never runs behind what the server has, and goes back to that after a cut.
"""

from livekit.agents import LanguageCode

from .audio import RetainedAudio
from .clock import Clock
from .options import Options
from .wire import Message, number, part, words

FRAME_BYTES = 64 * 1024
BACKLOG_S = 30.0
# Reasons of an end before which the server told all that it had received.
DRAINED = frozenset(
    {"end_of_stream", "max_session", "server_shutdown", "overloaded", "idle_timeout", "too_many_errors"}
)


class Session:
    """The session under way, or the one before while there is none."""

    def __init__(self, options: Options, language: LanguageCode, audio: RetainedAudio) -> None:
        self.id = ""
        self.model = ""
        self.provider = ""
        self.clock = Clock(audio.rate_hz, 0)
        self.sent = 0  #: position behind the last sample that was sent
        self.heard = 0  #: position up to which audio was recognised, in any session
        self.processed = 0  #: the same, in this session
        self.covered = 0  #: position up to which all was told in finals
        self.lost = 0  #: samples that no session got, or will get
        self.keepalive_s = options.keepalive_s
        self.drain_s = options.drain_s
        self._frame_samples = FRAME_BYTES // 2
        self.progressed = False  #: something new was received or told since the connection began
        self._options = options
        self._language = language
        self._audio = audio
        self._token: str | None = None
        self._last_seq = 0
        self._sent_here = 0  # samples, in this session
        self._received = 0  # position
        self._backlog = round(BACKLOG_S * audio.rate_hz)

    @property
    def config(self) -> dict[str, object]:
        """The first message of a connection."""
        config: dict[str, object] = {
            "type": "config",
            "language": str(self._language),
            "sample_rate": self._audio.rate_hz,
            "encoding": "pcm_s16le",
            "channels": 1,
            "task": "transcribe",
            "interim": self._options.interim,
            "words": True,
        }
        if self._options.provider is not None:
            config["provider"] = self._options.provider
        if self._token is not None:
            config["resume"] = {"token": self._token, "last_seq": self._last_seq}
        return config

    @property
    def resumable(self) -> bool:
        """Whether the next connection would resume it."""
        return self._token is not None

    def forget(self) -> None:
        """Resume this session no more."""
        self._token = None

    def is_new(self, message: Message) -> bool:
        """Whether a message was not seen before; those without a number always are."""
        if words(message, "type") == "ready":
            return True
        seq = number(message, "seq")
        if seq is None:
            return True
        if seq <= self._last_seq:
            return False
        self._last_seq = int(seq)
        self.progressed = True
        return True

    def ready(self, message: Message) -> bool:
        """It listens. Return whether it is the session that was asked for; if not, all before it has ended."""
        resumed = message.get("resumed") is True and self._token is not None
        received_s = number(message, "audio_received_s") or 0.0
        if not resumed:
            received_s = 0.0
            self.clock = Clock(self._audio.rate_hz, self.covered)
            self._last_seq = 0
            self.processed = self.covered
        self.id = words(message, "session_id") or self.id
        self._token = words(message, "resume_token") or None
        self.model, self.provider = words(message, "model"), words(message, "provider")
        limits = part(message, "limits")
        self.keepalive_s = min(self._options.keepalive_s, number(limits, "keepalive_s") or self._options.keepalive_s)
        self.drain_s = number(limits, "drain_s") or self._options.drain_s
        self._frame_samples = max(1, int(number(limits, "max_frame_bytes") or FRAME_BYTES) // 2)
        self._backlog = max(1, round((number(limits, "max_backlog_s") or BACKLOG_S) * self._audio.rate_hz))
        self._sent_here = round(received_s * self._audio.rate_hz)
        self.sent = self.clock.sample(received_s)
        self.progressed |= resumed and self.sent > self._received
        self._received = self.sent
        if resumed:
            self._cover(self.clock.sample(number(message, "final_s") or 0.0))
        return resumed

    def ack(self, message: Message) -> None:
        """So much was received, heard and told."""
        received = self.clock.sample(number(message, "audio_received_s") or 0.0)
        self.progressed |= received > self._received
        self._received = max(received, self._received)
        self._hear(message)
        self._cover(self.clock.sample(number(message, "final_s") or 0.0))

    def final(self, message: Message) -> None:
        """Something was told."""
        self._cover(self.clock.sample(number(message, "end") or 0.0))

    def finalized(self, message: Message) -> None:
        """All before a flush was told."""
        flush = self._audio.answered(int(number(message, "id") or 0))
        if flush is not None:
            self._cover(flush.position)

    def ended(self, message: Message) -> None:
        """It is over; what it drained needs no other session."""
        self._token = None
        totals = part(message, "totals")
        self._hear(totals)
        if words(message, "reason") in DRAINED and number(totals, "audio_processed_s") is not None:
            self._cover(self.processed)

    def skip_lost(self) -> int:
        """Go on where the kept audio begins, if that is later; return how many samples were lost so."""
        lost = self._audio.start - self.sent
        if lost <= 0:
            return 0
        self.clock.jump(self._sent_here, self._audio.start)
        self.sent = self._audio.start
        self.lost += lost
        return lost

    @property
    def room(self) -> int:
        """How many samples may be sent before the server has heard more."""
        return self.processed + max(1, self._backlog // 2) - self.sent

    @property
    def most(self) -> int:
        """The largest piece that may be sent at once, in samples."""
        return max(1, min(self._frame_samples, self._backlog // 2))

    def sending(self, samples: int) -> None:
        """So many samples more are on their way."""
        self.sent += samples
        self._sent_here += samples

    def _hear(self, message: Message) -> None:
        processed = self.clock.sample(number(message, "audio_processed_s") or 0.0)
        self.processed = max(self.processed, processed)
        self.heard = max(self.heard, self.processed)

    def _cover(self, position: int) -> None:
        self.covered = max(self.covered, min(position, self.sent))
        self._audio.forget(self.covered)
