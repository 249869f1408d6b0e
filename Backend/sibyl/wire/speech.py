"""The native messages of a speech session: what a client may send, read and checked here, and the shapes of answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

ENCODINGS = {"pcm_s16le": "pcm_s16le", "linear16": "pcm_s16le", "s16le": "pcm_s16le"}
LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,4}$"
PROVIDERS = ("pocketsphinx", "faster_whisper", "deepgram", "scripted")
MESSAGE_CHARS = 16 * 1024  # longest text frame
ID_CHARS = 200
ID_BOUND = 2**63


class ConfigRefused(Exception):
    """The config cannot be used; the words say what is wrong, and never quote it."""

    def __init__(self, code: Literal["bad_config", "unsupported"], message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def _number(value: object) -> object:
    """A query holds text only, and JSON knows no integers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19 else value


def _flag(value: object) -> object:
    return {"true": True, "1": True, "false": False, "0": False}.get(value, value) if isinstance(value, str) else value


Whole = Annotated[int, BeforeValidator(_number)]
Flag = Annotated[bool, BeforeValidator(_flag)]


class _Resume(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    token: str = Field(min_length=1, max_length=100)
    last_seq: Annotated[Whole, Field(ge=0)] = 0


class SpeechConfig(BaseModel):
    """What a client wants of its session. Unknown fields are ignored, for newer clients."""

    model_config = ConfigDict(strict=True, frozen=True)

    language: str = Field("en", pattern=LANGUAGE)
    sample_rate: Annotated[Whole, Field(ge=8_000, le=48_000)] = 16_000
    encoding: str = Field("pcm_s16le", max_length=40)
    channels: Whole = 1
    task: Literal["transcribe"] = "transcribe"
    interim: Flag = True
    words: Flag = True
    endpointing_ms: Annotated[Whole, Field(ge=10, le=10_000)] | None = None
    provider: Literal["pocketsphinx", "faster_whisper", "deepgram", "scripted"] | None = None
    resume: _Resume | None = None

    @property
    def endpointing_s(self) -> float | None:
        """The silence that ends an utterance; None: the recogniser's default."""
        return None if self.endpointing_ms is None else self.endpointing_ms / 1000


@dataclass(frozen=True, slots=True)
class Finalize:
    """Tell all so far in finals."""

    id: str | int | None = None  #: comes back in ``finalized``


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """The client is there."""


@dataclass(frozen=True, slots=True)
class EndOfStream:
    """No audio comes any more."""


@dataclass(frozen=True, slots=True)
class Config:
    """The fields of a config, unchecked."""

    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A type of a newer client."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """No JSON object."""


ClientMessage = Config | Finalize | KeepAlive | EndOfStream | Unknown | Unreadable


def read_message(text: str) -> ClientMessage:
    """Return what a text frame says. Raises nothing."""
    if len(text) > MESSAGE_CHARS:
        return Unreadable()
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return Unreadable()
    if not isinstance(fields, dict):
        return Unreadable()
    match fields.get("type"):
        case "finalize":
            known = fields.get("id")
            return Finalize(known if _can_come_back(known) else None)
        case "keepalive":
            return KeepAlive()
        case "end_of_stream":
            return EndOfStream()
        case None | "config":
            return Config({name: value for name, value in fields.items() if name != "type"})
    return Unknown()


def _can_come_back(id: object) -> bool:
    """Whether an id can be written to the client again: half of a surrogate pair is text in JSON, and none in UTF-8."""
    if isinstance(id, str):
        return len(id) <= ID_CHARS and not any("\ud800" <= char <= "\udfff" for char in id)
    return isinstance(id, int) and abs(id) < ID_BOUND


def query_fields(query: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a config that stand in a query; none where it is empty."""
    fields: dict[str, Any] = {name: value for name, value in query.items() if name not in ("resume_token", "last_seq")}
    if "resume_token" in query:
        fields["resume"] = {"token": query["resume_token"], "last_seq": query.get("last_seq", 0)}
    return fields


def check_config(fields: Mapping[str, Any]) -> SpeechConfig:
    """Return a config that can be used.

    Raises:
        ConfigRefused: ``bad_config``: a value is wrong; ``unsupported``: no recogniser takes such audio.
    """
    try:
        config = SpeechConfig.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))[:100] or "config"
        raise ConfigRefused("bad_config", f"{where}: {first['msg']}") from None
    if config.encoding not in ENCODINGS:
        raise ConfigRefused("unsupported", "encoding: only pcm_s16le (linear16): signed 16 bit, little-endian")
    if config.channels != 1:
        raise ConfigRefused("unsupported", "channels: only 1; mix or split the channels before you send them")
    return config
