"""Answers by a GGUF model in this process, through llama.cpp.

One model, and ``slots`` contexts, each of which works on one generation at a time. Promises: the first token waits for
nothing but its prompt; a request to stop is obeyed within a node of the graph, also in the middle of a prompt; a
generation that went on elsewhere draws what it would have drawn here. It refuses to know how llama.cpp is called.

llama.cpp rounds differently when it evaluates tokens in a chunk than when it computes them one by one, and where two
tokens are almost equally likely, the other may win. So a resumed generation evaluates the stored tokens as they were
first computed, one by one, which gives the same bits; but only for EXACT_RESUME_S, and the rest in chunks. For a small
model that is every answer. For a large one, and between machines or numbers of threads, the same bits are not promised.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from sibyl.bridge.abort import Abort
from sibyl.core.errors import EngineError, PromptTooLong
from sibyl.core.event import Output
from sibyl.core.task import Message, Usage
from sibyl.engines.answer import Answer
from sibyl.engines.base import GenerationRequest, GenerationResult, OnTokens
from sibyl.engines.chat_template import ChatTemplate, token_ids
from sibyl.engines.llama_binding import ComputationAborted, Context, Model, Sampler
from sibyl.engines.sampling import Sampling, recommended_sampling

logger = logging.getLogger(__name__)

CONTEXT_TOKENS = 4096  # a slot's memory grows with it: 0.5 GB for an 8B model at 131 kB a token
EXACT_RESUME_S = 1.0  # most that a takeover may cost more than it must, for the sake of the same words
PROMPT_CHUNK_TOKENS = 256  # 94 % of the speed of 512, and twice as many reports of progress


class LlamaEngine:
    """A GGUF model that answers. ``generate`` may be called from several threads; beyond ``slots`` they wait."""

    def __init__(
        self,
        model_path: Path,
        *,
        slots: int = 1,
        threads: int | None = None,
        context_tokens: int | None = None,
        gpu_layers: int = 0,
    ) -> None:
        """Load the model and make every slot ready.

        Args:
            slots: generations at a time.
            threads: that compute one generation; None shares the cores among the slots and leaves one to the rest of
                Sibyl, because a computing thread that waits for another one spins.
            context_tokens: prompt and answer of one generation together; None is what the model was trained for, at
                most 4096. Never more than the model was trained for.
            gpu_layers: layers to put on a GPU, -1 for all.

        Raises:
            ModelUnusable: the file is missing, unreadable, damaged or no such model, or memory is short.
        """
        self._model = Model(model_path, gpu_layers=gpu_layers)
        self._contexts: list[Context] = []
        try:
            vocabulary = self._model.vocabulary
            self._template = ChatTemplate(
                self._model.chat_template, vocabulary.control, bos=vocabulary.bos, eos=vocabulary.eos
            )
            self._recommended = recommended_sampling(self._model.metadata)
            trained = self._model.context_tokens
            self._context_tokens = min(context_tokens or CONTEXT_TOKENS, trained or CONTEXT_TOKENS)
            self._max_piece_bytes = vocabulary.max_piece_bytes
            for _ in range(slots):
                self._contexts.append(
                    Context(
                        self._model,
                        tokens=self._context_tokens,
                        batch_tokens=PROMPT_CHUNK_TOKENS,
                        threads=threads or max(1, (_cores() - 1) // slots),
                    )
                )
                # The first computation maps pages and plans its graph. Better now than when somebody waits.
                self._contexts[-1].evaluate([0])
        except BaseException:
            self._free()
            raise
        self._slots = _Slots(self._contexts)

    @property
    def model(self) -> str:
        """The name in the file, or the file's own."""
        return self._model.name

    @property
    def context_tokens(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._context_tokens

    @property
    def max_piece_bytes(self) -> int | None:
        """UTF-8 bytes of the longest token; None when a token may stand for any amount of text."""
        return self._max_piece_bytes

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return how many tokens these messages are in the model's own chat template.

        Raises:
            PromptTooLong: no prompt of this size can fit, so it was not counted.
            InvalidRequest: the template refuses these messages.
        """
        with self._slots.using():
            return len(self._prompt(messages))

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Emit the answer through ``on_tokens``; see ``Engine.generate``."""
        request.abort.raise_if_requested()
        with self._slots.using():
            return self._generate(request, on_tokens)

    def _generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        sampling = Sampling.of(request.sampling, self._recommended)
        prompt = self._prompt(request.messages)
        if len(prompt) >= self._context_tokens:
            raise PromptTooLong(
                f"The prompt is {len(prompt)} tokens long, and the model's context holds {self._context_tokens} with "
                "the answer. Shorten the question or the history."
            )
        answer = Answer((*sampling.stop, *self._template.stop))
        if request.stored:
            vocabulary = self._model.vocabulary
            answer.restore(request.stored, vocabulary.piece, vocabulary.tokenize)
        with self._slots.take(request.abort) as context, request.abort.hook(context.begin()):
            try:
                finish_reason = self._write(request, sampling, prompt, answer, context, on_tokens)
            except ComputationAborted:
                request.abort.raise_if_requested()
                raise
        usage = Usage(prompt_tokens=len(prompt), completion_tokens=len(answer.token_ids))
        return GenerationResult(finish_reason=finish_reason, usage=usage)

    def _write(
        self,
        request: GenerationRequest,
        sampling: Sampling,
        prompt: list[int],
        answer: Answer,
        context: Context,
        on_tokens: OnTokens,
    ) -> Literal["stop", "length"]:
        """Write from where ``answer`` stands to its end, and return what ended it."""
        limit = min(sampling.max_tokens, self._context_tokens - len(prompt))
        written = answer.token_ids
        if answer.ended:
            return "length" if len(written) >= limit and not answer.stopped else "stop"
        pieces, end_ids = self._model.vocabulary.pieces, self._model.vocabulary.end_ids
        with closing(Sampler(sampling)) as sampler:
            if len(written) < limit:
                self._evaluate_prompt(prompt, written, context, request)
            while len(written) < limit:
                token_id = sampler.choose(context, len(written))
                if token_id in end_ids:
                    _emit(answer.flush(), on_tokens)
                    return "stop"
                _emit(answer.push(token_id, pieces[token_id]), on_tokens)
                request.abort.raise_if_requested()
                if answer.stopped:
                    return "stop"
                if len(written) < limit:
                    context.evaluate((token_id,))
        _emit(answer.flush(), on_tokens)
        return "stop" if answer.stopped else "length"

    def _evaluate_prompt(
        self, prompt: list[int], written: list[int], context: Context, request: GenerationRequest
    ) -> None:
        """Bring the context to where the answer goes on: after the prompt, and after what is written already."""
        total = len(prompt) + len(written)

        def evaluate(ids: Sequence[int], start: int, size: int) -> int:
            request.abort.raise_if_requested()
            chunk = ids[start : start + size]
            context.evaluate(chunk)
            return start + len(chunk)

        def report(done: int) -> None:
            if request.on_progress is not None:
                request.on_progress(done, total)

        done = 0
        while done < len(prompt):
            done = evaluate(prompt, done, context.batch_tokens)
            report(done)
        done, exact_until = 0, time.monotonic() + EXACT_RESUME_S
        while done < len(written):
            exact = time.monotonic() < exact_until
            done = evaluate(written, done, 1 if exact else context.batch_tokens)
            if not exact or done % context.batch_tokens == 0 or done == len(written):
                report(len(prompt) + done)

    def _prompt(self, messages: tuple[Message, ...]) -> list[int]:
        if self._max_piece_bytes is not None:
            size = sum(len(message.content.encode("utf-8", "replace")) for message in messages)
            if size > self._context_tokens * self._max_piece_bytes:
                raise PromptTooLong()
        vocabulary = self._model.vocabulary
        prompt = token_ids(self._template.pieces(messages), vocabulary.tokenize)
        if vocabulary.first_id is not None and prompt[:1] != [vocabulary.first_id]:
            prompt.insert(0, vocabulary.first_id)
        if not prompt:
            raise EngineError("The model's chat template made an empty prompt.")
        return prompt

    def close(self) -> None:
        """Free the model. Twice is once.

        Raises:
            EngineError: a generation is running, whose memory this would be.
        """
        self._slots.close()
        self._free()

    def _free(self) -> None:
        for context in self._contexts:  # before the model: they point into it
            context.close()
        self._contexts.clear()
        self._model.close()


def _emit(output: Output | None, on_tokens: OnTokens) -> None:
    if output is not None:
        on_tokens(output)


def _cores() -> int:
    """Return how many cores this process may use, in a container with a quota too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota_us, period_us = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, int(quota_us) // int(period_us)))
    except (OSError, ValueError):  # no such file, or "max"
        return cores


class _Slots:
    """The contexts that nobody uses now, and how many callers are inside the engine."""

    def __init__(self, contexts: Sequence[Context]) -> None:
        self._free = list(contexts)
        self._users = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def using(self) -> Iterator[None]:
        """Keep the engine open for as long as the block runs."""
        with self._changed:
            if self._closed:
                raise EngineError("The model is closed.")
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1

    @contextmanager
    def take(self, abort: Abort) -> Iterator[Context]:
        """Have a context for as long as the block runs; wait for one if all are taken."""
        with abort.hook(self._wake), self._changed:
            while not self._free:
                abort.raise_if_requested()
                self._changed.wait()
            context = self._free.pop()
        try:
            yield context
        finally:
            with self._changed:
                self._free.append(context)
                self._changed.notify_all()  # one alone might be on its way out, stopped, and tell nobody

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Hand out none any more."""
        with self._changed:
            if self._users:
                raise EngineError("The model is still running.")
            self._closed = True
