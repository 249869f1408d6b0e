"""One call of ``generate`` on the decode thread: from a row of scores to text, until the answer ends or fails."""

import math
import threading
from collections.abc import Sequence as Items
from typing import Literal

from sibyl.core.errors import EngineError
from sibyl.core.event import Output
from sibyl.core.task import Usage
from sibyl.engines.answer import Answer
from sibyl.engines.base import GenerationRequest, GenerationResult, OnTokens
from sibyl.engines.grammar import Grammar
from sibyl.engines.llama_context import Context
from sibyl.engines.logprobs import logprobs_of
from sibyl.engines.sampler import Sampler
from sibyl.engines.sampling import Sampling
from sibyl.engines.sequence import Sequence
from sibyl.engines.vocabulary import Vocabulary

PROGRESS_TOKENS = 16  # least advance between two reports


class Generation(Sequence):
    """A sequence with its answer. The caller waits for ``wait``; all else is the decode thread's."""

    def __init__(
        self,
        request: GenerationRequest,
        on_tokens: OnTokens,
        *,
        prompt: Items[int],
        answer: Answer,
        sampling: Sampling,
        limit: int,
        vocabulary: Vocabulary,
        grammar: Grammar | None,
    ) -> None:
        """Prepare it; ``answer`` holds what an earlier attempt wrote, ``limit`` is the most tokens of the whole.

        ``grammar``: what the answer must keep to, after what is written of it; None when it is free.
        """
        super().__init__(prompt, answer.token_ids, priority=request.priority)
        if answer.token_ids:
            self.exact_until = math.inf  # set anew when the first of them is computed
        self.abort = request.abort
        self._request = request
        self._on_tokens = on_tokens
        self._answer = answer
        self._limit = limit
        self._vocabulary = vocabulary
        self._sampler = Sampler(sampling)
        self._grammar = grammar
        self._logprobs = sampling.logprobs
        self._reported = 0
        self._known_tokens = len(self.token_ids)
        self._ended = threading.Event()
        self._result: GenerationResult | None = None
        self._error: BaseException | None = None
        if answer.ended or self._complete or len(answer.token_ids) >= limit:
            cut = len(answer.token_ids) >= limit and not answer.stopped and not self._complete
            self._end("length" if cut else "stop")

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to compute."""
        return self._ended.is_set()

    @property
    def resting(self) -> bool:
        """Whether the reader of the answer has enough to do."""
        return self._request.backlogged is not None and self._request.backlogged()

    def go_on(self, context: Context, row: int | None, exact_until: float) -> None:
        """Take what a batch brought: with a row of scores the next token, without one the progress of the prompt.

        Args:
            exact_until: until when tokens of an earlier attempt are computed singly, if the first was computed now.
        """
        try:
            self.abort.raise_if_requested()
            if self.exact_until == math.inf and self.seen >= self.prompt_tokens:
                self.exact_until = exact_until
            if self.seen <= self._known_tokens:
                self._report(row is not None)
            if row is not None:
                self._choose(context, row)
        except BaseException as error:  # the caller's own, whatever it is, or the model's for this row
            self.fail(error)

    @property
    def _complete(self) -> bool:
        return self._grammar is not None and self._grammar.complete

    def _choose(self, context: Context, row: int) -> None:
        token_id = self._sampler.choose(context, row, len(self._answer.token_ids))
        if self._grammar is not None:
            token_id = self._fitting(token_id, self._grammar, context, row)
        if token_id in self._vocabulary.end_ids:
            self._emit(self._answer.flush())
            self._end("stop")
            return
        pieces, told = self._vocabulary.pieces, None
        if self._logprobs is not None:
            told = logprobs_of(context.scores(row), token_id, self._logprobs, pieces)
        self._emit(self._answer.push(token_id, pieces[token_id], told))
        self.abort.raise_if_requested()
        self.token_ids.append(token_id)
        whole = self._complete
        full = whole or len(self._answer.token_ids) >= self._limit
        if full and not self._answer.stopped:
            self._emit(self._answer.flush())  # in what was held back there may be a stop string
        if full or self._answer.stopped:
            self._end("stop" if whole or self._answer.stopped else "length")

    def _fitting(self, token_id: int, grammar: Grammar, context: Context, row: int) -> int:
        """Return the token if the grammar allows it, else another one, and go on in the grammar."""
        if not grammar.allows(token_id):
            scores = context.scores(row)
            token_ids = grammar.candidates(scores, self._sampler.candidates)
            token_id = self._sampler.choose_among(token_ids, scores[token_ids], len(self._answer.token_ids))
        if token_id not in self._vocabulary.end_ids:
            grammar.accept(token_id)
        return token_id

    def _emit(self, output: Output | None) -> None:
        if output is not None:
            self._on_tokens(output)

    def _report(self, complete: bool) -> None:
        on_progress = self._request.on_progress
        if on_progress is not None and (complete or self.seen - self._reported >= PROGRESS_TOKENS):
            self._reported = self.seen
            on_progress(self.seen, self._known_tokens)

    def _end(self, reason: Literal["stop", "length"]) -> None:
        usage = Usage(prompt_tokens=self.prompt_tokens, completion_tokens=len(self._answer.token_ids))
        self._result = GenerationResult(finish_reason=reason, usage=usage)
        self._ended.set()

    def fail(self, error: BaseException) -> None:
        """End it with an error. After its end nothing counts any more."""
        if not self.ended:
            self._error = error
            self._ended.set()

    def stop(self) -> None:
        """End it with the reason of its abort."""
        self.fail(self.abort.reason or EngineError("Stopped."))

    def wait(self) -> GenerationResult:
        """Return how it ended, once it has.

        Raises:
            BaseException: what it failed with.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def close(self) -> None:
        """Free the sampler, after the end."""
        self._sampler.close()
