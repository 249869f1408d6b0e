"""What binds or explains an answer, on OpenAI's wire: schemas, grammars and logprobs, asked for and read back.

A schema goes out as ``response_format``, a grammar as ``grammar`` (llama-server) and ``structured_outputs`` (vLLM).
Many servers pass over a field that they do not know, so an answer that must keep to a grammar is read along: text that
does not fit it is an error here, and never the answer to who asked for one that fits.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sibyl.core.errors import EngineError
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs
from sibyl.core.task import SamplingParams
from sibyl.engines.automaton import DEAD, Automaton
from sibyl.engines.logprobs import IMPOSSIBLE
from sibyl.wire.constraint import is_constrained, rules_of


def binding_fields(sampling: SamplingParams) -> dict[str, Any]:
    """Return what to add to a request for the answer to be bound and explained as these parameters say."""
    fields: dict[str, Any] = {}
    if sampling.logprobs is not None:
        fields |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    if sampling.json_schema is not None:
        schema = {"name": "answer", "strict": True, "schema": json.loads(sampling.json_schema)}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    if sampling.grammar is not None:
        fields |= {"grammar": sampling.grammar, "structured_outputs": {"grammar": sampling.grammar}}
    return fields


def refuse_to_resume(sampling: SamplingParams) -> None:
    """Raise EngineError if an answer by these parameters cannot be continued by another server."""
    if is_constrained(sampling):
        raise EngineError("The upstream cannot go on in the middle of a grammar or a schema. Ask again.")


class Watch:
    """Reads an answer along, and tells when it leaves its grammar. Without a grammar it tells nothing."""

    def __init__(self, sampling: SamplingParams) -> None:
        """Raise InvalidRequest if the grammar is none."""
        rules = None if sampling.grammar is None else rules_of(sampling)
        self._automaton = None if rules is None else Automaton(rules)
        self._state = 0 if self._automaton is None else self._automaton.start
        self._may_stop = bool(sampling.stop)  # anywhere

    def read(self, text: str) -> None:
        """Raise EngineError if the answer cannot go on with ``text``."""
        if self._automaton is not None:
            self._state = self._automaton.walk(self._state, text.encode())
            if self._state == DEAD:
                raise _ignored()

    def end(self) -> None:
        """Raise EngineError if the answer cannot end here."""
        if self._automaton is not None and not self._may_stop and not self._automaton.may_end(self._state):
            raise _ignored()


def _ignored() -> EngineError:
    return EngineError("The upstream does not keep to the grammar; llama-server and vLLM know how to.")


def read_logprobs(choice: Mapping[str, Any]) -> tuple[TokenLogprobs, ...]:
    """Return the logprobs in a chunk's choice; none where it has none, or none that can be read."""
    told = choice.get("logprobs")
    places = told.get("content") if isinstance(told, dict) else None
    if not isinstance(places, list):
        return ()
    found = []
    for place in places:
        chosen, others = _token(place), place.get("top_logprobs") if isinstance(place, dict) else None
        if chosen is not None:
            likeliest = map(_token, others if isinstance(others, Sequence) else ())
            found.append(TokenLogprobs(chosen=chosen, likeliest=tuple(token for token in likeliest if token)))
    return tuple(found)


def _token(value: object) -> TokenLogprob | None:
    if not isinstance(value, dict):
        return None
    text, logprob, raw = value.get("token"), value.get("logprob"), value.get("bytes")
    if not isinstance(text, str) or not isinstance(logprob, int | float):
        return None
    try:
        piece = bytes(raw) if isinstance(raw, list) else text.encode("utf-8", "replace")
    except (TypeError, ValueError):
        piece = text.encode("utf-8", "replace")
    finite = max(float(logprob), IMPOSSIBLE) if logprob <= 0 else 0.0  # neither an infinity nor no number
    return TokenLogprob(token_id=None, piece=piece, logprob=finite)
