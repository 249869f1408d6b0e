"""Schemas, grammars and logprobs in the words of OpenAI's wire."""

from typing import Any

import pytest

from sibyl.core.errors import EngineError, InvalidRequest
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs
from sibyl.core.task import SamplingParams
from sibyl.engines.upstream_binding import Watch, binding_fields, read_logprobs, refuse_to_resume

YES = 'root ::= "yes" | "no"'


def test_what_was_not_asked_for_is_not_sent() -> None:
    """OpenAI's own servers refuse what they do not know."""
    assert binding_fields(SamplingParams(seed=1, stop=("x",))) == {}
    assert binding_fields(SamplingParams(logprobs=0)) == {"logprobs": True, "top_logprobs": 0}
    assert binding_fields(SamplingParams(grammar=YES)) == {"grammar": YES, "structured_outputs": {"grammar": YES}}
    assert binding_fields(SamplingParams(json_schema='{"type":"null"}')) == {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": {"type": "null"}},
        }
    }


def test_logprobs_are_read_as_they_are_told() -> None:
    """Bytes where they are given, else the token's text; an infinity is the number that stands for it."""
    choice = {
        "logprobs": {
            "content": [
                {
                    **{"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]},
                    "top_logprobs": [{"token": "é", "logprob": float("-inf"), "bytes": None}],
                },
                {"token": "b", "logprob": -1},
            ]
        }
    }

    assert read_logprobs(choice) == (
        TokenLogprobs(
            chosen=TokenLogprob(token_id=None, piece=b"\xc3", logprob=-0.5),
            likeliest=(TokenLogprob(token_id=None, piece="é".encode(), logprob=-9999.0),),
        ),
        TokenLogprobs(chosen=TokenLogprob(token_id=None, piece=b"b", logprob=-1.0)),
    )


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {},
        {"content": None},
        {"content": [None, 1, {}, {"token": 1, "logprob": 0}, {"token": "a", "logprob": "0"}]},
    ],
    ids=str,
)
def test_logprobs_that_cannot_be_read_are_none(told: Any) -> None:
    """They are an extra, and the answer does not fail for them."""
    assert read_logprobs({"logprobs": told}) == ()


@pytest.mark.parametrize("raw", [[256], ["a"], [1.5], "é"], ids=str)
def test_bytes_that_are_none_leave_the_text(raw: object) -> None:
    """And no number at all is certainty."""
    [place] = read_logprobs({"logprobs": {"content": [{"token": "é", "logprob": float("nan"), "bytes": raw}]}})

    assert place.chosen == TokenLogprob(token_id=None, piece="é".encode(), logprob=0.0)


def test_an_answer_is_read_along() -> None:
    """What does not fit is told as soon as it comes, and an end that comes too early, too."""
    watch = Watch(SamplingParams(grammar=YES))

    watch.read("ye")
    with pytest.raises(EngineError, match="does not keep"):
        watch.end()
    watch.read("s")
    watch.end()
    with pytest.raises(EngineError, match="does not keep"):
        watch.read("!")


def test_a_stop_string_may_end_it_anywhere_and_a_free_answer_is_not_read() -> None:
    """The server took the stop string out, so the rest of the grammar is never seen."""
    stopped, free = Watch(SamplingParams(grammar=YES, stop=("s",))), Watch(SamplingParams())

    stopped.read("ye")
    stopped.end()
    free.read("anything")
    free.end()
    with pytest.raises(InvalidRequest):
        Watch(SamplingParams(grammar="root"))


def test_a_bound_answer_is_not_resumed() -> None:
    """A server would begin its grammar anew behind what is there."""
    refuse_to_resume(SamplingParams(logprobs=1))
    for bound in (SamplingParams(grammar=YES), SamplingParams(json_schema="{}")):
        with pytest.raises(EngineError, match="in the middle"):
            refuse_to_resume(bound)
