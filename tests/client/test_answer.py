"""The text of an answer is what its events say."""

import pytest

from sibyl.client.answer import Answer
from sibyl.client.errors import TaskFailed, UnexpectedReply
from sibyl.client.events import Cancelled, ClientEvent, Completed, Expired, Failed, Output, Position, Reset
from sibyl.core.errors import DeadlinePassed, SibylError, TaskCancelled


def completed(text_length: int) -> Completed:
    """The end of an answer of this length."""
    return Completed(cursor="1-9", text_length=text_length, usage=None, finish_reason="stop")


def test_outputs_join_and_a_reset_replaces() -> None:
    """What stood before a reset is void; what comes after goes on from it."""
    answer = Answer()

    for event in (
        Position(cursor=None, position=1),
        Output(cursor="1-1", token="He", index=0),
        Output(cursor="1-2", token="y", index=1),
        Reset(cursor=None, kept=1, text="H"),
        Output(cursor="2-2", token="i", index=1),
        completed(2),
    ):
        answer.take(event)

    assert answer.text == "Hi"


def test_length_is_counted_in_code_points() -> None:
    """A letter outside the basic plane is one."""
    answer = Answer()

    answer.take(Output(cursor="1-1", token="😀", index=0))
    answer.take(completed(1))

    with pytest.raises(UnexpectedReply):
        answer.take(completed(2))


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (Cancelled(cursor="1-1"), TaskCancelled),
        (Expired(cursor="1-1", message=None), DeadlinePassed),
        (Failed(cursor="1-1", code="worker_lost", message="Lost."), TaskFailed),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(event: ClientEvent, kind: type[SibylError]) -> None:
    """Half an answer is never returned as one."""
    with pytest.raises(kind):
        Answer().take(event)
