"""A whole Sibyl for a test: real APIs on ports of their own, real workers with the scripted engine.

Everything that is started here ends with its ``with`` block. Processes are started only where a test is about one.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import uvicorn

from sibyl.api.app import create_app
from sibyl.api.connection import Connection, WebSocketConnection
from sibyl.api.context import Context
from sibyl.api.listening import bind
from sibyl.api.main import SOCKET_FRAME_BYTES
from sibyl.config import Settings
from sibyl.core.task import TaskId, WorkerInfo
from sibyl.engines.base import GenerationRequest, GenerationResult, OnTokens
from sibyl.engines.scripted import ScriptedEngine
from sibyl.speech.catalogue import Catalogue, SpeechSettings
from sibyl.store.connection import Store
from sibyl.store.follow import Batch, follow
from sibyl.store.tail import Tail
from sibyl.wire.sse import Frame, Parser
from sibyl.worker.attempt import RecogniserOf
from sibyl.worker.worker import Pace, Worker
from tests.topology import SHARDS

T = TypeVar("T")

LIMIT_S: Final = 20.0  # longest wait for something that must happen
TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "expired"})


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self, name: str, new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        self.loop = new_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``work`` on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def call(self, work: Coroutine[Any, Any, T], limit_s: float = LIMIT_S) -> T:
        """Run ``work`` on the loop and return its result."""
        return self.start(work).result(limit_s)

    def close(self) -> None:
        """Cancel what is left, as ``asyncio.run`` does, and end the loop and its thread."""

        async def cancel_rest() -> None:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        self.call(cancel_rest())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LIMIT_S)
        self.loop.close()


# ---- API


def settings_for(redis_url: str, **changes: Any) -> Settings:
    """Return settings for a test, whatever the environment says."""
    ours = {"redis_url": redis_url, "engine": "scripted", "port": 0, "shards": SHARDS}
    return Settings(_env_file=None, **{**ours, **changes})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningApi:
    """An API that serves."""

    url: str
    port: int
    context: Context
    thread: LoopThread

    def client(self, **options: Any) -> httpx.Client:
        """Return a blocking client."""
        return httpx.Client(
            **{"base_url": self.url, "timeout": LIMIT_S, "trust_env": False, "verify": False, **options}
        )

    def async_client(self, **options: Any) -> httpx.AsyncClient:
        """Return a client for the test's own loop."""
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(
            **{
                "base_url": self.url,
                "timeout": LIMIT_S,
                "trust_env": False,
                "verify": False,
                "limits": limits,
                **options,
            }
        )


@contextlib.contextmanager
def run_api(redis_url: str, **changes: Any) -> Iterator[RunningApi]:
    """Serve the API with uvicorn, as its process does, in a thread."""
    settings = settings_for(redis_url, **changes)
    failed = threading.Event()
    config = uvicorn.Config(
        "",
        http=Connection,
        ws=WebSocketConnection,
        ws_max_size=SOCKET_FRAME_BYTES,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    thread = LoopThread("api", config.get_loop_factory() or asyncio.new_event_loop)

    async def start() -> tuple[uvicorn.Server, Context, asyncio.Task[None]]:
        store = Store(redis_url, shards=settings.shards, durability=settings.durability)
        app = create_app(settings, store, on_failure=failed.set)
        config.app = app
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        context = app.state.context
        assert isinstance(context, Context)
        return server, context, serving

    async def stop() -> None:
        server.should_exit = True
        context.draining.set()
        await serving

    listening = bind("127.0.0.1", 0)
    listening.listen()  # who comes before the server is ready waits
    port = listening.getsockname()[1]
    try:
        server, context, serving = thread.call(start())
        try:
            yield RunningApi(url=f"http://127.0.0.1:{port}", port=port, context=context, thread=thread)
        finally:
            thread.call(stop())
    finally:
        thread.close()
    assert not failed.is_set(), "what runs beside the requests has failed"


def ask(client: httpx.Client, question: str, **more: Any) -> dict[str, Any]:
    """Ask a question and return the accepted task."""
    response = client.post("/api/questions", json={"question": question, **more})
    assert response.status_code == 202, response.text
    return response.json()  # type: ignore[no-any-return]


def wait_ready(client: httpx.Client) -> None:
    """Wait until a worker is there."""
    give_up = time.monotonic() + LIMIT_S
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < give_up, "no worker came"


def wait_until(holds: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
    """Wait for something that rings no bell; say whether it came."""
    give_up = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.005)
    return True


def show(client: httpx.Client, task_id: str) -> dict[str, Any]:
    """Return the task as it stands."""
    response = client.get(f"/api/tasks/{task_id}")
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]


def read_events(client: httpx.Client, task_id: str, after: str | None = None) -> list[Frame]:
    """Follow a task to its end and return the frames."""
    headers = {} if after is None else {"Last-Event-ID": after}
    with client.stream("GET", f"/api/tasks/{task_id}/events", headers=headers) as response:
        assert response.status_code == 200, response.read()
        parser = Parser()
        return [frame for piece in response.iter_raw() for frame in parser.feed(piece)]


def finish(client: httpx.Client, question: str, **more: Any) -> dict[str, Any]:
    """Ask, wait for the end of the answer, and return the task."""
    task_id = ask(client, question, **more)["task_id"]
    read_events(client, task_id)
    return show(client, task_id)


def data_of(frame: Frame) -> dict[str, Any]:
    """Return the data of a frame."""
    return json.loads(frame.data)  # type: ignore[no-any-return]


def text_of(frames: list[Frame]) -> str:
    """Return the answer that a reader of these frames has; a reset would show in it."""
    assert "reset" not in [frame.event for frame in frames]
    return "".join(data_of(frame)["token"] for frame in frames if frame.event == "llm_streaming")


# ---- worker


class WatchedEngine(ScriptedEngine):
    """The scripted engine, which tells what runs in it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.running = 0  #: generations now
        self.most_running = 0
        self.requests: list[GenerationRequest] = []
        self._change = threading.Condition()

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Generate, watched."""
        with self._change:
            self.requests.append(request)
            self.running += 1
            self.most_running = max(self.running, self.most_running)
            self._change.notify_all()
        try:
            return super().generate(request, on_tokens)
        finally:
            with self._change:
                self.running -= 1
                self._change.notify_all()

    def wait_running(self, count: int, limit_s: float) -> bool:
        """Wait until so many generations run; say whether they do."""
        with self._change:
            return self._change.wait_for(lambda: self.running == count, limit_s)

    async def runs(self, count: int, limit_s: float = LIMIT_S) -> bool:
        """Wait like ``wait_running`` without holding up the loop."""
        return await asyncio.to_thread(self.wait_running, count, limit_s)


@dataclass(slots=True, kw_only=True)
class RunningWorker:
    """A worker on some loop."""

    worker: Worker
    engine: ScriptedEngine
    running: asyncio.Task[None]

    async def drain(self) -> None:
        """Drain it and wait for its end."""
        self.worker.drain()
        await self.running

    async def die(self) -> None:
        """End it as a killed process ends: nothing is settled, nothing is given back."""
        self.running.cancel()
        await asyncio.wait([self.running])


@contextlib.asynccontextmanager
async def working(
    redis_url: str,
    engine: ScriptedEngine | None = None,
    *,
    name: str = "worker",
    slots: int = 2,
    lease_s: float = 2.0,
    heartbeat_s: float = 0.2,
    max_attempts: int = 5,
    drain_s: float = 5.0,
    recogniser_of: RecogniserOf | None = None,
) -> AsyncIterator[RunningWorker]:
    """Run a worker on the current loop; at the end it dies if it has not ended."""
    engine = engine or ScriptedEngine()
    store = Store(redis_url, shards=SHARDS)
    info = WorkerInfo(
        name=name,
        model=engine.model,
        slots=slots,
        context_tokens=engine.context_tokens,
        max_piece_bytes=engine.max_piece_bytes,
        seen_at=time.time(),
    )
    pace = Pace(lease_s=lease_s, heartbeat_s=heartbeat_s, max_attempts=max_attempts, drain_s=drain_s)
    recogniser_of = recogniser_of or Catalogue(SpeechSettings(provider="scripted", scripted=True)).recogniser
    worker = Worker(info, store=store, engine=engine, pace=pace, recogniser_of=recogniser_of)
    running = RunningWorker(worker=worker, engine=engine, running=asyncio.create_task(worker.run(), name=name))
    try:
        yield running
        if running.running.done() and not running.running.cancelled():
            running.running.result()
    finally:
        await running.die()
        await store.close()


@contextlib.contextmanager
def run_worker(redis_url: str, engine: ScriptedEngine | None = None, **options: Any) -> Iterator[RunningWorker]:
    """Run a worker in a thread."""
    thread = LoopThread("worker")
    stack = contextlib.AsyncExitStack()

    async def start() -> RunningWorker:
        return await stack.enter_async_context(working(redis_url, engine, **options))

    try:
        yield thread.call(start())
    finally:
        thread.call(stack.aclose())
        thread.close()


@contextlib.asynccontextmanager
async def following(redis_url: str, task_id: TaskId) -> AsyncIterator[AsyncIterator[Batch]]:
    """Follow a task without an API, from its start."""
    store = Store(redis_url, shards=SHARDS)
    tail = Tail(store)
    tailing = asyncio.create_task(tail.run())
    try:
        with tail.feed(task_id) as feed:
            await tail.load(feed)
            batches = follow(feed, feed.fold.entries[0].cursor)
            try:
                yield batches
            finally:
                await batches.aclose()  # type: ignore[attr-defined]
    finally:
        tailing.cancel()
        await asyncio.wait([tailing])
        await store.close()


# ---- processes


@dataclass(slots=True, kw_only=True)
class RunningProcess:
    """A process of its own, and what it has said."""

    process: subprocess.Popen[bytes]
    log: Path

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ended(self, limit_s: float = LIMIT_S) -> int:
        """Wait for its end and return the exit status."""
        return self.process.wait(limit_s)

    def lines(self) -> list[dict[str, Any]]:
        """Return its log lines. A line that is no JSON, such as one of a traceback, fails the test."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def wait_for(self, action: str, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """Wait until it has logged this action."""
        give_up = time.monotonic() + limit_s
        while time.monotonic() < give_up:
            text = self.log.read_text()
            whole = text[: text.rfind("\n") + 1]
            for line in whole.splitlines():
                if f'"action": "{action}"' in line:
                    return json.loads(line)  # type: ignore[no-any-return]
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {text}"
            time.sleep(0.01)  # a file rings no bell
        raise AssertionError(f"no {action} in {self.log.read_text()}")


@contextlib.contextmanager
def run_process(code: str, log: Path, **settings: Any) -> Iterator[RunningProcess]:
    """Run Python code in a process with these settings in its environment; kill it at the end."""
    ours = {f"SIBYL_{name.upper()}": str(value) for name, value in settings.items()}
    others = {name: value for name, value in os.environ.items() if not name.startswith("SIBYL_")}
    defaults = {"ENGINE": "scripted", "LOG_FORMAT": "json", "PORT": "0", "SHARDS": str(SHARDS)}
    environment = others | {f"SIBYL_{name}": value for name, value in defaults.items()} | ours
    with log.open("ab") as stream:
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=stream, stderr=stream)
    try:
        yield RunningProcess(process=process, log=log)
    finally:
        process.kill()
        process.wait()


_API = "from sibyl.api.main import run; from sibyl.config import load_settings; run(load_settings())"
_WORKER = "from sibyl.worker.main import run; from sibyl.config import load_settings; run(load_settings(), name={!r})"


@contextlib.contextmanager
def run_api_process(redis_url: str, log: Path, **settings: Any) -> Iterator[tuple[RunningProcess, str]]:
    """Run the API's process; yields it with its URL."""
    with run_process(_API, log, redis_url=redis_url, **settings) as process:
        url = process.wait_for("api_ready")["message"].removeprefix("API listens on ")
        yield process, url


@contextlib.contextmanager
def run_worker_process(redis_url: str, log: Path, *, name: str = "worker", **settings: Any) -> Iterator[RunningProcess]:
    """Run a worker's process."""
    with run_process(_WORKER.format(name), log, redis_url=redis_url, **settings) as process:
        yield process


def errors_in(records: list[logging.LogRecord]) -> list[str]:
    """Return what was logged as an error. That a stream was cut is none; the API's own process filters it."""
    messages = [record.getMessage() for record in records if record.levelno >= logging.ERROR]
    return [message for message in messages if "without completing response" not in message]
