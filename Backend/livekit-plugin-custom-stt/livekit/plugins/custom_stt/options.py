"""What a user of the plugin chose: the server, the audio, and the plugin's patience."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from livekit.agents import LanguageCode

DEFAULT_URL: Final = "ws://127.0.0.1:8000/ws/transcribe"
KEEPALIVE_S: Final = 5.0
RATES_HZ: Final = range(8_000, 48_001)  # what a server takes
_SCHEMES: Final = ("ws://", "wss://", "http://", "https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that is the same for all streams of one ``STT``.

    Raises:
        ValueError: a value cannot be used.
    """

    url: str = DEFAULT_URL
    language: LanguageCode = field(default_factory=lambda: LanguageCode("en"))
    sample_rate_hz: int = 16_000
    provider: str | None = None  #: the server's recogniser; None: its default
    interim: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    keepalive_s: float = KEEPALIVE_S  #: the server may ask for less
    heartbeat_s: float = 15.0  #: of silence before a ping; a link without a pong for half of it is lost
    retained_s: float | None = 60.0  #: audio that is kept until it was told in finals; None: all
    reconnect_attempts: int = 6  #: in a row without progress, after a lost link
    ready_s: float = 30.0  #: for the server to load its recogniser
    drain_s: float = 30.0  #: for the server to tell the rest after the end, where it does not name its own limit
    stall_s: float = 30.0  #: without progress of a server that has audio to hear

    def __post_init__(self) -> None:
        if not self.url.startswith(_SCHEMES):
            raise ValueError("url must begin with ws://, wss://, http:// or https://")
        if self.sample_rate_hz not in RATES_HZ:
            raise ValueError("sample_rate must be 8000 to 48000")
        if self.reconnect_attempts < 0:
            raise ValueError("reconnect_attempts must not be negative")
        for name in ("keepalive_s", "heartbeat_s", "ready_s", "drain_s", "stall_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        if self.retained_s is not None and not self.retained_s >= 1:
            raise ValueError("retained_s must be at least 1")
