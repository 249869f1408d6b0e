"""The native HTTP bodies: what a client may send, and the task as it is shown. Limits carry their unit in the name.

A body is checked here and nowhere else; what passes can be stored and fed to a model. Field descriptions and examples
make the OpenAPI document.
"""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from sibyl.core.state import State
from sibyl.core.task import FinishReason, Kind, Message, SamplingParams, Task, TaskSpec
from sibyl.wire.gbnf import GRAMMAR_CHARS
from sibyl.wire.json_schema import canonical_schema
from sibyl.wire.logprobs import shown_logprobs
from sibyl.wire.segments import shown_segments

QUESTION_CHARS = 16_000
HISTORY_MESSAGES = 64
MAX_TOKENS = 32_768
STOP_STRINGS = 8
STOP_CHARS = 64
METADATA_ENTRIES = 16
METADATA_KEY_CHARS = 64
METADATA_VALUE_CHARS = 512
LOGPROBS = 20
LISTED_TASKS = 100
SEED_MOST = 2**32 - 1
DEADLINE_MOST_S = 1e9

# At least one character that can be seen. Spelled out, since "white space" differs between regular expressions.
VISIBLE = r"[^\s\x00-\x1f\x7f\x85]"

Text = Annotated[str, StringConstraints(min_length=1, max_length=QUESTION_CHARS, pattern=VISIBLE)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=STOP_CHARS)]
Grammar = Annotated[str, StringConstraints(min_length=1, max_length=GRAMMAR_CHARS)]
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=METADATA_KEY_CHARS)]
MetadataValue = Annotated[str, StringConstraints(max_length=METADATA_VALUE_CHARS)]


def _whole(value: object) -> object:
    """JSON knows no integers: 5.0 is the same number as 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS), BeforeValidator(_whole)]
TopK = Annotated[int, Field(ge=0, le=1000), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, le=SEED_MOST), BeforeValidator(_whole)]
Logprobs = Annotated[int, Field(ge=0, le=LOGPROBS), BeforeValidator(_whole)]
Priority = Annotated[int, Field(ge=0, le=9), BeforeValidator(_whole)]
Deadline = Annotated[float, Field(ge=1, le=DEADLINE_MOST_S)]
DEADLINE = "the task expires if it is not finished after so many seconds; the server's own limit holds as well"


class Body(BaseModel):
    """What a client sends: exact types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class SamplingBody(Body):
    """How the next token is chosen. What is left out takes the engine's default."""

    max_tokens: Tokens | None = Field(None, description="most tokens of the answer")
    temperature: float | None = Field(None, ge=0, le=2, description="0 takes the likeliest token always")
    top_p: float | None = Field(None, gt=0, le=1, description="keep the likeliest tokens that sum to this share")
    top_k: TopK | None = Field(None, description="keep this many likeliest tokens; 0 keeps all")
    min_p: float | None = Field(None, ge=0, le=1, description="drop tokens below this share of the likeliest")
    seed: Seed | None = Field(None, description="the same seed draws the same answer")
    stop: list[Stop] = Field(
        default_factory=list, max_length=STOP_STRINGS, description="the answer ends before the first of these"
    )

    def params(self, *, seed: int) -> SamplingParams:
        """Return the parameters of a task; ``seed`` when the client gave none."""
        fields = {name: getattr(self, name) for name in SamplingBody.model_fields if name not in ("seed", "stop")}
        return SamplingParams(seed=seed if self.seed is None else self.seed, stop=tuple(self.stop), **fields)


_BOTH: dict[str, Any] = {
    "required": ["grammar", "json_schema"],
    "properties": {"grammar": {"type": "string"}, "json_schema": {"type": "object"}},
}


class QuestionSamplingBody(SamplingBody):
    """How the next token is chosen, what the answer must keep to, and what is told about its tokens."""

    model_config = ConfigDict(json_schema_extra={"not": _BOTH})

    logprobs: Logprobs | None = Field(
        None,
        description="tell the log probability of each token, and so many of the likeliest at its place, as in OpenAI's "
        "`top_logprobs`; they are the model's own, before temperature, `top_p` and the like",
    )
    grammar: Grammar | None = Field(
        None,
        description="the answer is a text of this grammar, in GBNF, the language of llama.cpp; it has a rule `root`",
        examples=['root ::= "yes" | "no"'],
    )
    json_schema: dict[str, Any] | None = Field(
        None,
        description="the answer is JSON that is valid under this schema. Understood are types, `properties`, "
        "`required`, `additionalProperties`, `items`, `prefixItems`, `enum`, `const`, `anyOf`, `oneOf`, `$ref` within "
        "the schema, bounds of lengths, items and numbers, and `format` date, time, date-time, uuid; any other keyword "
        "but an annotation is refused. Properties are written in the order of the schema, and no others beside them",
        examples=[{"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}],
    )

    @model_validator(mode="after")
    def _one_constraint(self) -> Self:
        if self.grammar is not None and self.json_schema is not None:
            raise ValueError("give a grammar or a json_schema, not both")
        return self

    def params(self, *, seed: int) -> SamplingParams:
        """As in a fortune; the schema as text.

        Raises:
            InvalidRequest: the schema is too large, too deep, or no JSON.
        """
        schema = None if self.json_schema is None else canonical_schema(self.json_schema)
        free = SamplingBody.params(self, seed=seed)
        return replace(free, logprobs=self.logprobs, grammar=self.grammar, json_schema=schema)


class HistoryMessage(Body):
    """An earlier turn."""

    role: Literal["user", "assistant"]
    content: Text


class QuestionBody(Body):
    """A question for the model."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"question": "Should I change my job this year?"},
                {
                    "question": "And if I wait?",
                    "history": [
                        {"role": "user", "content": "Should I change my job this year?"},
                        {"role": "assistant", "content": "The river turns before the mill does."},
                    ],
                    "sampling": {"max_tokens": 120, "temperature": 0.7, "seed": 7},
                    "metadata": {"from": "docs"},
                },
            ]
        }
    )

    question: Text = Field(description="what to ask")
    system: Text | None = Field(None, description="instructions for the model")
    history: list[HistoryMessage] = Field(
        default_factory=list, max_length=HISTORY_MESSAGES, description="earlier turns, oldest first"
    )
    sampling: QuestionSamplingBody = Field(default_factory=QuestionSamplingBody)
    priority: Priority = Field(5, description="larger runs sooner")
    deadline_s: Deadline | None = Field(None, description=DEADLINE)
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict, max_length=METADATA_ENTRIES, description="the client's own, returned unchanged"
    )

    def spec(self, *, seed: int) -> TaskSpec:
        """Return the task that is asked for."""
        system = [] if self.system is None else [Message(role="system", content=self.system)]
        history = [Message(role=turn.role, content=turn.content) for turn in self.history]
        return TaskSpec(
            kind="question",
            messages=(*system, *history, Message(role="user", content=self.question)),
            sampling=self.sampling.params(seed=seed),
            priority=self.priority,
            metadata=self.metadata,
        )


class FortuneBody(Body):
    """A question for the oracle: a poem is drawn and interpreted for it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"question": "Will the journey go well?", "seed": 42}]})

    question: Text = Field(description="what the poem is to answer")
    seed: Seed | None = Field(None, description="draws the poem; left out, chance does")
    sampling: SamplingBody = Field(default_factory=SamplingBody)
    priority: Priority = Field(5, description="larger runs sooner")
    deadline_s: Deadline | None = Field(None, description=DEADLINE)
    metadata: dict[MetadataKey, MetadataValue] = Field(default_factory=dict, max_length=METADATA_ENTRIES)


def digest(route: str, body: Body) -> str:
    """Return what tells one request from another: equal for equal requests.

    Without what has its default: a field that is new in this version must not make an older request another one.
    """
    return hashlib.sha256(f"{route}\n{body.model_dump_json(exclude_defaults=True)}".encode()).hexdigest()


class UsageBody(BaseModel):
    """Tokens that the model read and wrote."""

    prompt_tokens: int
    completion_tokens: int


class ErrorDetail(BaseModel):
    """Why a task failed."""

    code: str
    message: str


class PoemBody(BaseModel):
    """The poem of a fortune."""

    number: int
    title: str
    grade: str
    themes: list[str]
    lines: list[str]


class TokenBody(BaseModel):
    """A token and the logarithm of its probability."""

    token: str = Field(description="its text; a part of a character is shown as U+FFFD")
    id: int | None = Field(None, description="its number in the model's vocabulary, where that is known")
    logprob: float
    bytes: list[int] = Field(description="its text, exactly")


class TokenLogprobsBody(TokenBody):
    """A token of the answer, and the likeliest at its place."""

    top_logprobs: list[TokenBody] = Field(description="best first; the chosen one may be among them")


class WordBody(BaseModel):
    """A word that was heard."""

    word: str
    start: float = Field(description="seconds from the begin of the audio")
    end: float
    confidence: float | None = Field(description="0 to 1; null where the recogniser has none")


class SegmentBody(BaseModel):
    """A stretch of speech that was heard."""

    text: str
    start: float
    end: float
    confidence: float | None
    language: str | None = Field(description="null: the one that was asked for")
    words: list[WordBody]


class TaskBody(BaseModel):
    """A task as it stands now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "task_id": "0.5f0c7a7e6f1d4a3b9c2e8d7f6a5b4c3d",
                    "kind": "question",
                    "state": "running",
                    "position": None,
                    "attempt": 1,
                    "model": "Sibyl Oracle",
                    "text": "The river turns",
                    "finish_reason": None,
                    "usage": None,
                    "error": None,
                    "metadata": {},
                    "created_at": "2026-01-01T12:00:00.000Z",
                    "started_at": "2026-01-01T12:00:00.020Z",
                    "finished_at": None,
                    "expires_at": "2026-01-08T13:00:00.000Z",
                    "events_url": "/api/tasks/0.5f0c7a7e6f1d4a3b9c2e8d7f6a5b4c3d/events",
                }
            ]
        }
    )

    task_id: str
    kind: Kind
    state: State
    position: int | None = Field(description="tasks ahead of it in the queue; null unless queued")
    attempt: int = Field(description="attempts begun")
    model: str | None
    text: str = Field(description="the answer as far as it is stored")
    logprobs: list[TokenLogprobsBody] | None = Field(None, description="of the tokens of `text`, if asked for")
    finish_reason: FinishReason | None
    usage: UsageBody | None
    error: ErrorDetail | None
    metadata: dict[str, str]
    created_at: str = Field(description="RFC 3339, UTC")
    started_at: str | None
    finished_at: str | None
    expires_at: str = Field(description="forgotten from then on; while it is unfinished, the latest such moment")
    events_url: str = Field(description="where its events stream")
    poem: PoemBody | None = Field(None, description="of a fortune")
    segments: list[SegmentBody] | None = Field(None, description="of a transcription: what `text` consists of")
    duration: float | None = Field(None, description="of a completed transcription: seconds of audio")


class TaskListBody(BaseModel):
    """Tasks, newest first."""

    tasks: list[TaskBody]
    next_before: str | None = Field(description="give it as `before` for the next ones; null at the end")


class RequestErrorDetail(BaseModel):
    """One thing that is wrong with a request."""

    loc: list[str | int]
    message: str


class RequestError(BaseModel):
    """Why a request was refused."""

    code: str
    message: str
    details: list[RequestErrorDetail] | None = None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: RequestError


def task_body(task: Task, poem: PoemBody | None) -> dict[str, Any]:
    """Return a task as JSON shows it."""
    usage, error = task.usage, task.error
    body: dict[str, Any] = {
        "task_id": task.task_id,
        "kind": task.spec.kind,
        "state": task.state.value,
        "position": task.position,
        "attempt": task.attempt,
        "model": task.model,
        "text": task.text,
        "finish_reason": task.finish_reason,
        "usage": usage and {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
        "error": error and {"code": error.code, "message": error.message},
        "metadata": dict(task.spec.metadata),
        "created_at": timestamp(task.created_at),
        "started_at": timestamp(task.started_at),
        "finished_at": timestamp(task.finished_at),
        "expires_at": timestamp(task.expires_at),
        "events_url": f"/api/tasks/{task.task_id}/events",
    }
    if task.logprobs:
        body["logprobs"] = shown_logprobs(task.logprobs)
    if task.segments:
        body["segments"] = shown_segments(task.segments)
    if task.audio_s is not None:
        body["duration"] = task.audio_s
    return body if poem is None else body | {"poem": poem.model_dump()}


def timestamp(seconds: float | None) -> str | None:
    """Return a moment as RFC 3339 in UTC with milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
