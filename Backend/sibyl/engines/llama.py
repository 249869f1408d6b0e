"""Answers by a GGUF model in this process, through llama.cpp: one model, one context, one thread that decodes for all.

Every call of ``generate`` waits in its own thread while the decode thread computes the next token of all of them
together. Promises: an answer never waits for another one's prompt longer than a step takes; a request to stop is obeyed
within a node of the graph while a prompt is read, and after the token under way otherwise; a generation that fails
takes none of the others with it; a generation that went on elsewhere draws what it would have drawn here. It refuses
to know how llama.cpp is called.

llama.cpp rounds differently by how many tokens it computes at once, and where two tokens are almost equally likely, the
other may win. So a resumed generation computes the stored tokens as they were first computed, one by one; but only for
EXACT_RESUME_S, and the rest in chunks. Beside other answers, for a large model, and between machines or numbers of
threads the same bits are not promised.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from sibyl.core.errors import EngineError
from sibyl.core.task import Message
from sibyl.engines.answer import Answer
from sibyl.engines.base import GenerationRequest, GenerationResult, OnTokens
from sibyl.engines.calibration import calibrate as calibrated
from sibyl.engines.cores import usable_cores
from sibyl.engines.decode_thread import DecodeThread
from sibyl.engines.generation import Generation
from sibyl.engines.grammar import Grammars
from sibyl.engines.kv_pool import KvPool
from sibyl.engines.llama_build import flash_attention_pays
from sibyl.engines.llama_context import ComputationAborted, Context, Part, PoolFull
from sibyl.engines.llama_model import Model, SplitMode
from sibyl.engines.places import Copy, Move
from sibyl.engines.prompts import Prompts
from sibyl.engines.row_costs import RowCosts
from sibyl.engines.sampling import Sampling, recommended_sampling
from sibyl.engines.scheduler import Batch, Row, Scheduler

CONTEXT_TOKENS = 4096  # a slot's memory grows with it: 0.5 GB for an 8B model at 131 kB a token
EXACT_RESUME_S = 1.0  # most that a takeover may cost more than it must, for the sake of the same words
PROMPT_CHUNK_TOKENS = 256  # 94 % of the speed of 512, and twice as many reports of progress
TARGET_GAP_MS = 85.0


class LlamaEngine:
    """A GGUF model that answers. ``generate`` may be called from several threads; beyond ``slots`` they wait."""

    def __init__(
        self,
        model_path: Path,
        *,
        slots: int = 1,
        threads: int | None = None,
        context_tokens: int | None = None,
        pool_tokens: int | None = None,
        target_gap_ms: float = TARGET_GAP_MS,
        flash_attention: bool | None = None,
        gpu_layers: int = 0,
        split_mode: SplitMode = "layer",
        main_gpu: int = 0,
        tensor_split: Sequence[float] = (),
        calibrate: bool = True,
        calibration_folder: Path | None = None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        """Load the model and make every slot ready.

        Args:
            slots: generations at a time.
            threads: that compute; None measures which number is fastest, and leaves one core to the rest of Sibyl,
                because a computing thread that waits for another one spins.
            context_tokens: prompt and answer of one generation together; None is what the model was trained for, at
                most 4096. Never more than the model was trained for.
            pool_tokens: all slots share room for so many tokens, at least one context; when it is full, the youngest
                generation is put aside for a while. None, or room for all: each slot has its own, which is faster.
            target_gap_ms: how long running answers may pause for each prompt that is read beside them; longer where
                one token of all of them takes more than a third of it.
            flash_attention: None takes what is faster here.
            gpu_layers, split_mode, main_gpu, tensor_split: see ``Model``.
            calibrate: whether to measure what batches cost, and to shape them by that.
            calibration_folder: keeps what was measured for the next start; None keeps nothing.
            on_death: called when the decode thread is lost, through a fault or a computation that never returns.
                No generation can end then; the process should.

        Raises:
            ModelUnusable: the file is missing, unreadable, damaged or no such model, or memory is short.
        """
        self._model = Model(
            model_path, gpu_layers=gpu_layers, split_mode=split_mode, main_gpu=main_gpu, tensor_split=tensor_split
        )
        self._users = 0
        self._closed = False
        self._using_changed = threading.Lock()  # guards these two
        self._context: Context | None = None
        try:
            trained = self._model.context_tokens
            self._context_tokens = min(context_tokens or CONTEXT_TOKENS, trained or CONTEXT_TOKENS)
            self._prompts = Prompts(self._model, context_tokens=self._context_tokens)
            self._recommended = recommended_sampling(self._model.metadata)
            self._grammars = Grammars(self._model.vocabulary.pieces, self._model.vocabulary.end_ids)
            choices = [threads] if threads else _thread_counts(usable_cores())
            pooled = pool_tokens is not None and pool_tokens < slots * self._context_tokens
            # In a shared room only flash attention passes by the tokens of others quickly.
            pays = gpu_layers != 0 or pooled or flash_attention_pays()
            self._context = Context(
                self._model,
                places=slots,
                place_tokens=self._context_tokens,
                batch_tokens=PROMPT_CHUNK_TOKENS,
                threads=choices[0],
                pool_tokens=max(pool_tokens or 0, self._context_tokens) if pooled else None,
                flash_attention=flash_attention if flash_attention is not None or pays else False,
            )
            self._calibrate = partial(
                calibrated,
                self._context,
                model_path=model_path,
                threads=choices,
                rows=calibrate and slots > 1 and self._model.divisible,
                folder=calibration_folder,
            )
            pool = self._context.pool_tokens
            self._scheduler = Scheduler(
                places=slots,
                place_tokens=self._context_tokens,
                batch_tokens=self._context.batch_tokens,
                pool=None if pool is None else KvPool(slots, pool),
                target_gap_s=target_gap_ms / 1000,
                reuses=self._model.divisible,
            )
            self._decoding = DecodeThread(
                prepare=self._prepare, step=self._step, abort=self._context.abort, on_death=on_death
            )
        except BaseException:
            self._free()
            raise

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
        return self._prompts.max_piece_bytes

    @property
    def counters(self) -> dict[str, int]:
        """What was computed, reused and put aside since the start."""
        return asdict(self._scheduler.counters)

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return how many tokens these messages are in the model's own chat template.

        Raises:
            PromptTooLong: no prompt of this size can fit, so it was not counted.
            InvalidRequest: the template refuses these messages.
        """
        with self._using():
            return len(self._prompts.tokens(messages))

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Emit the answer through ``on_tokens``, on the decode thread; see ``Engine.generate``.

        ``on_tokens`` must not block, or all answers wait; a request that is ``backlogged`` rests.
        """
        request.abort.raise_if_requested()
        with self._using(), closing(self._generation(request, on_tokens)) as generation:
            if not generation.ended:
                with request.abort.hook(partial(self._decoding.interrupt, generation)):
                    self._decoding.submit(generation)
                    return generation.wait()
            return generation.wait()

    def _generation(self, request: GenerationRequest, on_tokens: OnTokens) -> Generation:
        sampling = Sampling.of(request.sampling, self._recommended)
        prompt = self._prompts.fitting(request.messages)
        vocabulary = self._model.vocabulary
        answer = Answer((*sampling.stop, *self._prompts.stop))
        if request.stored:
            answer.restore(request.stored, vocabulary.piece, vocabulary.tokenize)
        grammar = self._grammars.of(request.sampling)
        if grammar is not None:
            grammar.restore(answer.token_ids)
        return Generation(
            request,
            on_tokens,
            prompt=prompt,
            answer=answer,
            sampling=sampling,
            limit=min(sampling.max_tokens, self._context_tokens - len(prompt)),
            vocabulary=vocabulary,
            grammar=grammar,
        )

    def _prepare(self) -> None:
        found = self._calibrate()
        self._scheduler.costs = RowCosts(found.row_seconds)

    def _step(self) -> None:
        self._take_in()
        moves, batches = self._scheduler.plan(time.monotonic())
        self._move(moves)
        for batch in batches:
            self._compute(batch)
        self._let_go()

    def _take_in(self) -> None:
        for generation in self._decoding.take_in():
            self._scheduler.add(generation)
        self._let_go()

    def _let_go(self) -> None:
        for generation in self._decoding.let_go():
            self._scheduler.remove(generation)

    def _move(self, moves: list[Move]) -> None:
        context = self._opened()
        for move in moves:
            if isinstance(move, Copy):
                context.copy(move.source, move.target, move.tokens)
                place = move.target
            else:
                context.trim(move.place, move.tokens)
                place = move.place
            if context.held[place] < move.tokens:
                self._scheduler.lost(place, context.held[place])

    def _compute(self, batch: Batch) -> None:
        """Compute a batch and have its generations go on; if it fails, each of them alone, so that only one is lost."""
        rows = tuple(row for row in batch.rows if row.sequence.place is not None)  # not put aside meanwhile
        if not rows:
            return
        parts = [_part(row) for row in rows]
        padding = [Part(place.number, (0,), scored=False) for place in batch.padding]
        generations = [_generation(row) for row in rows]
        context, began = self._opened(), time.perf_counter()
        try:
            # An abort would take the others' tokens with it: it may where that is a chunk, not where they wait for one.
            with self._decoding.computing(generations if batch.reads or len(rows) == 1 else ()):
                last = context.compute([*parts, *padding])
        except EngineError as error:
            for part in (*parts, *padding):
                self._scheduler.lost(part.place, context.held[part.place])
            match error:
                case ComputationAborted():
                    pass
                case PoolFull():
                    self._scheduler.overflowed()
                case _ if len(rows) == 1 and not padding:
                    generations[0].fail(error)
                case _:
                    for row in rows:
                        self._compute(Batch((row,), reads=batch.reads))
            return
        for place in batch.padding:
            context.trim(place.number, len(place.left))
        self._scheduler.computed(Batch(rows, batch.padding, batch.reads), time.perf_counter() - began)
        exact_until = time.monotonic() + EXACT_RESUME_S
        for generation, part, index in zip(generations, parts, last, strict=False):
            generation.go_on(context, index if part.scored else None, exact_until)

    def _opened(self) -> Context:
        assert self._context is not None  # the decode thread ends before the context does
        return self._context

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Keep the engine open for as long as the block runs."""
        with self._using_changed:
            if self._closed:
                raise EngineError("The model is closed.")
            self._users += 1
        try:
            yield
        finally:
            with self._using_changed:
                self._users -= 1

    def close(self) -> None:
        """Free the model. Twice is once.

        Raises:
            EngineError: a generation is running, whose memory this would be.
        """
        with self._using_changed:
            if self._users:
                raise EngineError("The model is still running.")
            self._closed = True
        self._decoding.close()
        self._free()

    def _free(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            context.close()  # before the model: it points into it
        self._model.close()


def _generation(row: Row) -> Generation:
    assert isinstance(row.sequence, Generation)  # nothing else was ever added
    return row.sequence


def _part(row: Row) -> Part:
    sequence = row.sequence
    assert sequence.place is not None
    return Part(sequence.place, sequence.next_ids(row.tokens), scored=row.tokens == sequence.unseen)


def _thread_counts(cores: int) -> list[int]:
    """Return the numbers of threads worth trying, of which none takes all cores."""
    most = max(1, cores - 1)
    return sorted({count for count in (most, cores // 2, math.ceil(cores / 4)) if 1 <= count <= most})
