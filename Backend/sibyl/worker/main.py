"""The worker's process: settings, logging, model, store, signals, and an exit code."""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NoReturn, Self

from sibyl.config import Settings, speech_settings
from sibyl.core.errors import ProcessError, StoreUnavailable
from sibyl.core.task import WorkerInfo
from sibyl.engines.base import Engine
from sibyl.engines.library import resolve_model
from sibyl.speech.catalogue import Catalogue
from sibyl.store.connection import Store, because
from sibyl.telemetry import start_logging
from sibyl.worker.hearing import answers_anew
from sibyl.worker.worker import Pace, Worker

logger = logging.getLogger(__name__)

_STORE_PATIENCE_S = 30.0  # a Redis that is being restarted is waited for at the start
_PROGRESS_S = 2.0
EXIT_ENGINE_LOST = 70  # the decode thread is lost; as sysexits.h numbers an internal fault
_SWITCH_S = 1e-4  # the GIL goes to a decode thread after this, not after 5 ms (research: serving.md 4a)


def run(settings: Settings, *, name: str) -> None:
    """Run a worker until SIGTERM or Ctrl-C, then drain it. One that went deaf starts itself anew, in the same process.

    Args:
        name: unique among live workers. A worker that was started again under the same name takes over at once
            what its dead predecessor held.

    Raises:
        SibylError: it cannot start: model, Redis or settings; the message says what to do.
    """
    start_logging("worker", level=settings.log_level, form=settings.log_format)
    sys.setswitchinterval(_SWITCH_S)
    if settings.redis_url is None:
        raise ProcessError("A worker of its own needs a Redis that it shares with the API: give --redis-url.")
    engine = load_engine(settings)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            deaf = runner.run(_work(settings, settings.redis_url.get_secret_value(), engine, name))
        if deaf:
            _start_anew()
    finally:
        engine.close()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes a faster loop, where there is one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def load_engine(settings: Settings) -> Engine:
    """Return the engine that the settings name, loaded.

    Raises:
        ModelUnusable: there is no such model, or it is broken.
    """
    with _Progress() as progress:
        match settings.engine:
            case "llama":
                from sibyl.engines.llama import LlamaEngine

                return LlamaEngine(
                    resolve_model(settings.model, on_download=progress.downloaded).path,
                    slots=settings.slots,
                    threads=settings.threads,
                    context_tokens=settings.context_tokens,
                    pool_tokens=settings.pool_tokens,
                    target_gap_ms=settings.target_gap_ms,
                    flash_attention=settings.flash_attention,
                    gpu_layers=settings.gpu_layers,
                    split_mode=settings.split_mode,
                    main_gpu=settings.main_gpu,
                    tensor_split=settings.gpu_shares,
                    calibration_folder=settings.data_dir / "calibration",
                    on_death=_end_at_once,
                )
            case "openai":
                from sibyl.engines.upstream import UpstreamEngine

                key = settings.upstream_api_key
                return UpstreamEngine(
                    settings.upstream_url or "",
                    api_key=None if key is None else key.get_secret_value(),
                    model=settings.upstream_model,
                )
            case "scripted":
                from sibyl.engines.scripted import ScriptedEngine

                return ScriptedEngine()


class _Progress:
    """Logs what the start is waiting for, every two seconds while it does."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._bytes: tuple[int, int] | None = None
        self._done = threading.Event()
        self._telling = threading.Thread(target=self._tell, name="progress", daemon=True)

    def downloaded(self, bytes_: int, of_bytes: int) -> None:
        """Take note of a download's progress."""
        self._bytes = (bytes_, of_bytes) if bytes_ != of_bytes else None

    def __enter__(self) -> Self:
        self._telling.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._telling.join()

    def _tell(self) -> None:
        while not self._done.wait(_PROGRESS_S):
            waited_s = time.monotonic() - self._began
            if self._bytes is None:
                logger.info("Loading the model: %.0f s", waited_s, extra={"action": "loading"})
            else:
                here, of = (number / 1e6 for number in self._bytes)
                share = f"{here:.0f} of {of:.0f} MB" if of else f"{here:.0f} MB"
                logger.info("Downloading the model: %s", share, extra={"action": "downloading"})


def _end_at_once() -> None:
    """End this process: no answer of it would ever end. The supervisor and the leases see to the rest."""
    logging.shutdown()
    os._exit(EXIT_ENGINE_LOST)


def _start_anew() -> NoReturn:
    """Become the same program again: same pid, name and parent, nothing else is kept.

    Not a new worker in this interpreter: nobody knows what is stuck here, and a thread of the engine may be. Not an
    exit either: this works without a supervisor as well.
    """
    logging.shutdown()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


async def _work(settings: Settings, redis_url: str, engine: Engine, name: str) -> bool:
    """Work until drained; return whether to start anew."""
    store = Store(redis_url, shards=settings.shards, durability=settings.durability)
    recognisers = Catalogue(replace(speech_settings(settings), sessions=settings.slots))
    try:
        server = await wait_for_store(store)
        info = WorkerInfo(
            name=name,
            model=engine.model,
            slots=settings.slots,
            context_tokens=engine.context_tokens,
            max_piece_bytes=engine.max_piece_bytes,
            seen_at=time.time(),
        )
        pace = Pace(
            lease_s=settings.lease_s,
            heartbeat_s=settings.heartbeat_s,
            max_attempts=settings.max_attempts,
            drain_s=settings.drain_s,
        )
        redis_answers = partial(answers_anew, redis_url, shards=settings.shards)
        worker = Worker(
            info,
            store=store,
            engine=engine,
            pace=pace,
            redis_answers=redis_answers,
            recogniser_of=recognisers.recogniser,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.drain)
        facts = {"action": "worker_ready", "worker": name, "slots": settings.slots, "store": server}
        logger.info("Worker ready with model %s", engine.model, extra=facts)
        await worker.run()
        logger.info("Worker ended", extra={"action": "worker_ended", "worker": name})
        return worker.deaf
    finally:
        recognisers.close()
        await store.close()


async def wait_for_store(store: Store) -> str:
    """Return the server's name once it answers.

    Raises:
        StoreUnavailable: it did not within half a minute.
        StoreUnsuitable: it must not be used.
    """
    try:
        found = await store.patient(_STORE_PATIENCE_S).check()
        await store.patient(_STORE_PATIENCE_S).require_same_shards()
        return found
    except StoreUnavailable as error:
        why = f"Redis did not answer within {_STORE_PATIENCE_S:.0f} s{because(error)}. Check the Redis URL."
        raise StoreUnavailable(why) from None
