"""The text of an answer, from its events. Knows nothing of how they came."""

from typing import assert_never

from sibyl.client.errors import UnexpectedReply, task_error
from sibyl.client.events import (
    Cancelled,
    ClientEvent,
    Completed,
    Expired,
    Failed,
    Output,
    Position,
    Progress,
    Queued,
    Reset,
    Started,
)
from sibyl.core.errors import DeadlinePassed, TaskCancelled


class Answer:
    """What a task has answered so far. Feed it every event from the beginning."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._parts)

    def take(self, event: ClientEvent) -> None:
        """Add one event.

        Raises:
            SibylError: the task ended without an answer, as the class says.
            UnexpectedReply: the answer is said to be whole, and has another length.
        """
        match event:
            case Output():
                self._parts.append(event.token)
            case Reset():
                self._parts = [event.text]
            case Completed():
                if event.text_length != len(self.text):
                    raise UnexpectedReply("The answer is not as long as the server says. Read the task again.")
            case Failed():
                raise task_error(event.code, event.message)
            case Cancelled():
                raise TaskCancelled()
            case Expired():
                raise DeadlinePassed(event.message)
            case Queued() | Started() | Position() | Progress():
                pass
            case _:
                assert_never(event)
