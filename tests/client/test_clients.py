"""Both clients, the blocking and the awaiting one, against a real server: one table of cases for the two."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from sibyl.client import (
    AsyncClient,
    CannotConnect,
    Client,
    ClientEvent,
    Message,
    Output,
    Pause,
    Position,
    Reset,
    SamplingParams,
    ServerFailed,
    State,
    UnexpectedReply,
)
from sibyl.core.errors import (
    InvalidRequest,
    QueueFull,
    SibylError,
    StoreUnavailable,
    TaskCancelled,
    TaskForgotten,
    UnknownTask,
)
from tests.client.native_server import (
    Cut,
    Dribble,
    End,
    Fault,
    Frames,
    LostReply,
    NativeServer,
    Script,
    Silence,
    Status,
    answering,
)

TASK = "0.7e57"
EVENTS = answering("Wé", " ", "ll\n", "\u2028", "😀.")
TEXT = "Wé ll\n\u2028😀."
LENGTH = len(b": here\r\n\r\n" + Script(TASK, EVENTS).frames(None))


class Caller:
    """One of the two clients behind the same blocking calls, so that a case is written once."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self.kind, self.url, self.options = kind, url, options

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What the method of that name returns; a stream as the list of its events."""
        if self.kind == "blocking":
            with Client(self.url, **self.options) as client:
                result = getattr(client, name)(*args, **kwargs)
                return list(result) if name == "follow" else result
        return asyncio.run(self._await(name, *args, **kwargs))

    async def _await(self, name: str, *args: Any, **kwargs: Any) -> Any:
        async with AsyncClient(self.url, **self.options) as client:
            result = getattr(client, name)(*args, **kwargs)
            return [event async for event in result] if name == "follow" else await result

    def follow(self, after: str | None = None) -> list[ClientEvent]:
        """Every event of the task."""
        events: list[ClientEvent] = self.call("follow", TASK, after)
        return events


Make = Callable[..., Caller]


@pytest.fixture(params=["blocking", "awaiting"])
def caller(request: pytest.FixtureRequest, api: NativeServer) -> Make:
    """Makes a client of this kind."""
    return lambda url=api.url, **options: Caller(request.param, url, **options)


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [Dribble(1)],
        [Dribble(3)],
        [Cut(0)],
        [Cut(LENGTH // 2)],
        [Cut(LENGTH - 1)],
        [End(0)],
        [End(LENGTH // 2)],
        [End(LENGTH - 1)],
        [Cut(200), End(300), Cut(250)],
        [Status(503, "store_unavailable"), Cut(150), Status(502, text="<html>")],
        [Status(429, "too_many_tasks", {"Retry-After": "0"}), Status(200, text="<html>")],
    ],
    ids=str,
)
def test_an_answer_is_whole_whatever_happens_to_its_connections(
    api: NativeServer, caller: Make, faults: list[Fault]
) -> None:
    """Cuts, clean ends, errors, pieces of one byte: each event once, in order, and the text is the text."""
    api.add(*EVENTS)
    api.faults.extend(faults)

    events = caller().follow()

    assert [event.cursor for event in events] == [f"1-{offset}" for offset in range(len(EVENTS))]
    assert "".join(event.token for event in events if isinstance(event, Output)) == TEXT
    assert not api.faults


def test_each_connection_goes_on_after_the_last_event(api: NativeServer, caller: Make) -> None:
    """The cursor travels as Last-Event-ID, and only whole events move it."""
    api.add(*EVENTS)
    first = len(b": here\r\n\r\n" + Script(TASK, EVENTS[:3]).frames(None))
    api.faults.extend([Cut(first + 5), Silence()])

    caller(silence_s=0.2).follow()

    assert api.cursors() == [None, "1-2", "1-2"]


def test_a_retry_after_is_obeyed(api: NativeServer, caller: Make) -> None:
    """One second asked, one second waited."""
    api.add(*EVENTS)
    api.faults.append(Status(503, "store_unavailable", {"Retry-After": "1"}))
    pauses: list[Pause] = []
    began = time.monotonic()

    caller(on_pause=pauses.append).follow()

    assert time.monotonic() - began >= 1.0
    assert [type(pause.error) for pause in pauses] == [StoreUnavailable]


def test_silence_is_a_cut(api: NativeServer, caller: Make) -> None:
    """A connection without a byte, not even a keep-alive, is given up and made anew."""
    api.add(*EVENTS)
    api.faults.append(Silence())
    pauses: list[Pause] = []

    caller(silence_s=0.2, on_pause=pauses.append).follow()

    assert [pause.error.message.partition(": ")[2] for pause in pauses] == [
        "it fell silent. Does `sibyl serve` run there?"
    ]


def test_following_from_the_end_is_over_at_once(api: NativeServer, caller: Make) -> None:
    """204: there is nothing to come."""
    script = api.add(*EVENTS)

    assert caller().follow(after=script.last_cursor) == []
    assert caller().follow(after="1-6") == caller().follow()[-1:]


def test_hints_are_handed_on(api: NativeServer, caller: Make) -> None:
    """They have no cursor, so the next connection does not go on after them."""
    api.add(*EVENTS, hints=[{"type": "position", "position": 3}])

    assert caller().follow()[0] == Position(cursor=None, position=3)


@pytest.mark.parametrize(
    ("prepare", "kind"),
    [
        (lambda api: api.scripts.clear(), UnknownTask),
        (lambda api: setattr(api.scripts[TASK], "deleted", True), TaskForgotten),
        (lambda api: api.faults.append(Status(404)), UnexpectedReply),
        (lambda api: api.faults.append(Status(422, "invalid_request")), InvalidRequest),
        (lambda api: api.faults.append(Frames(b"data: hello\n\n")), UnexpectedReply),
    ],
)
def test_what_trying_again_cannot_help_is_an_error_at_once(
    api: NativeServer, caller: Make, prepare: Callable[[NativeServer], None], kind: type[SibylError]
) -> None:
    """404, 410, other 4xx, and a stream of something else: one request, one error."""
    api.add(*EVENTS)
    prepare(api)

    with pytest.raises(kind):
        caller().follow()

    assert len(api.cursors()) == 1


def test_a_task_deleted_while_it_is_followed_ends_in_words(api: NativeServer, caller: Make) -> None:
    """The unlogged terminal event ends the stream, and the answer is an error."""
    api.add(*EVENTS)
    gone = b'event: failed\r\ndata: {"type":"failed","code":"task_forgotten","message":"Deleted."}\r\n\r\n'
    api.faults.extend([Frames(gone), Frames(gone)])

    assert [event.type for event in caller().follow()] == ["failed"]
    with pytest.raises(TaskForgotten):
        caller().call("answer", TASK)


def test_an_answer_honours_a_reset(api: NativeServer, caller: Make) -> None:
    """What the server took back is not part of the text."""
    api.add(*EVENTS)
    reset = b'data: {"type":"reset","from":2,"text":"W\xc3\xa9 "}\r\n\r\n'
    wrong = b'id: 1-2\r\ndata: {"type":"llm_streaming","token":"lost","index":0}\r\n\r\n'
    api.faults.extend([Frames(wrong), Frames(reset + Script(TASK, EVENTS).frames("1-3"))])

    assert caller().call("answer", TASK) == TEXT


def test_an_answer_is_its_text(api: NativeServer, caller: Make) -> None:
    """Or an error, when the task was cancelled."""
    api.add(*EVENTS)
    api.add(*EVENTS[:4], {"type": "cancelled"}, task_id="0.2")

    assert caller().call("answer", TASK) == TEXT
    with pytest.raises(TaskCancelled):
        caller().call("answer", "0.2")


def test_a_reset_is_an_event(api: NativeServer, caller: Make) -> None:
    """Who shows text as it grows is told."""
    api.add(*EVENTS, hints=[{"type": "reset", "from": 0, "text": ""}])

    assert caller().follow()[0] == Reset(cursor=None, kept=0, text="")


def free_port() -> int:
    """A port where nobody listens."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_server_that_is_not_there_yet_is_waited_for(caller: Make) -> None:
    """The first connection is refused; the server comes while the client waits."""
    port, pauses = free_port(), list[Pause]()
    with contextlib.ExitStack() as stack:

        def start(pause: Pause) -> None:
            if not pauses:
                stack.enter_context(NativeServer(port)).add(*EVENTS)
            pauses.append(pause)

        text = caller(f"http://127.0.0.1:{port}", on_pause=start).call("answer", TASK)

    assert text == TEXT
    assert isinstance(pauses[0].error, CannotConnect)


def test_patience_ends_in_one_clear_error(caller: Make) -> None:
    """Following and calling give up after what they were given, and say where and why."""
    url = f"http://someone:secret@127.0.0.1:{free_port()}"

    with pytest.raises(CannotConnect) as following:
        caller(url, give_up_s=0.5).follow()
    with pytest.raises(CannotConnect) as calling:
        caller(url, retry_s=0).call("task", TASK)

    for error in (following.value, calling.value):
        assert "127.0.0.1" in error.message and "`sibyl serve`" in error.message
        assert "secret" not in error.message


def test_a_question_is_one_task_however_often_it_is_sent(api: NativeServer, caller: Make) -> None:
    """A busy server, a lost reply: the same Idempotency-Key, so the same task."""
    busy = Status(429, "queue_full", {"Retry-After": "0"})
    api.call_faults.extend([busy, LostReply(), Status(500, "internal_error")])

    task = caller().call(
        "ask",
        "Why?",
        system="Be brief.",
        history=[Message(role="user", content="Hello")],
        sampling=SamplingParams(max_tokens=5),
        priority=9,
        metadata={"a": "b"},
    )

    keys = {seen.headers["idempotency-key"] for seen in api.seen}
    assert (len(api.seen), len(keys), len(api.scripts)) == (4, 1, 1)
    assert task.task_id in api.scripts and task.state is State.COMPLETED
    assert api.seen[0].body == {
        "question": "Why?",
        "system": "Be brief.",
        "history": [{"role": "user", "content": "Hello"}],
        "sampling": {"max_tokens": 5},
        "priority": 9,
        "metadata": {"a": "b"},
    }


def test_a_key_of_ones_own_is_sent(api: NativeServer, caller: Make) -> None:
    """Two processes that ask the same get the same task."""
    one, other = (caller().call("ask", "Why?", idempotency_key="mine") for _ in range(2))

    assert one.task_id == other.task_id


def test_a_fortune_comes_with_its_poem(api: NativeServer, caller: Make) -> None:
    """What was drawn is there before the first word of the interpretation."""
    task = caller().call("fortune", "Why?", seed=7)

    assert task.kind == "fortune" and task.poem.title == "The Ferry"
    assert api.seen[0].body == {"question": "Why?", "seed": 7}


def test_tasks_are_listed_page_by_page(api: NativeServer, caller: Make) -> None:
    """Newest first, with the place where the next page begins."""
    for number in range(3):
        api.add(*EVENTS, task_id=f"0.{number}")

    page = caller().call("tasks", state=State.COMPLETED, limit=2)

    assert [task.task_id for task in page.tasks] == ["0.2", "0.1"]
    assert page.next_before == "0.1"


def test_cancelling_and_deleting(api: NativeServer, caller: Make) -> None:
    """Cancelled is a state of the task; deleted is gone, also when the reply of the deletion was lost."""
    api.add(*EVENTS[:3])

    assert caller().call("cancel", TASK).state is State.CANCELLED
    api.call_faults.append(LostReply())
    caller().call("delete", TASK)

    with pytest.raises(TaskForgotten):
        caller().call("delete", TASK)
    with pytest.raises(TaskForgotten):
        caller().call("task", TASK)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Status(422, "invalid_request"), InvalidRequest),
        (Status(429, "queue_full", {"Retry-After": "60"}), QueueFull),
        (Status(404, text="<html>"), UnexpectedReply),
        (Status(302, headers={"Location": "https://elsewhere.test/"}), UnexpectedReply),
    ],
)
def test_what_the_server_says_no_to_is_an_error_at_once(
    api: NativeServer, caller: Make, fault: Fault, kind: type[SibylError]
) -> None:
    """Refused, busy for longer than the patience, or no Sibyl: one request."""
    api.call_faults.append(fault)

    with pytest.raises(kind):
        caller(retry_s=5.0).call("ask", "Why?")

    assert len(api.seen) == 1


def test_a_server_that_goes_on_failing_is_an_error_in_the_end(api: NativeServer, caller: Make) -> None:
    """The last failure is what the caller gets."""
    api.call_faults.extend([Status(500, "internal_error")] * 99)

    with pytest.raises(ServerFailed, match="internal_error"):
        caller(retry_s=0.5).call("ask", "Why?")


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://a", "http://", "http://[", "http://a:99999", "redis://a"])
def test_an_address_that_is_none_is_refused(caller: Make, url: str) -> None:
    """At once, with an example of a good one."""
    with pytest.raises(InvalidRequest, match="server's URL"):
        caller(url).call("tasks")


def test_leaving_early_closes_the_connection_and_the_rest_can_be_read_later(api: NativeServer) -> None:
    """A reader leaving stops nothing."""
    api.add(*EVENTS)
    with Client(api.url) as client:
        stream = client.follow(TASK)
        first = [next(stream), next(stream), next(stream)]
        stream.close()
        rest = list(client.follow(TASK, first[-1].cursor))

    assert [event.cursor for event in first + rest] == [f"1-{offset}" for offset in range(len(EVENTS))]


async def test_cancelling_the_follower_leaves_at_once(api: NativeServer) -> None:
    """An unfinished task has nothing to say; who awaits it can still leave."""
    api.add(*EVENTS[:2])
    async with AsyncClient(api.url) as client, contextlib.aclosing(client.follow(TASK)) as events:
        seen = [await anext(events), await anext(events)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(events)

    assert [event.type for event in seen] == ["queued", "started"]


def test_threads_share_a_client(api: NativeServer) -> None:
    """More streams at once than a usual connection pool holds, each whole."""
    api.add(*EVENTS)
    api.faults.extend([Cut(number * 7 % LENGTH) for number in range(120)])
    answers: list[str] = []
    with Client(api.url) as client:
        threads = [threading.Thread(target=lambda: answers.append(client.answer(TASK))) for _ in range(120)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    assert answers == [TEXT] * 120
