"""A real uvicorn that speaks the native wire about tasks written down beforehand, and misbehaves on request.

The client's opposite in its tests: a true HTTP server, with true cuts of a true connection, but no queue and no model.
"""

import asyncio
import json
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sibyl.wire.sse import encode

TERMINAL = ("completed", "failed", "cancelled", "expired")
CREATED_AT = "2026-01-02T03:04:05Z"
POEM = {
    "number": 7,
    "title": "The Ferry",
    "grade": "good",
    "themes": ["work"],
    "lines": ["One.", "Two.", "Three.", "Four."],
}


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks after so many bytes of the body."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class End:
    """The body ends cleanly after so many bytes, without a terminal event."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """Another status instead of the reply; nothing was done."""

    status: int
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""  # instead of a JSON error


@dataclass(frozen=True, slots=True)
class Dribble:
    """The body comes in pieces of so many bytes, so that letters and line ends are split."""

    piece_bytes: int


@dataclass(frozen=True, slots=True)
class Silence:
    """The head of the reply comes, and then nothing."""


@dataclass(frozen=True, slots=True)
class LostReply:
    """The request is carried out, and the connection breaks in its reply."""


@dataclass(frozen=True, slots=True)
class Frames:
    """These very bytes are the whole body."""

    body: bytes


Fault = Cut | End | Status | Dribble | Silence | LostReply | Frames


@dataclass
class Script:
    """One task: what its log holds, and what is hinted when a reader comes."""

    task_id: str
    events: list[dict[str, Any]]
    hints: list[dict[str, Any]] = field(default_factory=list)
    poem: dict[str, Any] | None = None
    epoch: int = 1
    deleted: bool = False

    def frames(self, after: str | None) -> bytes:
        """The log after a cursor."""
        offset = -1 if after is None else int(after.split("-")[1])
        return b"".join(
            encode(event["type"], json.dumps(event, ensure_ascii=False), f"{self.epoch}-{number}")
            for number, event in enumerate(self.events)
            if number > offset
        )

    @property
    def finished(self) -> bool:
        """Whether its log is whole."""
        return bool(self.events) and self.events[-1]["type"] in TERMINAL

    @property
    def last_cursor(self) -> str:
        """The cursor of its last event."""
        return f"{self.epoch}-{len(self.events) - 1}"

    def body(self) -> dict[str, Any]:
        """The task as REST shows it."""
        last = self.events[-1]
        running = "running" if len(self.events) > 1 else "queued"
        state = last["type"] if self.finished else running
        text = "".join(event["token"] for event in self.events if event["type"] == "llm_streaming")
        task: dict[str, Any] = {
            "task_id": self.task_id,
            "kind": "fortune" if self.poem else "question",
            "state": state,
            "position": 0 if state == "queued" else None,
            "attempt": 1,
            "model": "tiny",
            "text": text,
            "finish_reason": last.get("finish_reason"),
            "usage": last.get("usage"),
            "error": {"code": last["code"], "message": last["message"]} if state == "failed" else None,
            "metadata": {"lang": "en"},
            "created_at": CREATED_AT,
            "started_at": None,
            "finished_at": None,
            "expires_at": CREATED_AT,
            "events_url": f"/api/tasks/{self.task_id}/events",
            "a_field_of_tomorrow": [1, 2],
        }
        return task | ({"poem": self.poem} if self.poem else {})


def answering(*texts: str) -> list[dict[str, Any]]:
    """A whole log with these outputs."""
    outputs = [{"type": "llm_streaming", "token": text, "index": index} for index, text in enumerate(texts)]
    return [
        {"type": "queued", "task_id": "t"},
        {"type": "started", "attempt": 1, "model": "tiny"},
        *outputs,
        {
            "type": "completed",
            "text_length": len("".join(texts)),
            "usage": {"prompt_tokens": 3, "completion_tokens": len(texts)},
            "finish_reason": "stop",
        },
    ]


class _Broken(Exception):
    """Makes uvicorn close the connection in the middle of a body."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class NativeServer:
    """The server, in a thread of its own, on a free port of this machine. ``with`` runs it."""

    def __init__(self, port: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self._socket.listen(128)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._arrived = threading.Condition()
        config = uvicorn.Config(
            self._app(), log_config=None, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self.clear()

    def clear(self) -> None:
        """Forget every task, fault and request."""
        self.scripts: dict[str, Script] = {}
        self.keys: dict[str, str] = {}
        self.next_events = answering("Yes", ".")  # of the next task that is submitted
        self.next_hints: list[dict[str, Any]] = []
        self.faults: deque[Fault] = deque()  # of the next requests for events
        self.call_faults: deque[Fault] = deque()  # of the next other requests
        self.seen: list[Seen] = []
        self.on_cancel: Callable[[Script], None] | None = _cancel
        self._grown = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._server.force_exit = True  # whoever still follows is cut
        self._thread.join(10)
        self._socket.close()

    def add(self, *events: dict[str, Any], task_id: str = "0.7e57", **rest: Any) -> Script:
        """Write down a task; give ``answering(...)`` or single events."""
        self.scripts[task_id] = Script(task_id, list(events), **rest)
        return self.scripts[task_id]

    def grow(self, script: Script, *events: dict[str, Any]) -> None:
        """Add to a log, and wake who follows it; only after a first request."""

        def add() -> None:
            script.events.extend(events)
            self._grown.set()

        self._loop.call_soon_threadsafe(add)

    def wait_for_request(self, path_end: str, count: int = 1) -> None:
        """Return once so many requests for such a path have arrived."""
        with self._arrived:
            met = self._arrived.wait_for(
                lambda: sum(seen.path.endswith(path_end) for seen in self.seen) >= count, timeout=10
            )
            assert met, f"no {count} requests for {path_end}"

    def cursors(self) -> list[str | None]:
        """The Last-Event-ID of each request for events so far."""
        return [seen.headers.get("last-event-id") for seen in self.seen if seen.path.endswith("/events")]

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/readyz", self._ready),
                Route("/api/questions", self._submit, methods=["POST"]),
                Route("/api/fortunes", self._submit, methods=["POST"]),
                Route("/api/tasks", self._list),
                Route("/api/tasks/{task_id}", self._task, methods=["GET", "DELETE"]),
                Route("/api/tasks/{task_id}/cancel", self._cancel, methods=["POST"]),
                Route("/api/tasks/{task_id}/events", self._events),
            ]
        )

    async def _ready(self, request: Request) -> Response:
        return JSONResponse({"status": "ready", "redis": True, "workers": [{"name": "w", "model": "tiny", "slots": 2}]})

    async def _submit(self, request: Request) -> Response:
        await self._note(request)
        fault = self._call_fault()
        if isinstance(fault, Status):
            return _status(fault)
        key = request.headers["idempotency-key"]
        task_id = self.keys.setdefault(key, f"0.{len(self.keys) + 1:032x}")
        if task_id not in self.scripts:
            poem = POEM if request.url.path.endswith("fortunes") else None
            script = self.add(*self.next_events, task_id=task_id, poem=poem, hints=self.next_hints)
            script.events[0] = script.events[0] | {"task_id": task_id}
        return self._answer(fault, JSONResponse(self.scripts[task_id].body(), 202))

    async def _list(self, request: Request) -> Response:
        await self._note(request)
        tasks = [script.body() for script in reversed(self.scripts.values())]
        page = {"tasks": tasks[:2], "next_before": tasks[1]["task_id"] if len(tasks) > 2 else None}
        return self._answer(self._call_fault(), JSONResponse(page))

    async def _task(self, request: Request) -> Response:
        await self._note(request)
        fault = self._call_fault()
        if isinstance(fault, Status):
            return _status(fault)
        script = self._script(request)
        if isinstance(script, Response):
            return script
        if request.method == "DELETE":
            script.deleted = True
            return self._answer(fault, Response(status_code=204))
        return self._answer(fault, JSONResponse(script.body()))

    async def _cancel(self, request: Request) -> Response:
        await self._note(request)
        script = self._script(request)
        if isinstance(script, Response):
            return script
        if self.on_cancel is not None and not script.finished:
            self.on_cancel(script)
            self._grown.set()
        return self._answer(self._call_fault(), JSONResponse(script.body(), 202))

    async def _events(self, request: Request) -> Response:
        await self._note(request)
        fault = self.faults.popleft() if self.faults else None
        script = self._script(request)
        if isinstance(script, Response):
            return script
        after = request.headers.get("last-event-id", request.query_params.get("after"))
        if isinstance(fault, Status):
            return _status(fault)
        if script.finished and after == script.last_cursor:
            return Response(status_code=204)
        return StreamingResponse(self._body(script, after, fault), media_type="text/event-stream")

    async def _body(self, script: Script, after: str | None, fault: Fault | None) -> AsyncIterator[bytes]:
        hints = b"".join(encode(hint["type"], json.dumps(hint), None) for hint in script.hints)
        data = b": here\r\n\r\n" + hints + script.frames(after)
        match fault:
            case Cut():
                yield data[: fault.after_bytes]
                raise _Broken
            case End():
                yield data[: fault.after_bytes]
                return
            case Dribble():
                for start in range(0, len(data), fault.piece_bytes):
                    yield data[start : start + fault.piece_bytes]
            case Frames():
                yield fault.body
                return
            case Silence():
                await asyncio.sleep(30)
            case _:
                yield data
        while not script.finished:
            sent = script.last_cursor
            self._grown.clear()
            await self._grown.wait()
            yield script.frames(sent)

    def _script(self, request: Request) -> Script | Response:
        script = self.scripts.get(request.path_params["task_id"])
        if script is None:
            return _status(Status(404, "unknown_task"))
        return _status(Status(410, "task_forgotten")) if script.deleted else script

    async def _note(self, request: Request) -> Any:
        self._loop = asyncio.get_running_loop()
        raw = await request.body()
        body = json.loads(raw) if raw else None
        with self._arrived:
            self.seen.append(Seen(request.method, request.url.path, dict(request.headers), body))
            self._arrived.notify_all()
        return body

    def _call_fault(self) -> Fault | None:
        return self.call_faults.popleft() if self.call_faults else None

    def _answer(self, fault: Fault | None, response: Response) -> Response:
        if isinstance(fault, Status):
            return _status(fault)
        if isinstance(fault, LostReply):
            return StreamingResponse(_broken(), response.status_code, media_type="application/json")
        return response


async def _broken() -> AsyncIterator[bytes]:
    yield b'{"task_id": "'
    raise _Broken


def _cancel(script: Script) -> None:
    script.events.append({"type": "cancelled"})


def _status(fault: Status) -> Response:
    if fault.text or not fault.code:
        return Response(fault.text, fault.status, fault.headers, media_type="text/html")
    return JSONResponse({"error": {"code": fault.code, "message": f"It is {fault.code}."}}, fault.status, fault.headers)
