"""Events and tasks as Redis holds them: flat string fields, both directions, and their names for the Lua scripts.

An output is the common case and carries no kind. Nothing here talks to Redis.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, assert_never, cast

from sibyl.core.cursor import START, Cursor
from sibyl.core.errors import InvalidCursor
from sibyl.core.event import Cancelled, Completed, Entry, Event, Expired, Failed, Output, Queued, Started
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs
from sibyl.core.task import FinishReason, Message, SamplingParams, TaskSpec, Usage

FIELDS: Mapping[str, str] = {
    "KIND": "k",
    "TEXT": "t",
    "TOKEN_IDS": "i",  # decimal, separated by spaces; behind a tab their logprobs, if they were asked for
    "ATTEMPT": "a",
    "MODEL": "m",
    "KEPT": "o",
    "PREVIOUS": "p",  # a cursor
    "TEXT_LENGTH": "n",
    "USAGE": "u",  # prompt tokens, completion tokens
    "FINISH_REASON": "f",
    "CODE": "c",
    "MESSAGE": "e",
}
_KIND, _TEXT, _TOKEN_IDS, _ATTEMPT, _MODEL, _KEPT, _PREVIOUS, _LENGTH, _USAGE, _FINISH, _CODE, _MESSAGE = (
    FIELDS.values()
)


def encode_output(output: Output) -> tuple[str, str]:
    """Return text and token ids, the two values of an output's fields."""
    token_ids = " ".join(map(str, output.token_ids))
    return output.text, f"{token_ids}\t{_encode_logprobs(output.logprobs)}" if output.logprobs else token_ids


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
    token_ids, _, logprobs = tokens.partition("\t")
    return Output(
        text=text,
        token_ids=tuple(map(int, token_ids.split())),
        logprobs=_decode_logprobs(logprobs) if logprobs else (),
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


def decode_entry(stream_id: str, fields: Mapping[str, str]) -> Entry:
    """Return an entry from its stream id, which is its cursor, and its fields."""
    return Entry(_cursor(stream_id), decode_event(fields))


def decode_usage(text: str) -> Usage:
    """Return the usage in ``<prompt tokens> <completion tokens>``."""
    prompt_tokens, completion_tokens = map(int, text.split())
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


def encode_spec(spec: TaskSpec) -> str:
    """Return the spec as JSON. Equal specs give equal text.

    Sampling parameters that were not given are left out: a worker of an older version reads what it knows.
    """
    fields = asdict(spec)
    fields["sampling"] = {name: value for name, value in fields["sampling"].items() if value is not None}
    return json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def decode_spec(text: str) -> TaskSpec:
    """Return the spec that ``encode_spec`` wrote."""
    fields: dict[str, Any] = json.loads(text)
    sampling = fields.pop("sampling")
    return TaskSpec(
        messages=tuple(Message(**message) for message in fields.pop("messages")),
        sampling=SamplingParams(stop=tuple(sampling.pop("stop")), **sampling),
        **fields,
    )


def _place(event: Started | Completed | Failed | Cancelled | Expired) -> dict[str, str]:
    return {_KEPT: str(event.kept)} | ({} if event.previous == START else {_PREVIOUS: str(event.previous)})


def _cursor(text: str | None) -> Cursor:
    return Cursor.parse(text) if text else START
