"""The nouns: what was asked, what became of it, and who may write to it.

Values only, frozen and keyword-only. This file knows no Redis, no HTTP and no clock: every time is a
number given by a caller, in seconds since the Unix epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType

from sibyl.core.cursor import Cursor
from sibyl.core.logprobs import TokenLogprobs
from sibyl.core.state import State
from sibyl.core.transcript import Segment

TaskId = NewType("TaskId", str)  # "<shard>.<32 hex digits>": 128 random bits, unguessable
Owner = NewType("Owner", str)  # who asked; "local" until API keys exist

LOCAL_OWNER = Owner("local")

Kind = Literal["question", "fortune", "transcription"]
FinishReason = Literal["stop", "length", "cancelled", "error"]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. None means the default of the engine that runs the task."""

    max_tokens: int | None = None  #: most tokens of the answer
    temperature: float | None = None  #: 0 is greedy
    top_p: float | None = None  #: keep the likeliest tokens whose probabilities sum to this
    top_k: int | None = None  #: keep this many likeliest tokens; 0 keeps all
    min_p: float | None = None  #: drop tokens less likely than this share of the likeliest
    seed: int | None = None  #: None: drawn once when the task is accepted, so that a takeover draws the same
    stop: tuple[str, ...] = ()  #: the answer ends before the first of these, which is never emitted
    logprobs: int | None = None  #: how many likeliest tokens are told with each chosen one; None tells nothing
    grammar: str | None = None  #: GBNF that the answer must keep; None: it is free
    json_schema: str | None = None  #: JSON text of a schema that the answer must be valid under


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The audio of a transcription, which is stored beside the task until that ends, and how to hear it."""

    audio_bytes: int  #: of the file as it was sent
    language: str | None = None  #: BCP 47; None: the recogniser's default
    provider: str | None = None  #: name of the recogniser; None: the worker's own choice


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What was asked. It never changes after the task is accepted."""

    kind: Kind
    messages: tuple[Message, ...]
    sampling: SamplingParams = SamplingParams()
    priority: int = 5  #: 0 to 9, larger runs sooner
    metadata: Mapping[str, str] = field(default_factory=dict)  #: the client's own, returned unchanged
    poem_number: int | None = None  #: the poem of a fortune
    recording: Recording | None = None  #: what a transcription is of


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that the model read and wrote."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskError:
    """Why a task failed: a code for programs and a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it stands now. ``text`` is all of the answer that is stored so far."""

    task_id: TaskId
    owner: Owner
    spec: TaskSpec
    state: State
    position: int | None  #: tasks ahead of it in the queue; None unless queued
    attempt: int  #: attempts begun; 0 while it never ran
    model: str | None  #: name of the model that runs it; None while it never ran
    text: str
    cursor: Cursor | None  #: the last event of its log
    logprobs: tuple[TokenLogprobs, ...] = ()  #: one for each token of ``text``, when they were asked for
    segments: tuple[Segment, ...] = ()  #: of a transcription, all of ``text``
    audio_s: float | None = None  #: length of a completed transcription's audio
    finish_reason: FinishReason | None
    usage: Usage | None
    error: TaskError | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float  #: from here on it is forgotten; while it is unfinished, the latest such moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to append to one task's log until a deadline that the store keeps. Renewed by every append.

    ``epoch`` is the fencing token: each claim raises it, and the store refuses writes under an older one.
    ``nonce`` tells two holders apart should the store ever lose its newest writes and hand out an epoch twice.
    """

    task_id: TaskId
    epoch: int
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """A live worker, as it announced itself."""

    name: str
    model: str
    slots: int
    context_tokens: int | None  #: prompt and answer together; None when the engine does not know
    max_piece_bytes: int | None  #: longest text of one token; with it a hopeless prompt is refused early
    seen_at: float
    counters: Mapping[str, int] = field(default_factory=dict)  #: of its engine, since its start
