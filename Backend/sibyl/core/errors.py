"""Every error that Sibyl raises on purpose.

    SibylError
        InvalidRequest          the caller must change the request
            InvalidCursor
            PromptTooLong
            IdempotencyMismatch
            AudioUnreadable     a file is no audio that we can decode
            AudioTooLong
        UnknownTask             no such task, or another owner's
        TaskForgotten           it existed; it was deleted or its retention ended
        QueueFull               try again later
        TooManyTasks            try again later
        TooManyFollowers        try again later, or at another node
        StoreUnavailable        Redis is out of reach, try again later
            StoreFull           Redis refuses writes
        StoreUnsuitable         Redis is reachable but must not be used
        LogUnreadable           another version wrote it; ask a node of that version
        WriteFailed             an answer could not be written for a fault of our own
        LeaseLost               another worker owns the task now; stop
        TaskCancelled           the client asked to stop
        DeadlinePassed          the task's time is over
        EngineError             the model could not answer
            ModelUnusable       the model cannot be loaded
            UpstreamError       the remote model server failed
            TextUnwritable      the model's text is no Unicode
        RecogniserFailed        what was said could not be heard
            RecogniserUnavailable   it is not installed, or its model is missing
            RecogniserBusy      it hears as many as it can
            VendorRefused       a vendor of speech recognition does not accept our key
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
        return code_of(type(self))


def code_of(kind: type[SibylError]) -> str:
    """Return the code of all errors of a class."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


class InvalidRequest(SibylError):
    """The request is not valid."""

    status = 422


class InvalidCursor(InvalidRequest):
    """A cursor looks like 1700000000000-12; take it from the id of the last event you have."""


class PromptTooLong(InvalidRequest):
    """The prompt does not fit into the model's context. Shorten the question or the history."""


class IdempotencyMismatch(InvalidRequest):
    """This Idempotency-Key was used with another request. Use a new key for a new question."""


class AudioUnreadable(InvalidRequest):
    """This is no audio that can be read. Send a whole WAV, FLAC, Ogg or MP3 file."""

    status = 415


class AudioTooLong(InvalidRequest):
    """The recording is too long. Cut it into parts."""


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


class WriteFailed(SibylError):
    """The answer could not be written for an unexpected error; the worker's log has the details."""


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


class TextUnwritable(EngineError):
    """The model wrote text that is no valid Unicode, which cannot be stored. Ask again, or use another model."""


class RecogniserFailed(SibylError):
    """The speech recogniser failed."""


class RecogniserUnavailable(RecogniserFailed):
    """The speech recogniser cannot be loaded."""

    status = 503


class RecogniserBusy(RecogniserFailed):
    """As many people are heard as can be. Try again in a moment."""

    status = 429
    retry_after_s = 5


class VendorRefused(RecogniserFailed):
    """The vendor of speech recognition does not accept our key."""

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
