"""The native bodies: what is accepted, what becomes of it, and how a task is shown."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sibyl.core.cursor import Cursor
from sibyl.core.state import State
from sibyl.core.task import LOCAL_OWNER, Message, SamplingParams, Task, TaskId, TaskSpec
from sibyl.wire.gbnf import GRAMMAR_CHARS
from sibyl.wire.tasks import (
    MAX_TOKENS,
    QUESTION_CHARS,
    SEED_MOST,
    FortuneBody,
    PoemBody,
    QuestionBody,
    digest,
    task_body,
    timestamp,
)


def test_a_question_becomes_messages_in_their_order() -> None:
    """System, history, question; metadata and priority beside them."""
    body = QuestionBody.model_validate(
        {
            **{"question": "c", "system": "s", "priority": 0, "metadata": {"k": "v"}},
            "history": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        }
    )

    assert body.spec(seed=7) == TaskSpec(
        kind="question",
        messages=(
            Message(role="system", content="s"),
            Message(role="user", content="a"),
            Message(role="assistant", content="b"),
            Message(role="user", content="c"),
        ),
        sampling=SamplingParams(seed=7),
        priority=0,
        metadata={"k": "v"},
    )


def test_a_given_seed_is_kept_and_a_missing_one_is_drawn() -> None:
    """Zero is a seed too."""
    given_seed = QuestionBody.model_validate({"question": "x", "sampling": {"seed": 0}})
    without = QuestionBody.model_validate({"question": "x", "sampling": {"seed": None}})

    assert given_seed.spec(seed=7).sampling.seed == 0
    assert without.spec(seed=7).sampling.seed == 7


@pytest.mark.parametrize(
    "sampling",
    [
        {"max_tokens": 1, "temperature": 0, "top_k": 0, "min_p": 0, "seed": 0},
        {"max_tokens": MAX_TOKENS, "temperature": 2, "top_p": 1, "top_k": 1000, "min_p": 1, "seed": SEED_MOST},
        {"stop": ["x" * 64] * 8, "temperature": 1, "top_p": 0.001},
        {"max_tokens": 5.0, "top_k": 5e1, "seed": 4294967295.0},
    ],
)
def test_limits_are_within_what_is_allowed(sampling: dict[str, Any]) -> None:
    """The ends of every range, and whole numbers in every spelling that JSON has."""
    body = QuestionBody.model_validate({"question": "x" * QUESTION_CHARS, "sampling": sampling})

    params = body.spec(seed=1).sampling
    assert {name: getattr(params, name) for name in sampling} == sampling | (
        {"stop": tuple(sampling["stop"])} if "stop" in sampling else {}
    )
    assert params.max_tokens is None or isinstance(params.max_tokens, int)


def test_a_question_may_ask_for_logprobs_and_bind_its_answer() -> None:
    """A schema goes on as text, in the order in which it was written."""
    schema = {"type": "object", "properties": {"b": {"type": "null"}, "a": {"enum": ["é"]}}}
    asked = QuestionBody.model_validate({"question": "x", "sampling": {"logprobs": 3.0, "json_schema": schema}})
    bound = QuestionBody.model_validate({"question": "x", "sampling": {"grammar": "root ::= .", "logprobs": 0}})

    params = asked.spec(seed=1).sampling

    assert params == SamplingParams(seed=1, logprobs=3, json_schema=params.json_schema)
    assert params.json_schema == '{"type":"object","properties":{"b":{"type":"null"},"a":{"enum":["é"]}}}'
    assert bound.spec(seed=1).sampling == SamplingParams(seed=1, logprobs=0, grammar="root ::= .")


@pytest.mark.parametrize(
    "sampling",
    [
        {"logprobs": 21},
        {"logprobs": -1},
        {"logprobs": True},
        {"grammar": ""},
        {"grammar": "x" * (GRAMMAR_CHARS + 1)},
        {"json_schema": True},
        {"json_schema": "{}"},
        {"grammar": "root ::= .", "json_schema": {}},
    ],
)
def test_bindings_beyond_their_limits_are_refused(sampling: dict[str, Any]) -> None:
    """A range, a length, a type, or both at once; and a fortune has none of them."""
    with pytest.raises(ValidationError):
        QuestionBody.model_validate({"question": "x", "sampling": sampling})
    with pytest.raises(ValidationError):
        FortuneBody.model_validate({"question": "x", "sampling": {"logprobs": 1}})


@pytest.mark.parametrize("text", ["x", " x ", "。", "\x00x", "😀", "\u0301"])
def test_a_question_needs_one_visible_letter(text: str) -> None:
    """And keeps what stands around it."""
    assert QuestionBody.model_validate({"question": text}).question == text


@pytest.mark.parametrize("text", ["", " ", "\n", "\u00a0", "\u2028", "\u3000", "\x00", "\x1f", "\x7f", "\x85"])
def test_a_question_of_nothing_visible_is_none(text: str) -> None:
    """Spaces of every alphabet, and control characters."""
    with pytest.raises(ValidationError):
        QuestionBody.model_validate({"question": text})


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(0, 9))
def test_equal_requests_have_equal_digests_and_others_have_others(text: str, priority: int) -> None:
    """An Idempotency-Key compares them; the route belongs to a request."""
    body = QuestionBody.model_construct(question="x" + text, priority=priority)
    same = QuestionBody.model_construct(question="x" + text, priority=priority)
    other = QuestionBody.model_construct(question="y" + text, priority=priority)

    assert digest("questions", body) == digest("questions", same)
    assert digest("questions", body) != digest("questions", other)
    assert digest("questions", body) != digest("fortunes", body)


def test_a_default_that_is_written_out_is_the_same_request() -> None:
    """A client that is newer and says more means the same."""
    short = FortuneBody.model_validate({"question": "x"})
    long = FortuneBody.model_validate({"question": "x", "priority": 5, "metadata": {}, "sampling": {"stop": []}})

    assert digest("fortunes", short) == digest("fortunes", long)


def test_a_time_is_utc_with_milliseconds() -> None:
    """RFC 3339; no time is null."""
    assert timestamp(1_767_268_800.0) == "2026-01-01T12:00:00.000Z"
    assert timestamp(1_767_268_800.0019) == "2026-01-01T12:00:00.001Z"
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(None) is None


def test_only_a_fortune_shows_a_poem() -> None:
    """The member is absent elsewhere, not null."""
    task = Task(
        task_id=TaskId("0.ab"),
        owner=LOCAL_OWNER,
        spec=TaskSpec(kind="question", messages=()),
        state=State.QUEUED,
        position=0,
        attempt=0,
        model=None,
        text="",
        cursor=Cursor(0, 1),
        finish_reason=None,
        usage=None,
        error=None,
        created_at=0.0,
        started_at=None,
        finished_at=None,
        expires_at=1.0,
    )
    poem = PoemBody(number=1, title="t", grade="good", themes=["love"], lines=["a", "b", "c", "d"])

    assert "poem" not in task_body(task, None)
    assert task_body(task, poem)["poem"]["lines"] == ["a", "b", "c", "d"]
    assert task_body(task, None)["events_url"] == "/api/tasks/0.ab/events"
