"""The states of a task and every move between them. The only state machine; Lua gets this table rendered.

A task is ``queued`` until a worker claims it. ``running`` means that some worker holds, or held, its lease: when the
lease ran out another worker claims the task again, which is a move from running to running with a higher epoch, so a
dead worker needs no state of its own. The four others are terminal: their rows are empty, nothing follows.
"""

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """Where a task is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether nothing follows."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.FAILED, State.CANCELLED, State.EXPIRED}),
    State.RUNNING: frozenset({State.RUNNING, State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}
