"""A task is read from what the server says, no more and no less."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sibyl.client.errors import UnexpectedReply
from sibyl.client.tasks import TaskPage, read_page, read_task
from sibyl.core.state import State
from sibyl.core.task import TaskError, Usage
from tests.client.native_server import POEM, Script, answering


def body(**changes: Any) -> dict[str, Any]:
    """A finished fortune, as REST shows it."""
    return Script("0.1", answering("Yes", "."), poem=POEM).body() | changes


def test_every_field_is_there() -> None:
    """A fortune with its poem, usage and times."""
    task = read_task(body())

    assert (task.task_id, task.kind, task.state, task.text) == ("0.1", "fortune", State.COMPLETED, "Yes.")
    assert task.usage == Usage(prompt_tokens=3, completion_tokens=2)
    assert task.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert task.poem is not None and task.poem.lines == ("One.", "Two.", "Three.", "Four.")
    assert task.metadata == {"lang": "en"}
    assert task.started_at is None


def test_a_failure_has_its_reason() -> None:
    """Code for programs, message for people."""
    task = read_task(body(state="failed", error={"code": "engine_error", "message": "It failed."}))

    assert task.error == TaskError(code="engine_error", message="It failed.")


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "thinking"},
        {"task_id": None},
        {"text": 1},
        {"position": "0"},
        {"attempt": True},
        {"created_at": "yesterday"},
        {"usage": {}},
        {"poem": []},
        {"metadata": 1},
    ],
)
def test_what_is_no_task_is_refused(wrong: dict[str, object]) -> None:
    """Never half a task."""
    with pytest.raises(UnexpectedReply):
        read_task(body(**wrong))


def test_a_page_is_read() -> None:
    """The tasks, and where the next page begins."""
    assert read_page({"tasks": [body()], "next_before": "0.1"}) == TaskPage(
        tasks=(read_task(body()),), next_before="0.1"
    )
    with pytest.raises(UnexpectedReply):
        read_page({"tasks": {}})
