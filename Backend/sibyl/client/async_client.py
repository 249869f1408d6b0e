"""The client for programs that await. The protocol is in `call` and `follower`; here it gets a socket and a clock."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx

from sibyl.client.answer import Answer
from sibyl.client.blocking_client import DEFAULT_URL
from sibyl.client.call import Call
from sibyl.client.events import ClientEvent
from sibyl.client.follower import Follower
from sibyl.client.reconnect import Pause
from sibyl.client.requests import (
    Request,
    ask_request,
    cancel_request,
    delete_request,
    fortune_request,
    task_request,
    tasks_request,
)
from sibyl.client.tasks import Task, TaskPage
from sibyl.client.transport import SILENCE_S, Server, stream_timeout
from sibyl.core.state import State
from sibyl.core.task import Message, SamplingParams

T = TypeVar("T")


class AsyncClient:
    """A connection to one server, for one event loop. The arguments, results and errors are those of `Client`.

    Cancelling a call leaves it undecided whether the server got it, so give an ``idempotency_key`` to ask again.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        give_up_s: float | None = 300.0,
        retry_s: float | None = 30.0,
        silence_s: float = SILENCE_S,
        on_pause: Callable[[Pause], None] | None = None,
    ) -> None:
        """Connect on first use; see `Client`."""
        self._server = Server.parse(url)
        self._http = httpx.AsyncClient(**self._server.options)
        self._give_up_s, self._retry_s = give_up_s, retry_s
        self._stream_timeout = stream_timeout(silence_s)
        self._on_pause = on_pause

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. Tasks go on."""
        await self._http.aclose()

    async def ask(
        self,
        question: str,
        *,
        system: str | None = None,
        history: Sequence[Message] = (),
        sampling: SamplingParams | None = None,
        priority: int | None = None,
        deadline_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Task:
        """Submit a question and return its task; see `Client.ask`."""
        return await self._call(
            ask_request(
                question,
                system=system,
                history=history,
                sampling=sampling,
                priority=priority,
                deadline_s=deadline_s,
                metadata=metadata,
                idempotency_key=idempotency_key,
            )
        )

    async def fortune(
        self,
        question: str,
        *,
        seed: int | None = None,
        sampling: SamplingParams | None = None,
        idempotency_key: str | None = None,
    ) -> Task:
        """Draw a poem for a question and return the task that interprets it; see `Client.fortune`."""
        return await self._call(
            fortune_request(question, seed=seed, sampling=sampling, idempotency_key=idempotency_key)
        )

    async def task(self, task_id: str) -> Task:
        """Return the task as it stands now."""
        return await self._call(task_request(task_id))

    async def tasks(
        self, *, state: State | None = None, limit: int | None = None, before: str | None = None
    ) -> TaskPage:
        """Return your newest tasks; see `Client.tasks`."""
        return await self._call(tasks_request(state=state, limit=limit, before=before))

    async def follow(self, task_id: str, after: str | None = None) -> AsyncGenerator[ClientEvent, None]:
        """Yield the task's events, each once and in order, up to the terminal one; see `Client.follow`.

        To leave early, wrap it in ``contextlib.aclosing``: only that closes the connection at once.
        """
        follower = Follower(task_id, after=after, give_up_s=self._give_up_s)
        while True:
            request = follower.request
            try:
                async with self._http.stream(
                    request.method, request.path, headers=request.headers, timeout=self._stream_timeout
                ) as response:
                    if follower.opened(response.status_code, response.headers):
                        async for data in response.aiter_bytes():
                            for event in follower.receive(data):
                                yield event
                            if follower.over:
                                return
                        pause = follower.cut(time.monotonic())
                    else:
                        body = await response.aread()
                        now = time.monotonic()
                        replied = follower.replied(now, response.status_code, response.headers, body)
                        if replied is None:
                            return
                        pause = replied
            except httpx.RequestError as error:
                pause = follower.cut(time.monotonic(), self._server.cannot_connect(error))
            await self._wait(pause)

    async def answer(self, task_id: str) -> str:
        """Wait for the whole answer and return it; see `Client.answer`."""
        answer = Answer()
        async for event in self.follow(task_id):
            answer.take(event)
        return answer.text

    async def cancel(self, task_id: str) -> Task:
        """Ask to stop the task; see `Client.cancel`."""
        return await self._call(cancel_request(task_id))

    async def delete(self, task_id: str) -> None:
        """Erase question, answer and events."""
        await self._call(delete_request(task_id))

    async def _call(self, request: Request[T]) -> T:
        call = Call(request, retry_s=self._retry_s)
        while True:
            try:
                response = await self._http.request(
                    request.method, request.path, content=request.body, headers=request.headers
                )
            except httpx.RequestError as error:
                pause = call.failed(time.monotonic(), self._server.cannot_connect(error))
            else:
                now = time.monotonic()
                replied = call.replied(now, response.status_code, response.headers, response.content)
                if replied is None:
                    return call.result
                pause = replied
            await self._wait(pause)

    async def _wait(self, pause: Pause) -> None:
        if self._on_pause is not None:
            self._on_pause(pause)
        await asyncio.sleep(pause.wait_s)
