"""The one thread that computes for all generations: what arrives, what it has, what becomes of them if it dies.

Generations are handed in by threads of their own, which wait for their end. The thread takes them in between two
steps. A request to stop reaches it in the middle of a computation, where it may be aborted without harm to others.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sibyl.core.errors import EngineError
from sibyl.engines.generation import Generation
from sibyl.engines.llama_context import ComputationAborted
from sibyl.engines.watchdog import Watchdog

logger = logging.getLogger(__name__)

STUCK_S = 300.0  # a batch takes at most some seconds, also of a model that is far too large for its machine
_REST_S = 0.005  # pause where all answers wait for their readers


class DecodeThread:
    """Runs ``step`` as long as there is something to do."""

    def __init__(
        self,
        *,
        prepare: Callable[[], None],
        step: Callable[[], None],
        abort: Callable[[], None],
        on_death: Callable[[], None],
        stuck_s: float = STUCK_S,
    ) -> None:
        """Start the thread; return when ``prepare`` has run on it.

        Args:
            step: computes a little; first it calls ``take_in``.
            abort: ends the computation under way; called from any thread.
            on_death: called when no generation can end any more: something failed that must not, or a computation
                takes longer than ``stuck_s``.

        Raises:
            EngineError: ``prepare`` failed.
        """
        self.running: list[Generation] = []  #: taken in and not let go
        self._prepare = prepare
        self._step = step
        self._abort = abort
        self._on_death = on_death
        self._changed = threading.Condition()  # guards all below
        self._arrived: list[Generation] = []
        self._interruptible: Sequence[Generation] = ()  # whose computation under way may be aborted
        self._closed = False
        self._death: BaseException | None = None
        self._prepared = threading.Event()
        self._watchdog = Watchdog(stuck_s, self._stuck)
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()
        self._prepared.wait()
        try:
            self._raise_if_dead()
        except EngineError:
            self.close()
            raise

    def submit(self, generation: Generation) -> None:
        """Have it computed; its ``wait`` returns when it has ended.

        Raises:
            EngineError: the thread is lost.
            Exception: the reason of its abort, if that came before.
        """
        with self._changed:
            self._raise_if_dead()
            generation.abort.raise_if_requested()
            self._arrived.append(generation)
            self._changed.notify_all()

    def interrupt(self, generation: Generation) -> None:
        """See to it that a generation whose abort was requested ends soon. From any thread; does not block."""
        with self._changed:
            if generation in self._arrived:
                self._arrived.remove(generation)
                generation.stop()
            elif generation in self._interruptible:
                self._abort()
            self._changed.notify_all()

    @contextmanager
    def computing(self, interruptible: Sequence[Generation]) -> Iterator[None]:
        """Guard a computation: these may abort it, and it must not take for ever.

        Raises:
            ComputationAborted: one of them was to stop already.
        """
        with self._changed:
            if any(generation.abort.requested for generation in interruptible):
                raise ComputationAborted()
            self._interruptible = interruptible
        try:
            with self._watchdog.watching():
                yield
        finally:
            with self._changed:
                self._interruptible = ()

    def take_in(self) -> list[Generation]:
        """Return the generations that arrived since the last time; those that were to stop have ended."""
        with self._changed:
            arrived, self._arrived = self._arrived, []
        self.running += arrived
        for generation in self.running:
            if generation.abort.requested:
                generation.stop()
        return arrived

    def let_go(self) -> list[Generation]:
        """Return the generations that have ended since the last time."""
        ended = [generation for generation in self.running if generation.ended]
        if ended:
            self.running = [generation for generation in self.running if generation not in ended]
        return ended

    def close(self) -> None:
        """End the thread. Twice is once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._watchdog.close()

    def _raise_if_dead(self) -> None:
        if self._death is not None:
            raise EngineError("The model has stopped.") from self._death

    def _run(self) -> None:
        try:
            self._prepare()
            self._prepared.set()
            while self._wait():
                self._step()
        except BaseException as error:
            logger.exception("The decode thread is lost", extra={"action": "decode_lost"})
            self._die(error)

    def _wait(self) -> bool:
        """Wait until there is something to do; return False when the thread is to end."""
        with self._changed:
            while not self._arrived and not self._closed:
                if any(generation.abort.requested or not generation.resting for generation in self.running):
                    break
                self._changed.wait(_REST_S if self.running else None)
            return not self._closed

    def _stuck(self) -> None:
        logger.critical("A computation does not return", extra={"action": "decode_stuck"})
        self._die(EngineError("The model's computation does not return."))

    def _die(self, error: BaseException) -> None:
        with self._changed:
            self._death = error
            lost, self._arrived = [*self.running, *self._arrived], []
        for generation in lost:
            generation.fail(EngineError("The model has stopped."))
        if self._prepared.is_set():
            self._on_death()
        self._prepared.set()
