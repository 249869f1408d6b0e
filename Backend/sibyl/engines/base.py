"""What every engine is: one blocking call that emits the answer piece by piece.

The worker calls ``generate`` in a thread of its pool. An engine never learns which task, owner or store it serves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.task import Message, SamplingParams, Usage

OnTokens = Callable[[Output], None]
"""Takes the next piece of the answer. May block (back-pressure) and may raise; the engine stops and lets it pass."""

OnProgress = Callable[[int, int], None]
"""Prompt tokens evaluated, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One generation, or the rest of one."""

    messages: tuple[Message, ...]
    sampling: SamplingParams
    abort: Abort
    stored: tuple[Output, ...] = ()  #: what an earlier attempt emitted; the answer goes on after it, exactly
    on_progress: OnProgress | None = None
    priority: int = 5  #: larger ones get a slot sooner, and are put aside later
    #: whether it should rest: so much of it is on its way that ``on_tokens`` may soon wait; None: never ask
    backlogged: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """How a generation ended. Tokens of the stored part count as completion tokens."""

    finish_reason: Literal["stop", "length"]
    usage: Usage


class Engine(Protocol):
    """A model that answers. ``generate`` may be called from several threads at once, up to ``slots``."""

    @property
    def model(self) -> str:
        """The model's name, as clients see it."""

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together; None when it cannot be known."""

    @property
    def max_piece_bytes(self) -> int | None:
        """UTF-8 bytes of the longest token; None when it cannot be known."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What it did since it was loaded, for operators; names of figures, each of which only ever grows."""

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int | None:
        """Return how many tokens these messages are in the model's own chat template; None when it cannot be known."""

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Emit the answer through ``on_tokens``, in order, and return how it ended.

        The texts of all outputs, stored and emitted, join to the answer. Each is valid Unicode, none is empty, and
        their token ids, fed after the prompt, put the model where the last output ended.

        Raises:
            PromptTooLong: prompt and one token do not fit into the context.
            EngineError: the model failed.
            Exception: the reason given to ``request.abort``, soon after it was requested, also while the prompt is
                evaluated; or what ``on_tokens`` raised.
        """

    def close(self) -> None:
        """Free the model. No generation may be running."""
