"""What an answer must keep to: the rules of its grammar, or of the grammar of its JSON schema."""

import json

from sibyl.core.errors import InvalidRequest
from sibyl.core.task import SamplingParams
from sibyl.wire.gbnf import parse_gbnf
from sibyl.wire.grammar_rules import Rules
from sibyl.wire.json_schema import schema_to_gbnf


def is_constrained(sampling: SamplingParams) -> bool:
    """Whether the answer is not free."""
    return sampling.grammar is not None or sampling.json_schema is not None


def gbnf_of(sampling: SamplingParams) -> str | None:
    """Return the grammar that the answer must keep; None when it is free.

    Raises:
        InvalidRequest: there are two, or the schema has no grammar.
    """
    if sampling.json_schema is None:
        return sampling.grammar
    if sampling.grammar is not None:
        raise InvalidRequest("An answer keeps a grammar or a JSON schema, not both.")
    try:
        schema = json.loads(sampling.json_schema)
    except (ValueError, RecursionError):
        raise InvalidRequest("The JSON schema is no JSON.") from None
    return schema_to_gbnf(schema)


def rules_of(sampling: SamplingParams) -> Rules | None:
    """Return the rules that the answer must keep; None when it is free.

    Takes up to about 0.1 s of CPU for what is as large and as hard as the limits allow: not on an event loop.

    Raises:
        InvalidRequest: the grammar or the schema is none, or exceeds a limit; the message says where and why.
    """
    grammar = gbnf_of(sampling)
    if grammar is None:
        return None
    try:
        return parse_gbnf(grammar)
    except InvalidRequest as error:
        if sampling.json_schema is None:
            raise
        raise InvalidRequest(
            f"The JSON schema is too large, or refers to itself without an end: {error.message}"
        ) from None
