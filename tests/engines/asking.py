"""The usual way to ask an engine in a test."""

from collections.abc import Sequence

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.task import Message, Role, SamplingParams
from sibyl.engines.base import Engine, GenerationRequest, GenerationResult, OnProgress


def said(text: str, role: Role = "user") -> Message:
    """Return one turn of a conversation."""
    return Message(role=role, content=text)


def asking(
    question: str | tuple[Message, ...],
    *,
    sampling: SamplingParams | None = None,
    stored: Sequence[Output] = (),
    abort: Abort | None = None,
    on_progress: OnProgress | None = None,
) -> GenerationRequest:
    """Return a request, by default for a greedy answer of at most 32 tokens."""
    return GenerationRequest(
        messages=(said(question),) if isinstance(question, str) else question,
        sampling=sampling or SamplingParams(temperature=0.0, max_tokens=32, seed=1),
        abort=abort or Abort(),
        stored=tuple(stored),
        on_progress=on_progress,
    )


def answer(engine: Engine, request: GenerationRequest) -> tuple[list[Output], GenerationResult]:
    """Return what the engine emits and how it ends."""
    outputs: list[Output] = []
    result = engine.generate(request, outputs.append)
    return outputs, result


def text_of(outputs: Sequence[Output]) -> str:
    """Return the joined text."""
    return "".join(output.text for output in outputs)


def ids_of(outputs: Sequence[Output]) -> list[int]:
    """Return the joined token ids."""
    return [token_id for output in outputs for token_id in output.token_ids]
