"""The closed set of events that a task's log may hold.

A log is: ``Queued``, then for each attempt one ``Started`` and its ``Output``s, then exactly one terminal event.
Nothing else is ever logged; hints such as the queue position are not events.
"""

from dataclasses import dataclass

from sibyl.core.cursor import START, Cursor
from sibyl.core.logprobs import TokenLogprobs
from sibyl.core.task import FinishReason, Usage
from sibyl.core.transcript import Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """The task was accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A worker claimed the task. The outputs 1 to ``kept`` of earlier attempts stay; it goes on from there."""

    attempt: int
    model: str
    kept: int  #: outputs of the answer that were stored when it was claimed
    previous: Cursor  #: the log's last event at that moment; a reader that has another one lost events


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """New text of the answer and the model's tokens behind it, which a takeover feeds to the model again."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()  #: one for each token when they were asked for, else none
    segments: tuple[Segment, ...] = ()  #: of a transcription: the text is theirs, separated by spaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The answer is whole."""

    text_length: int  #: of the whole answer, in code points
    usage: Usage
    finish_reason: FinishReason
    audio_s: float | None = None  #: length of a transcription's audio
    kept: int = 0
    previous: Cursor = START


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The answer could not be given; what is stored of it stays."""

    code: str
    message: str
    kept: int = 0
    previous: Cursor = START


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The client asked to stop."""

    kept: int = 0
    previous: Cursor = START


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """The task's deadline passed before its answer was whole."""

    kept: int = 0
    previous: Cursor = START


Terminal = Completed | Failed | Cancelled | Expired
Event = Queued | Started | Output | Terminal


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in its place in the log."""

    cursor: Cursor
    event: Event
