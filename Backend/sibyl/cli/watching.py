"""Watching one task in a terminal: its events become text, words and an exit code.

The first Ctrl-C cancels the task and waits a moment for its end; the second leaves at once. Nothing else that happens
here stops a task: neither a closed pipe nor a lost connection.
"""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from types import FrameType, TracebackType
from typing import Self, assert_never

from sibyl.cli.entry import FAILED, INTERRUPTED, TIMED_OUT
from sibyl.cli.terminal import Terminal
from sibyl.client import (
    AsyncClient,
    Cancelled,
    ClientEvent,
    Completed,
    Expired,
    Failed,
    Output,
    Pause,
    Position,
    Progress,
    Queued,
    Reset,
    SibylError,
    Started,
    Task,
    TokenLogprob,
    TokenLogprobs,
)
from sibyl.client.events import write_event

RETRY_S = 2.0  # who types a question wants to know soon that nobody is there
CANCEL_WAIT_S = 2.0
QUIET_PAUSE_S = 2.0  # a shorter pause is not worth a word

Submit = Callable[[AsyncClient], Awaitable[Task]]


class Screen:
    """Shows the events of one task."""

    def __init__(self, terminal: Terminal, *, as_json: bool) -> None:
        self._terminal = terminal
        self._as_json = as_json
        self._shown: list[str] = []
        self._away = False
        self._attempt = 0

    def pause(self, pause: Pause) -> None:
        """Say that there is no connection, once, when that lasts."""
        if not self._away and pause.failing_s + pause.wait_s > QUIET_PAUSE_S:
            self._away = True
            self._terminal.note(f"{pause.error.message} Trying again; the task goes on.")

    def show(self, event: ClientEvent) -> int | None:
        """Show an event; return the exit code if it is the last one."""
        if self._away:
            self._away = False
            self._terminal.note("connected again")
        if self._as_json:
            self._terminal.write(json.dumps(write_event(event), ensure_ascii=False) + "\n")
            if isinstance(event, Completed):
                return 0
            return FAILED if isinstance(event, Failed | Cancelled | Expired) else None
        return self._show(event)

    def _show(self, event: ClientEvent) -> int | None:
        terminal = self._terminal
        match event:
            case Queued():
                terminal.status("queued")
            case Position(position=ahead):
                terminal.status("queued, next" if ahead == 0 else f"queued, {ahead} ahead")
            case Progress():
                terminal.status(f"reading: {event.prompt_tokens_evaluated} of {event.prompt_tokens} tokens")
            case Started():
                if self._attempt and event.attempt > self._attempt and self._shown:
                    terminal.note(f"another worker goes on (attempt {event.attempt})")
                self._attempt = event.attempt
                terminal.status("started")
            case Output():
                for token in event.logprobs:
                    terminal.write(_line(token))
                if not event.logprobs:
                    terminal.write(event.token)
                self._shown.append(event.token)
            case Reset():
                self._reset(event.text)
            case Completed():
                terminal.finish_line()
                terminal.status("")
                if event.finish_reason == "length":
                    terminal.note("the answer ended at its token limit")
                return 0
            case Failed():
                terminal.finish_line()
                terminal.note(f"the task failed: {event.message} ({event.code})")
                return FAILED
            case Cancelled():
                terminal.finish_line()
                terminal.note("the task was cancelled")
                return FAILED
            case Expired():
                terminal.finish_line()
                terminal.note(f"the task expired. {event.message or ''}")
                return FAILED
            case _:
                assert_never(event)
        return None

    def _reset(self, text: str) -> None:
        shown = "".join(self._shown)
        self._shown = [text]
        if text.startswith(shown):
            self._terminal.write(text.removeprefix(shown))
            return
        # What is written cannot be taken back; a visible line says what counts.
        self._terminal.finish_line()
        self._terminal.note("a part of the answer was lost and is void; the answer so far, again:")
        self._terminal.write(text)


def _line(token: TokenLogprobs) -> str:
    """Return a token and its rivals on one line, each with its logarithmic probability."""
    likeliest = "".join(f"  {_quoted(other)} {other.logprob:.3f}" for other in token.likeliest)
    return f"{_quoted(token.chosen):<20} {token.chosen.logprob:8.3f} {likeliest}".rstrip() + "\n"


def _quoted(token: TokenLogprob) -> str:
    return json.dumps(token.piece.decode("utf-8", "replace"), ensure_ascii=False)


async def follow_task(url: str, task_id: str, terminal: Terminal, *, after: str | None, as_json: bool) -> int:
    """Show a task from a cursor on; return the exit code. Cancelling it leaves the task alone."""
    screen = Screen(terminal, as_json=as_json)
    async with AsyncClient(url, retry_s=RETRY_S, on_pause=screen.pause) as client:
        return await _watch(client, task_id, screen, after=after)


async def _watch(client: AsyncClient, task_id: str, screen: Screen, *, after: str | None = None) -> int:
    async with aclosing(client.follow(task_id, after)) as events:
        async for event in events:
            code = screen.show(event)
            if code is not None:
                return code
    return 0  # the cursor was the end


class Asking:
    """One question: submitted, watched, and cancelled by Ctrl-C."""

    def __init__(self, url: str, terminal: Terminal, *, as_json: bool, timeout_s: float | None) -> None:
        """``timeout_s``: how long to wait for the whole answer; None is for ever."""
        self._terminal = terminal
        self._timeout_s = timeout_s
        self._screen = Screen(terminal, as_json=as_json)
        self._client = AsyncClient(url, retry_s=RETRY_S, on_pause=self._screen.pause)
        self._limit = asyncio.timeout(timeout_s)
        self._task_id: str | None = None
        self._cancelling: asyncio.Task[None] | None = None
        self._ctrl_c = CtrlC(self._interrupted)

    async def run(self, submit: Submit, accepted: Callable[[Task], bool]) -> int:
        """Return the exit code. ``accepted`` is shown the task and says whether to watch it."""
        async with self._client:
            try:
                async with self._limit:
                    with self._ctrl_c:
                        task = await submit(self._client)
                        self._task_id = task.task_id
                        if not accepted(task):
                            return 0
                        if self._ctrl_c.pressed:
                            self._cancel(task.task_id)
                        code = await _watch(self._client, task.task_id, self._screen)
            except TimeoutError:
                return self._timed_out()
            finally:
                if self._cancelling is not None:
                    self._cancelling.cancel()
                    await asyncio.wait({self._cancelling})
            return INTERRUPTED if self._ctrl_c.pressed else code

    def _interrupted(self) -> None:
        loop = asyncio.get_running_loop()
        self._limit.reschedule(min(self._limit.when() or float("inf"), loop.time() + CANCEL_WAIT_S))
        self._terminal.status("cancelling; Ctrl-C again leaves at once")
        if self._task_id is not None:
            self._cancel(self._task_id)

    def _cancel(self, task_id: str) -> None:
        async def cancel() -> None:
            with suppress(SibylError):  # the limit says what to do by hand
                await self._client.cancel(task_id)

        self._cancelling = asyncio.create_task(cancel())

    def _timed_out(self) -> int:
        self._terminal.finish_line()
        if self._ctrl_c.pressed:
            by_hand = f"; try: sibyl cancel {self._task_id}" if self._task_id else ""
            self._terminal.note(f"left before the server confirmed the end of the task{by_hand}")
            return INTERRUPTED
        if self._task_id is None:
            self._terminal.note(f"the question was not accepted within {self._timeout_s:g} s")
        else:
            self._terminal.note(
                f"no whole answer within {self._timeout_s:g} s; the task goes on: sibyl follow {self._task_id}"
            )
        return TIMED_OUT


class CtrlC:
    """While entered, the first SIGINT calls ``first`` on the event loop, and the second is a KeyboardInterrupt.

    A handler of Python and not of the loop, so that the second one also leaves a write that blocks.
    """

    def __init__(self, first: Callable[[], None]) -> None:
        self.pressed = False
        self._first = first
        self._previous: signal._HANDLER = None

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._previous = signal.getsignal(signal.SIGINT)
        if self._previous is not signal.SIG_IGN:  # a shell's background job is not to hear of it
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        self._loop.call_soon_threadsafe(self._first)
