"""The clients: they ask under an Idempotency-Key, follow, leave and come back elsewhere, look, cancel, erase.

A client knows what any client knows: two addresses and its own key. It repeats whatever fails, and takes nothing for
granted; what it meets goes into the history and is judged later.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import httpx

from tests.chaos.asks import draw_ask
from tests.chaos.history import TERMINAL, Accepted, Answered, Ask, EngineName, Look, Record, Step, View, Wanted

TIMEOUT: Final = httpx.Timeout(4.0, connect=2.0)
STREAM_TIMEOUT: Final = httpx.Timeout(6.0, connect=2.0)  # keep-alive comments come every two seconds
PAUSE_S: Final = (0.02, 0.3)  # before something that failed is tried again


class Clients:
    """All clients of a campaign, in one event loop."""

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        engine: EngineName,
        seed: int,
        now: Callable[[], float],
        note: Callable[[Record], None],
    ) -> None:
        """``nodes``: base URLs of the APIs."""
        self.nodes = nodes
        self.now = now
        self.note = note
        self.accepted: dict[str, str] = {}  #: key -> the task it gave last
        self.asks: dict[str, Ask] = {}
        self.known: set[str] = set()  #: every task that was ever accepted
        self.erased: set[str] = set()  #: every task that somebody wanted erased
        self.ended = 0  #: tasks that every follower saw to the end
        self.limit = asyncio.Event()  #: set: who has not come to an end is stuck
        self._engine = engine
        self._seed = seed
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(timeout=TIMEOUT, limits=limits, trust_env=False)

    async def run(self, number: int, stop: asyncio.Event) -> None:
        """Ask one question after the other until ``stop``."""
        draw = random.Random(f"client {self._seed} {number}")
        asked = 0
        while not stop.is_set() and not self.limit.is_set():
            key = f"chaos-{self._seed}-{number}-{asked}"
            asked += 1
            await Asking(self, draw_ask(self._engine, draw, key), random.Random(f"{key} {self._seed}")).run()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(self, draw: random.Random, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Return one answer of one node, or None when there was none."""
        node = draw.choice(self.nodes)
        try:
            return await self._http.request(method, node + path, **options)
        except httpx.TransportError:
            return None

    def stream(self, node: str, path: str, headers: dict[str, str]) -> Any:
        """Open a stream; a context manager."""
        return self._http.stream("GET", node + path, headers=headers, timeout=STREAM_TIMEOUT)


class Asking:
    """One question, from the submit until everybody who wanted something of it is satisfied."""

    def __init__(self, clients: Clients, ask: Ask, draw: random.Random) -> None:
        self._clients = clients
        self.ask = ask
        self._draw = draw
        self._submitting = asyncio.Lock()
        self._erased = False

    async def run(self) -> None:
        """Ask it and do with it what is drawn."""
        clients, draw = self._clients, self._draw
        clients.note(self.ask)
        clients.asks[self.ask.key] = self.ask
        if await self.submit() is None:
            return
        followers = draw.choices((0, 1, 2), (5, 70, 25))[0]
        wishes = [self.follow(number) for number in range(followers)]
        if followers == 0 or draw.random() < 0.15:
            wishes.append(self._look_on(to_the_end=followers == 0))
        if draw.random() < 0.08:
            wishes.append(self._cancel())
        elif draw.random() < 0.04:
            wishes.append(self._erase())
        if draw.random() < 0.15:
            wishes.append(self._submit_again())
        await asyncio.gather(*wishes)
        if not self._erased and draw.random() < 0.3:
            await self.look("look")
        clients.ended += 1

    # ---- asking

    async def submit(self, lost: str | None = None, *, again: bool = False) -> str | None:
        """Return the task of our key; ask until it is accepted.

        Args:
            lost: if this is the task we have, ask for another one.
            again: ask in any case, as a client does that does not know whether it has asked.

        None: it was erased, or there is no more time.
        """
        clients, ask = self._clients, self.ask
        async with self._submitting:
            known = clients.accepted.get(ask.key)
            if known is not None and known != lost and not again:
                return known
            body = {"question": ask.question, "sampling": {"seed": ask.seed, **ask.sampling}}
            while not clients.limit.is_set():
                response = await clients.call(
                    self._draw, "POST", "/api/questions", json=body, headers={"Idempotency-Key": ask.key}
                )
                if response is not None:
                    if response.status_code == 202:
                        task: str = response.json()["task_id"]
                        clients.note(Accepted(t=clients.now(), key=ask.key, task=task))
                        clients.accepted[ask.key] = task
                        clients.known.add(task)
                        return task
                    self._answered("submit", response, known)
                    if response.status_code == 410:
                        return None
                await self._pause(response)
            return None

    async def _submit_again(self) -> None:
        await asyncio.sleep(self._draw.uniform(0, 1.5))
        if not self._erased:
            await self.submit(again=True)

    # ---- following

    async def follow(self, number: int) -> None:
        """Follow to the end, whatever happens on the way; a task that Redis lost is asked for again."""
        task = self._clients.accepted.get(self.ask.key) or await self.submit()
        while task is not None:
            follower = Following(self._clients, self._draw, task)
            end = "interrupted"
            try:
                end = await follower.run()
            finally:
                view = View(task=task, follower=number, steps=follower.steps, end=end)
                self._clients.note(view)
            if end not in ("lost", "forgotten") or self._erased:
                return
            task = await self.submit(lost=task)

    # ---- looking, cancelling, erasing

    async def look(self, route: str) -> str | None:
        """Look at the task once and return its state; None when there was no answer."""
        clients = self._clients
        task = clients.accepted.get(self.ask.key)
        if task is None:
            return None
        response = await clients.call(self._draw, "GET", f"/api/tasks/{task}")
        if response is None:
            return None
        if response.status_code != 200:
            self._answered(route, response, task)
            if response.status_code in (404, 410):
                return "gone"
            await self._pause(response)
            return None
        body = response.json()
        clients.note(Look(t=clients.now(), task=task, state=body["state"], text=body["text"], attempt=body["attempt"]))
        state: str = body["state"]
        return state

    async def _look_on(self, *, to_the_end: bool) -> None:
        looks = 0
        while not self._clients.limit.is_set() and not self._erased and (to_the_end or looks < 4):
            looks += 1
            state = await self.look("look")
            if state in TERMINAL:
                return
            if state == "gone" and await self.submit(self._clients.accepted[self.ask.key]) is None:
                return
            await asyncio.sleep(self._draw.uniform(0.1, 0.6))

    async def _cancel(self) -> None:
        await asyncio.sleep(self._draw.uniform(0, 2.0))
        await self._until_done("cancel", "POST", "/cancel", (202, 404, 410))

    async def _erase(self) -> None:
        await asyncio.sleep(self._draw.uniform(0, 3.0))
        self._erased = True
        await self._until_done("erase", "DELETE", "", (204, 404, 410))

    async def _until_done(self, action: str, method: str, suffix: str, done: tuple[int, ...]) -> None:
        clients = self._clients
        task = clients.accepted[self.ask.key]
        if action == "erase":
            clients.erased.add(task)
        clients.note(Wanted(t=clients.now(), task=task, action=action))
        while not clients.limit.is_set():
            response = await clients.call(self._draw, method, f"/api/tasks/{task}{suffix}")
            if response is not None:
                self._answered(action, response, task)
                if response.status_code in done:
                    return
            await self._pause(response)

    def _answered(self, route: str, response: httpx.Response, task: str | None) -> None:
        state = None
        with suppress(ValueError, AttributeError):
            state = response.json().get("state")
        self._clients.note(
            Answered(
                t=self._clients.now(),
                route=route,
                status=response.status_code,
                key=self.ask.key,
                task=task,
                retry_after=response.headers.get("Retry-After"),
                state=state,
            )
        )

    async def _pause(self, response: httpx.Response | None) -> None:
        # Sooner than Retry-After says: more of the faults are met so.
        del response
        await asyncio.sleep(self._draw.uniform(*PAUSE_S))


class Following:
    """One follower of one task."""

    def __init__(self, clients: Clients, draw: random.Random, task: str) -> None:
        self.steps: list[Step] = []
        self._clients = clients
        self._draw = draw
        self._task = task
        self._cursor: str | None = None
        self._end: str | None = None

    async def run(self) -> str:
        """Follow until an end, with connections cut at random and nodes changed; return which end."""
        while self._end is None and not self._clients.limit.is_set():
            node = self._draw.randrange(len(self._clients.nodes))
            self._step("connect", self._cursor, node)
            try:
                await self._connect(self._clients.nodes[node])
            except httpx.TransportError as error:
                self._step("cut", None, type(error).__name__)
            except _LimitReached:
                self._step("cut", None, "limit")
            if self._end is None:
                await asyncio.sleep(self._draw.uniform(*PAUSE_S))
        if self._end == "terminal" and self._cursor and self._draw.random() < 0.05:
            await self._connect_after_end()
        return self._end or "stuck"

    async def _connect(self, node: str) -> None:
        headers = {"Last-Event-ID": self._cursor} if self._cursor else {}
        # Leave by ourselves after so many frames, now and then.
        leave_after = self._draw.randint(1, 40) if self._draw.random() < 0.4 else None
        async with self._clients.stream(node, f"/api/tasks/{self._task}/events", headers) as response:
            if response.status_code != 200:
                self._refused(response)
                return
            frames = 0
            async for event_id, event in _frames(response, self._clients.limit):
                self._frame(event_id, event)
                frames += 1
                # Whoever leaves right after a reset has a text that its last event no longer matches.
                shaken = event["type"] == "reset" and self._draw.random() < 0.4
                if (shaken or frames == leave_after) and self._end is None:
                    self._step("cut", None, "left")
                    return
            self._step("clean", None, None)

    def _frame(self, event_id: str | None, event: dict[str, Any]) -> None:
        self._step("frame", event_id, event)
        self._cursor = event_id or self._cursor
        if event["type"] in TERMINAL:
            self._end = "terminal" if event_id else "forgotten"

    def _refused(self, response: httpx.Response) -> None:
        status = response.status_code
        self._step("status", self._cursor, status)
        if status in (404, 410):
            self._end = "lost" if status == 404 else "forgotten"
        if status == 204:
            self._end = "terminal"
        self._clients.note(
            Answered(
                t=self._clients.now(),
                route="follow",
                status=status,
                key="",
                task=self._task,
                retry_after=response.headers.get("Retry-After"),
            )
        )

    async def _connect_after_end(self) -> None:
        """A browser that has the end connects once more, and is told that there is nothing."""
        with suppress(httpx.TransportError, _LimitReached):
            await self._connect(self._draw.choice(self._clients.nodes))

    def _step(self, kind: str, event_id: str | None, data: Any) -> None:
        self.steps.append(Step(round(self._clients.now(), 3), kind, event_id, data))


class _LimitReached(Exception):
    """There is no more time; and comments alone would keep a stream going for ever."""


async def _frames(response: httpx.Response, limit: asyncio.Event) -> AsyncIterator[tuple[str | None, dict[str, Any]]]:
    """Yield id and event of each frame, until ``limit``. What no blank line ends was never sent."""
    buffer = b""
    async for part in response.aiter_raw():
        buffer += part
        *blocks, buffer = buffer.split(b"\r\n\r\n")
        if limit.is_set():
            raise _LimitReached
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.decode().split("\r\n") if not line.startswith(":"))
            if "data" in fields:
                yield fields.get("id"), json.loads(fields["data"])
