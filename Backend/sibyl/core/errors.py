"""Every error that Sibyl raises on purpose.

    SibylError
        InvalidRequest          the caller must change the request
            InvalidCursor
            PromptTooLong
            IdempotencyMismatch
        UnknownTask             no such task, or another owner's
        TaskForgotten           it existed; it was deleted or its retention ended
        QueueFull               try again later
        TooManyTasks            try again later
        TooManyFollowers        try again later, or at another node
        StoreUnavailable        Redis is out of reach, try again later
            StoreFull           Redis refuses writes
        StoreUnsuitable         Redis is reachable but must not be used
        LogUnreadable           another version wrote it; ask a node of that version
        LeaseLost               another worker owns the task now; stop
        TaskCancelled           the client asked to stop
        DeadlinePassed          the task's time is over
        EngineError             the model could not answer
            ModelUnusable       the model cannot be loaded
            UpstreamError       the remote model server failed
        BridgeError
            BridgeClosed        the event loop is gone
            BridgeEnded         a callback came after the end
            DeliveryFailed      the loop side could not take what was produced
        ProcessError            a process cannot start; the message says what to do

A class's docstring is its default message. ``status`` is a hint for HTTP, ``retry_after_s`` says that a retry helps
and when. ``code`` is the word that programs see.
"""

import re


class SibylError(Exception):
    """Something went wrong."""

    status: int = 500
    retry_after_s: int | None = None

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        """A sentence for people."""
        return str(self.args[0])

    @property
    def code(self) -> str:
        """The class's name in snake case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class InvalidRequest(SibylError):
    """The request is not valid."""

    status = 422


class InvalidCursor(InvalidRequest):
    """A cursor looks like 1700000000000-12; take it from the id of the last event you have."""


class PromptTooLong(InvalidRequest):
    """The prompt does not fit into the model's context. Shorten the question or the history."""


class IdempotencyMismatch(InvalidRequest):
    """This Idempotency-Key was used with another request. Use a new key for a new question."""


class UnknownTask(SibylError):
    """There is no task with this id."""

    status = 404


class TaskForgotten(SibylError):
    """The task was deleted, or its retention ended."""

    status = 410


class QueueFull(SibylError):
    """The queue is full. Try again later."""

    status = 429
    retry_after_s = 5


class TooManyTasks(SibylError):
    """You have too many unfinished tasks. Wait for one to finish, or cancel one."""

    status = 429
    retry_after_s = 5


class TooManyFollowers(SibylError):
    """This node has as many open event streams as it may. Try again in a moment."""

    status = 503
    retry_after_s = 2


class StoreUnavailable(SibylError):
    """Redis is out of reach. Try again in a moment."""

    status = 503
    retry_after_s = 1


class StoreFull(StoreUnavailable):
    """Redis refuses writes: its disk or memory is full."""

    retry_after_s = 10


class StoreUnsuitable(SibylError):
    """This Redis cannot be used."""

    status = 503


class LogUnreadable(SibylError):
    """This version of Sibyl cannot read the task's log, which another version has written. Try again in a moment."""

    status = 503
    retry_after_s = 5


class LeaseLost(SibylError):
    """Another worker owns the task now."""

    status = 409


class TaskCancelled(SibylError):
    """The task was cancelled."""

    status = 409


class DeadlinePassed(SibylError):
    """The task was not finished before its deadline."""

    status = 504


class EngineError(SibylError):
    """The model could not answer."""


class ModelUnusable(EngineError):
    """The model cannot be loaded."""


class UpstreamError(EngineError):
    """The remote model server failed."""

    status = 502


class BridgeError(SibylError):
    """The bridge between a thread and the event loop failed."""


class BridgeClosed(BridgeError):
    """The event loop is closed; nothing can be delivered any more."""


class BridgeEnded(BridgeError):
    """A callback came after its generation had ended."""


class DeliveryFailed(BridgeError):
    """What was produced could not be delivered."""


class ProcessError(SibylError):
    """The process cannot start."""
