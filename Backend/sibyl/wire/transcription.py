"""Transcription of a file in OpenAI's form: the fields that are asked for, and the answer in each of its formats.

What a recogniser cannot know is null, and never a number that nobody measured.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sibyl.core.errors import InvalidRequest
from sibyl.core.task import Recording
from sibyl.core.transcript import Segment, Word
from sibyl.wire.speech import LANGUAGE, PROVIDERS
from sibyl.wire.sse import encode

Format = Literal["json", "text", "verbose_json", "srt", "vtt"]
MEDIA_TYPES: Mapping[Format, str] = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
FILE_FIELD = "file"
PROMPT_CHARS = 16_000
_LISTS = frozenset({"timestamp_granularities[]"})


def _absent(value: object) -> object:
    return None if value == "" else value


class TranscriptionForm(BaseModel):
    """What is asked for beside the file. Fields of a form are text, so they are read as what they say."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    model: str = Field(
        min_length=1,
        max_length=100,
        description=f"a recogniser of this server ({', '.join(PROVIDERS)}); any other name, such as whisper-1, takes "
        "the server's default",
    )
    language: Annotated[str | None, BeforeValidator(_absent)] = Field(
        None, pattern=LANGUAGE, description="of the speech, as in BCP 47; none: English"
    )
    prompt: str | None = Field(None, max_length=PROMPT_CHARS, description="accepted, and without effect")
    response_format: Format = Field("json", description="of the answer")
    temperature: Annotated[float | None, BeforeValidator(_absent)] = Field(
        None, ge=0, le=1, description="accepted, and without effect"
    )
    timestamp_granularities: list[Literal["word", "segment"]] = Field(
        default_factory=list,
        max_length=2,
        alias="timestamp_granularities[]",
        description="what `verbose_json` tells the times of; none: segments",
    )
    stream: bool = Field(False, description="send the text as events while it is heard")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise ValueError("timestamp_granularities needs response_format verbose_json")
        if self.stream and self.response_format not in ("json", "text"):
            raise ValueError("stream needs response_format json or text")
        return self

    def recording(self, audio_bytes: int) -> Recording:
        """Return what is stored of it with the task."""
        return Recording(
            audio_bytes=audio_bytes,
            language=self.language,
            provider=self.model if self.model in PROVIDERS else None,
        )


def read_fields(fields: Sequence[tuple[str, str]]) -> TranscriptionForm:
    """Return the form of these fields.

    Raises:
        InvalidRequest: a field is wrong, unknown, missing or there twice; the words name it and do not quote it.
    """
    read: dict[str, object] = {}
    for name, value in fields:
        name = f"{name}[]" if f"{name}[]" in _LISTS else name
        if name in _LISTS:
            held = read.setdefault(name, [])
            assert isinstance(held, list)
            held.append(value)
        elif name in read:
            raise InvalidRequest(f"{name[:100]}: there twice.")
        else:
            read[name] = value
    try:
        return TranscriptionForm.model_validate(read)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part)[:100] for part in first["loc"]) or "form"
        raise InvalidRequest(f"{where}: {first['msg'].removeprefix('Value error, ')}.") from None


# ---- the answer, whole


def rendered(form: TranscriptionForm, segments: Sequence[Segment], *, text: str, audio_s: float) -> str:
    """Return the body of the answer, in the format that was asked for."""
    match form.response_format:
        case "json":
            return _json({"text": text, "usage": _usage(audio_s)})
        case "text":
            return f"{text}\n"
        case "verbose_json":
            return _json(_verbose(form, segments, text, audio_s))
        case "srt":
            return "".join(_cues(segments, separator=",", escape=_one_line, numbered=True))
        case "vtt":
            return "WEBVTT\n\n" + "".join(_cues(segments, separator=".", escape=_escaped, numbered=False))


def _usage(audio_s: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(audio_s)}


def _verbose(form: TranscriptionForm, segments: Sequence[Segment], text: str, audio_s: float) -> dict[str, Any]:
    languages = [segment.language for segment in segments if segment.language is not None]
    wanted = form.timestamp_granularities or ["segment"]
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": form.language or (languages[0] if languages else "en"),
        "duration": audio_s,
        "text": text,
        "usage": _usage(audio_s),
    }
    if "segment" in wanted:
        body["segments"] = [_verbose_segment(number, segment) for number, segment in enumerate(segments)]
    if "word" in wanted:
        body["words"] = [_verbose_word(word) for segment in segments for word in segment.words]
    return body


def _verbose_segment(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": number,
        "seek": 0,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": None,
        "compression_ratio": None,
        "no_speech_prob": None,
        "confidence": segment.confidence,
    }


def _verbose_word(word: Word) -> dict[str, Any]:
    return {"word": word.text, "start": word.start_s, "end": word.end_s}


def _cues(
    segments: Sequence[Segment], *, separator: str, escape: Callable[[str], str], numbered: bool
) -> Sequence[str]:
    """A cue for each segment: its number, its times, its text, an empty line."""
    cues = []
    for number, segment in enumerate(segments, start=1):
        head = f"{number}\n" if numbered else ""
        times = f"{clock(segment.start_s, separator)} --> {clock(segment.end_s, separator)}"
        cues.append(f"{head}{times}\n{escape(segment.text)}\n\n")
    return cues


def clock(seconds: float, separator: str) -> str:
    """Return a time as subtitles write it: ``01:02:03`` and the milliseconds behind the separator."""
    whole_ms = max(0, round(seconds * 1000))
    rest, ms = divmod(whole_ms, 1000)
    minutes, second = divmod(rest, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{separator}{ms:03d}"


def _one_line(text: str) -> str:
    return " ".join(text.split())  # an empty line would end the cue


def _escaped(text: str) -> str:
    return _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _json(body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


# ---- the answer, as events


def delta_frame(text: str) -> bytes:
    """Return the event of further text."""
    return _frame({"type": "transcript.text.delta", "delta": text})


def done_frame(text: str) -> bytes:
    """Return the last event: the whole text."""
    return _frame({"type": "transcript.text.done", "text": text})


def error_frame(code: str, message: str) -> bytes:
    """Return the event that ends a stream without its text."""
    return _frame({"type": "error", "error": {"code": code, "message": message}})


def _frame(data: dict[str, Any]) -> bytes:
    return encode(data["type"], _json(data), None)
