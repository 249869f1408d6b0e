"""The client for programs that block. The protocol is in `call` and `follower`; here it gets a socket and a clock."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx

from sibyl.client.answer import Answer
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

DEFAULT_URL = "http://127.0.0.1:8000"


class Client:
    """A connection to one server. Threads may share it; close it, or use it in a ``with``.

    Every call repeats itself when the connection breaks or the server is busy, and means the same when it arrives
    twice. Every call raises a `SibylError`: `CannotConnect`, `UnexpectedReply`, or what the server said.
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
        """Connect on first use.

        Args:
            url: ``http://`` or ``https://``, also with a path in front of the API.
            give_up_s: how long following a task goes on without a byte from the server; None is for ever.
            retry_s: how long every other call goes on trying; 0 tries once, None is for ever.
            silence_s: so long without a byte of a stream is a cut. Keep-alives come each 15 s.
            on_pause: told before each wait for the next try.

        Raises:
            InvalidRequest: the URL cannot be used.
        """
        self._server = Server.parse(url)
        self._http = httpx.Client(**self._server.options)
        self._give_up_s, self._retry_s = give_up_s, retry_s
        self._stream_timeout = stream_timeout(silence_s)
        self._on_pause = on_pause

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection. Tasks go on."""
        self._http.close()

    def ask(
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
        """Submit a question and return its task, which from now on is kept whatever happens.

        Args:
            question: what to answer.
            system: what the model is to be; None is the model's own.
            history: earlier turns, oldest first.
            sampling: how the next token is chosen; None leaves it to the server.
            priority: 0 to 9, larger runs sooner; None is 5.
            deadline_s: it expires if it is not finished by then; None leaves it to the server.
            metadata: your own, returned with the task.
            idempotency_key: the same key gives the same task, also from another process; None draws one.
        """
        return self._call(
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

    def fortune(
        self,
        question: str,
        *,
        seed: int | None = None,
        sampling: SamplingParams | None = None,
        idempotency_key: str | None = None,
    ) -> Task:
        """Draw a poem for a question and return the task that interprets it; ``seed`` None draws at random."""
        return self._call(fortune_request(question, seed=seed, sampling=sampling, idempotency_key=idempotency_key))

    def task(self, task_id: str) -> Task:
        """Return the task as it stands now."""
        return self._call(task_request(task_id))

    def tasks(self, *, state: State | None = None, limit: int | None = None, before: str | None = None) -> TaskPage:
        """Return your newest tasks, or those before the task ``before``; None leaves state and number to the server."""
        return self._call(tasks_request(state=state, limit=limit, before=before))

    def follow(self, task_id: str, after: str | None = None) -> Generator[ClientEvent, None, None]:
        """Yield the task's events, each once and in order, up to the terminal one; reconnects by itself.

        ``after`` is the cursor of the last event that you have; None is the beginning. Leaving early closes the
        connection and stops nothing: follow again after the last cursor. `Reset` replaces the text that you have.
        """
        follower = Follower(task_id, after=after, give_up_s=self._give_up_s)
        while True:
            request = follower.request
            try:
                with self._http.stream(
                    request.method, request.path, headers=request.headers, timeout=self._stream_timeout
                ) as response:
                    if follower.opened(response.status_code, response.headers):
                        for data in response.iter_bytes():
                            yield from follower.receive(data)
                            if follower.over:
                                return
                        pause = follower.cut(time.monotonic())
                    else:
                        body = response.read()
                        now = time.monotonic()
                        replied = follower.replied(now, response.status_code, response.headers, body)
                        if replied is None:
                            return
                        pause = replied
            except httpx.RequestError as error:
                pause = follower.cut(time.monotonic(), self._server.cannot_connect(error))
            self._wait(pause)

    def answer(self, task_id: str) -> str:
        """Wait for the whole answer and return it.

        Raises:
            TaskCancelled: someone cancelled the task.
            DeadlinePassed: it expired.
            SibylError: it failed; the code says why.
        """
        answer = Answer()
        for event in self.follow(task_id):
            answer.take(event)
        return answer.text

    def cancel(self, task_id: str) -> Task:
        """Ask to stop the task; the terminal event follows. Cancelling twice, or a finished task, changes nothing."""
        return self._call(cancel_request(task_id))

    def delete(self, task_id: str) -> None:
        """Erase question, answer and events. Followers are told that the task is forgotten."""
        self._call(delete_request(task_id))

    def _call(self, request: Request[T]) -> T:
        call = Call(request, retry_s=self._retry_s)
        while True:
            try:
                response = self._http.request(
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
            self._wait(pause)

    def _wait(self, pause: Pause) -> None:
        if self._on_pause is not None:
            self._on_pause(pause)
        time.sleep(pause.wait_s)  # what the server asked for, or the backoff; the caller's thread is ours until then
