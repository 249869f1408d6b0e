"""Events and tasks as Redis holds them: flat string fields, both directions, and their names for the Lua scripts.

An output is the common case and carries no kind. Nothing here talks to Redis.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, assert_never, cast

from sibyl.core.cursor import START, Cursor
from sibyl.core.errors import InvalidCursor
from sibyl.core.event import Cancelled, Completed, Entry, Event, Expired, Failed, Output, Queued, Started
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs
from sibyl.core.task import FinishReason, Message, Recording, SamplingParams, TaskSpec, Usage
from sibyl.core.transcript import Segment, Word

FIELDS: Mapping[str, str] = {
    "KIND": "k",
    "TEXT": "t",
    "TOKEN_IDS": "i",  # decimal, separated by spaces; behind a tab their logprobs, behind another one segments, if any
    "ATTEMPT": "a",
    "MODEL": "m",
    "KEPT": "o",
    "PREVIOUS": "p",  # a cursor
    "TEXT_LENGTH": "n",
    "USAGE": "u",  # prompt tokens, completion tokens
    "FINISH_REASON": "f",
    "CODE": "c",
    "MESSAGE": "e",
    "AUDIO_S": "s",  # seconds; of a transcription only
}
_KIND, _TEXT, _TOKEN_IDS, _ATTEMPT, _MODEL, _KEPT, _PREVIOUS, _LENGTH, _USAGE, _FINISH, _CODE, _MESSAGE, _AUDIO_S = (
    FIELDS.values()
)


def encode_output(output: Output) -> tuple[str, str]:
    """Return text and token ids, the two values of an output's fields."""
    token_ids = " ".join(map(str, output.token_ids))
    if not output.logprobs and not output.segments:
        return output.text, token_ids
    more = _encode_logprobs(output.logprobs) if output.logprobs else ""
    return output.text, f"{token_ids}\t{more}" + (f"\t{_encode_segments(output.segments)}" if output.segments else "")


def encode_event(event: Event) -> dict[str, str]:
    """Return the fields of a log entry."""
    match event:
        case Queued():
            return {_KIND: "queued"}
        case Output():
            text, token_ids = encode_output(event)
            return {_TEXT: text, _TOKEN_IDS: token_ids}
        case Started():
            return {_KIND: "started", _ATTEMPT: str(event.attempt), _MODEL: event.model, **_place(event)}
        case Completed():
            usage = f"{event.usage.prompt_tokens} {event.usage.completion_tokens}"
            return {
                _KIND: "completed",
                _LENGTH: str(event.text_length),
                _USAGE: usage,
                _FINISH: event.finish_reason,
                **({} if event.audio_s is None else {_AUDIO_S: repr(event.audio_s)}),
                **_place(event),
            }
        case Failed():
            return {_KIND: "failed", _CODE: event.code, _MESSAGE: event.message, **_place(event)}
        case Cancelled():
            return {_KIND: "cancelled", **_place(event)}
        case Expired():
            return {_KIND: "expired", **_place(event)}
        case _:
            assert_never(event)


def decode_event(fields: Mapping[str, str]) -> Event:
    """Return the event that ``encode_event`` or a Lua script wrote.

    Raises:
        ValueError: no event has such fields.
    """
    try:
        return _event(fields)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, InvalidCursor):
        raise ValueError(f"no event has the fields {sorted(fields)} with such values") from None


def _event(fields: Mapping[str, str]) -> Event:
    kept, previous = int(fields.get(_KEPT, "0")), _cursor(fields.get(_PREVIOUS))
    match fields.get(_KIND):
        case None:
            return _output(fields[_TEXT], fields[_TOKEN_IDS])
        case "queued":
            return Queued()
        case "started":
            return Started(attempt=int(fields[_ATTEMPT]), model=fields[_MODEL], kept=kept, previous=previous)
        case "completed":
            return Completed(
                text_length=int(fields[_LENGTH]),
                usage=decode_usage(fields[_USAGE]),
                finish_reason=cast(FinishReason, fields[_FINISH]),
                audio_s=float(fields[_AUDIO_S]) if _AUDIO_S in fields else None,
                kept=kept,
                previous=previous,
            )
        case "failed":
            return Failed(code=fields[_CODE], message=fields[_MESSAGE], kept=kept, previous=previous)
        case "cancelled":
            return Cancelled(kept=kept, previous=previous)
        case "expired":
            return Expired(kept=kept, previous=previous)
        case kind:
            raise ValueError(f"no event of kind {kind!r}")


def _output(text: str, tokens: str) -> Output:
    token_ids, _, more = tokens.partition("\t")
    logprobs, _, segments = more.partition("\t")  # JSON holds no tab of its own
    return Output(
        text=text,
        token_ids=tuple(map(int, token_ids.split())),
        logprobs=_decode_logprobs(logprobs) if logprobs else (),
        segments=_decode_segments(segments) if segments else (),
    )


def _encode_logprobs(logprobs: tuple[TokenLogprobs, ...]) -> str:
    """Return lists in JSON: for each token the chosen one and the likeliest, each as logprob, id and bytes."""
    tokens = [
        [[token.logprob, token.token_id, token.piece.decode("latin-1")] for token in (place.chosen, *place.likeliest)]
        for place in logprobs
    ]
    return json.dumps(tokens, ensure_ascii=False, separators=(",", ":"))


def _decode_logprobs(text: str) -> tuple[TokenLogprobs, ...]:
    places = [
        [
            TokenLogprob(token_id=token_id, piece=piece.encode("latin-1"), logprob=logprob)
            for logprob, token_id, piece in tokens
        ]
        for tokens in json.loads(text)
    ]
    return tuple(TokenLogprobs(chosen=tokens[0], likeliest=tuple(tokens[1:])) for tokens in places)


def _encode_segments(segments: Sequence[Segment]) -> str:
    """Return lists in JSON: for each segment text, start, end, confidence, language, and its words in the same way."""
    spoken = [
        [
            *(segment.text, segment.start_s, segment.end_s, segment.confidence, segment.language),
            [[word.text, word.start_s, word.end_s, word.confidence] for word in segment.words],
        ]
        for segment in segments
    ]
    return json.dumps(spoken, ensure_ascii=False, separators=(",", ":"))


def _decode_segments(text: str) -> tuple[Segment, ...]:
    return tuple(
        Segment(
            text=said,
            start_s=start_s,
            end_s=end_s,
            confidence=confidence,
            language=language,
            words=tuple(
                Word(text=word, start_s=begin_s, end_s=over_s, confidence=sure) for word, begin_s, over_s, sure in words
            ),
        )
        for said, start_s, end_s, confidence, language, words in json.loads(text)
    )


def decode_entry(stream_id: str, fields: Mapping[str, str]) -> Entry:
    """Return an entry from its stream id, which is its cursor, and its fields."""
    return Entry(_cursor(stream_id), decode_event(fields))


def decode_usage(text: str) -> Usage:
    """Return the usage in ``<prompt tokens> <completion tokens>``."""
    prompt_tokens, completion_tokens = map(int, text.split())
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


def encode_spec(spec: TaskSpec) -> str:
    """Return the spec as JSON. Equal specs give equal text.

    Sampling parameters that were not given, and a recording that is none, are left out: a worker of an older version
    reads what it knows.
    """
    fields = asdict(spec)
    if spec.recording is None:
        del fields["recording"]
    fields["sampling"] = {name: value for name, value in fields["sampling"].items() if value is not None}
    return json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def decode_spec(text: str) -> TaskSpec:
    """Return the spec that ``encode_spec`` wrote."""
    fields: dict[str, Any] = json.loads(text)
    sampling = fields.pop("sampling")
    recording = fields.pop("recording", None)
    return TaskSpec(
        messages=tuple(Message(**message) for message in fields.pop("messages")),
        sampling=SamplingParams(stop=tuple(sampling.pop("stop")), **sampling),
        recording=None if recording is None else Recording(**recording),
        **fields,
    )


def _place(event: Started | Completed | Failed | Cancelled | Expired) -> dict[str, str]:
    return {_KEPT: str(event.kept)} | ({} if event.previous == START else {_PREVIOUS: str(event.previous)})


def _cursor(text: str | None) -> Cursor:
    return Cursor.parse(text) if text else START
