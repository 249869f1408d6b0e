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

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from sibyl.core.errors import EngineError, PromptTooLong
from sibyl.core.task import Message
from sibyl.engines.answer import Answer
from sibyl.engines.base import GenerationRequest, GenerationResult, OnTokens
from sibyl.engines.calibration import calibrate
from sibyl.engines.chat_template import ChatTemplate, token_ids
from sibyl.engines.cores import usable_cores
from sibyl.engines.generation import Generation
from sibyl.engines.kv_pool import KvPool
from sibyl.engines.llama_context import ComputationAborted, Context, Part, PoolFull
from sibyl.engines.llama_model import Model
from sibyl.engines.places import Copy, Move
from sibyl.engines.row_costs import RowCosts
from sibyl.engines.sampling import Sampling, recommended_sampling
from sibyl.engines.scheduler import Batch, Counters, Row, Scheduler
from sibyl.engines.watchdog import Watchdog

logger = logging.getLogger(__name__)

CONTEXT_TOKENS = 4096  # a slot's memory grows with it: 0.5 GB for an 8B model at 131 kB a token
EXACT_RESUME_S = 1.0  # most that a takeover may cost more than it must, for the sake of the same words
PROMPT_CHUNK_TOKENS = 256  # 94 % of the speed of 512, and twice as many reports of progress
TARGET_GAP_MS = 75.0
STUCK_S = 300.0  # a batch takes at most some seconds, also of a model that is far too large for its machine
_REST_S = 0.005  # pause where all answers wait for their readers


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
        gpu_layers: int = 0,
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
            target_gap_ms: how long running answers may pause for a chunk of somebody's prompt.
            gpu_layers: layers to put on a GPU, -1 for all.
            calibrate: whether to measure what batches cost, and to shape them by that.
            calibration_folder: keeps what was measured for the next start; None keeps nothing.
            on_death: called when the decode thread is lost, through a fault or a computation that never returns.
                No generation can end then; the process should.

        Raises:
            ModelUnusable: the file is missing, unreadable, damaged or no such model, or memory is short.
        """
        self._model = Model(model_path, gpu_layers=gpu_layers)
        self._context: Context | None = None
        try:
            vocabulary = self._model.vocabulary
            self._template = ChatTemplate(
                self._model.chat_template, vocabulary.control, bos=vocabulary.bos, eos=vocabulary.eos
            )
            self._recommended = recommended_sampling(self._model.metadata)
            trained = self._model.context_tokens
            self._context_tokens = min(context_tokens or CONTEXT_TOKENS, trained or CONTEXT_TOKENS)
            self._max_piece_bytes = vocabulary.max_piece_bytes
            choices = [threads] if threads else _thread_counts(usable_cores())
            pooled = pool_tokens is not None and pool_tokens < slots * self._context_tokens
            self._context = Context(
                self._model,
                places=slots,
                place_tokens=self._context_tokens,
                batch_tokens=PROMPT_CHUNK_TOKENS,
                threads=choices[0],
                pool_tokens=max(pool_tokens or 0, self._context_tokens) if pooled else None,
            )
        except BaseException:
            self._free()
            raise
        self._calibrate = partial(
            _calibrated,
            self._context,
            model_path=model_path,
            threads=choices,
            rows=calibrate and slots > 1 and not self._model.recurrent,
            folder=calibration_folder,
        )
        pool = self._context.pool_tokens
        self._scheduler = Scheduler(
            places=slots,
            place_tokens=self._context_tokens,
            batch_tokens=self._context.batch_tokens,
            pool=None if pool is None else KvPool(slots, pool),
            target_gap_s=target_gap_ms / 1000,
            reuses=not self._model.recurrent,
        )
        self._on_death = on_death
        self._changed = threading.Condition()  # guards the next five
        self._arrived: list[Generation] = []
        self._interruptible: tuple[Generation, ...] = ()  # whose batch, now being computed, may be aborted
        self._users = 0
        self._closed = False
        self._death: BaseException | None = None
        self._running: list[Generation] = []
        self._watchdog = Watchdog(STUCK_S, self._stuck)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()
        self._ready.wait()
        try:
            self._raise_if_dead()
        except EngineError:
            self.close()
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
        return self._max_piece_bytes

    @property
    def counters(self) -> Counters:
        """What was computed, reused and put aside since the start. It goes on counting."""
        return self._scheduler.counters

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return how many tokens these messages are in the model's own chat template.

        Raises:
            PromptTooLong: no prompt of this size can fit, so it was not counted.
            InvalidRequest: the template refuses these messages.
        """
        with self._using():
            return len(self._prompt(messages))

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Emit the answer through ``on_tokens``, on the decode thread; see ``Engine.generate``.

        ``on_tokens`` must not block, or all answers wait; a request that is ``backlogged`` rests.
        """
        request.abort.raise_if_requested()
        with self._using(), closing(self._prepared(request, on_tokens)) as generation:
            if not generation.ended:
                with request.abort.hook(partial(self._interrupt, generation)):
                    self._submit(generation)
                    return generation.wait()
            return generation.wait()

    def _prepared(self, request: GenerationRequest, on_tokens: OnTokens) -> Generation:
        sampling = Sampling.of(request.sampling, self._recommended)
        prompt = self._prompt(request.messages)
        if len(prompt) >= self._context_tokens:
            raise PromptTooLong(
                f"The prompt is {len(prompt)} tokens long, and the model's context holds {self._context_tokens} with "
                "the answer. Shorten the question or the history."
            )
        vocabulary = self._model.vocabulary
        answer = Answer((*sampling.stop, *self._template.stop))
        if request.stored:
            answer.restore(request.stored, vocabulary.piece, vocabulary.tokenize)
        return Generation(
            request,
            on_tokens,
            prompt=prompt,
            answer=answer,
            sampling=sampling,
            limit=min(sampling.max_tokens, self._context_tokens - len(prompt)),
            vocabulary=vocabulary,
        )

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

    def _raise_if_dead(self) -> None:
        if self._death is not None:
            raise EngineError("The model has stopped.") from self._death

    def _submit(self, generation: Generation) -> None:
        with self._changed:
            self._raise_if_dead()
            generation.abort.raise_if_requested()
            self._arrived.append(generation)
            self._changed.notify_all()

    def _interrupt(self, generation: Generation) -> None:
        with self._changed:
            if generation in self._arrived:
                self._arrived.remove(generation)
                generation.fail(generation.abort.reason or EngineError("Stopped."))
            elif generation in self._interruptible and self._context is not None:
                self._context.abort()
            self._changed.notify_all()

    def _run(self) -> None:
        """The decode thread."""
        try:
            self._scheduler.costs = self._calibrate()
            self._ready.set()
            while self._wait():
                self._step()
        except BaseException as error:
            logger.exception("The decode thread is lost", extra={"action": "decode_lost"})
            self._die(error)

    def _wait(self) -> bool:
        """Wait until there is something to do; return False when the engine is closed."""
        with self._changed:
            while not self._arrived and not self._closed:
                if any(not generation.resting for generation in self._running):
                    break
                self._changed.wait(_REST_S if self._running else None)
                if any(generation.abort.requested for generation in self._running):
                    break
            return not self._closed

    def _step(self) -> None:
        self._take_in()
        moves, batches = self._scheduler.plan(time.monotonic())
        self._move(moves)
        for batch in batches:
            self._compute(batch.rows, batch)
        self._let_go()

    def _take_in(self) -> None:
        with self._changed:
            arrived, self._arrived = self._arrived, []
        for generation in arrived:
            self._running.append(generation)
            self._scheduler.add(generation)
        for generation in self._running:
            if generation.abort.requested:
                generation.fail(generation.abort.reason or EngineError("Stopped."))
        self._let_go()

    def _let_go(self) -> None:
        for generation in [generation for generation in self._running if generation.ended]:
            self._running.remove(generation)
            self._scheduler.remove(generation)

    def _move(self, moves: list[Move]) -> None:
        context = self._opened()
        for move in moves:
            if isinstance(move, Copy):
                context.copy(move.source, move.target, move.tokens)
                place, tokens = move.target, move.tokens
            else:
                context.trim(move.place, move.tokens)
                place, tokens = move.place, move.tokens
            if context.held[place] < tokens:
                self._scheduler.lost(place, context.held[place])

    def _compute(self, rows: tuple[Row, ...], batch: Batch) -> None:
        """Compute a batch and have its generations go on; if it fails, each of them alone, so that only one is lost."""
        rows = tuple(row for row in rows if row.sequence.place is not None)
        if not rows:
            return
        context, began = self._opened(), time.perf_counter()
        parts = [
            Part(row.sequence.place, row.sequence.next_ids(row.tokens), scored=row.tokens == row.sequence.unseen)
            for row in rows
            if row.sequence.place is not None
        ]
        padding = [Part(place.number, (0,), scored=False) for place in batch.padding]
        try:
            with self._interruption(rows, batch), self._watchdog.watching():
                last = context.compute(parts + padding)
        except ComputationAborted:
            self._take_back(parts + padding)
        except PoolFull:
            self._take_back(parts + padding)
            self._scheduler.overflowed()
        except EngineError as error:
            self._take_back(parts + padding)
            if len(rows) == 1 and not padding:
                _generation(rows[0]).fail(error)
                return
            for row in rows:
                self._compute((row,), Batch((row,), reads=batch.reads))
        else:
            for part, place in zip(padding, batch.padding, strict=True):
                context.trim(part.place, len(place.left))
            self._scheduler.computed(Batch(rows, batch.padding, batch.reads), time.perf_counter() - began)
            exact_until = time.monotonic() + EXACT_RESUME_S
            for row, part, index in zip(rows, parts, last, strict=False):
                _generation(row).go_on(context, index if part.scored else None, exact_until)

    @contextmanager
    def _interruption(self, rows: tuple[Row, ...], batch: Batch) -> Iterator[None]:
        """Let a request to stop abort the block, unless it would take other answers' tokens with it."""
        generations = tuple(_generation(row) for row in rows) if batch.reads or len(rows) == 1 else ()
        with self._changed:
            if any(generation.abort.requested for generation in generations):
                raise ComputationAborted()
            self._interruptible = generations
        try:
            yield
        finally:
            with self._changed:
                self._interruptible = ()

    def _take_back(self, parts: list[Part]) -> None:
        for part in parts:
            self._scheduler.lost(part.place, self._opened().held[part.place])

    def _stuck(self) -> None:
        logger.critical("A computation does not return", extra={"action": "decode_stuck", "limit_s": STUCK_S})
        self._die(EngineError("The model's computation does not return."))

    def _die(self, error: BaseException) -> None:
        with self._changed:
            self._death = error
            lost = [*self._running, *self._arrived]
            self._arrived = []
        for generation in lost:
            generation.fail(EngineError("The model has stopped."))
        if self._ready.is_set():
            self._on_death()
        self._ready.set()

    def _opened(self) -> Context:
        assert self._context is not None  # the decode thread ends before the context does
        return self._context

    @contextmanager
    def _using(self) -> Iterator[None]:
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

    def close(self) -> None:
        """Free the model. Twice is once.

        Raises:
            EngineError: a generation is running, whose memory this would be.
        """
        with self._changed:
            if self._users:
                raise EngineError("The model is still running.")
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._watchdog.close()
        self._free()

    def _free(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            context.close()  # before the model: it points into it
        self._model.close()


def _generation(row: Row) -> Generation:
    assert isinstance(row.sequence, Generation)  # nothing else was ever added
    return row.sequence


def _calibrated(context: Context, *, model_path: Path, threads: list[int], rows: bool, folder: Path | None) -> RowCosts:
    found = calibrate(context, model_path=model_path, threads=threads, rows=rows, folder=folder)
    context.set_threads(found.threads, found.batch_threads)
    return RowCosts(found.row_seconds)


def _thread_counts(cores: int) -> list[int]:
    """Return the numbers of threads worth trying, of which none takes all cores."""
    most = max(1, cores - 1)
    return sorted({most, max(1, cores // 2), max(1, math.ceil(cores / 4))} & set(range(1, most + 1)))
