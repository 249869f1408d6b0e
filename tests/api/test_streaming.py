"""Event streams over a real connection: their bytes, cursors, limits, ends and cuts."""

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from starlette.types import Message

from sibyl.api.draining import Draining
from sibyl.api.streaming import EventStream
from sibyl.core.cursor import START, Cursor
from sibyl.core.event import Cancelled, Entry, Output, Queued, Started
from sibyl.core.fold import Fold
from sibyl.core.task import LOCAL_OWNER, TaskId
from sibyl.store.connection import Store
from sibyl.store.feed import Feed
from sibyl.store.log import EventLog
from sibyl.store.queue import TaskQueue
from sibyl.wire.sse import Frame, Parser
from sibyl.worker.worker import Worker
from tests.serving import (
    LIMIT_S,
    TERMINAL,
    RunningApi,
    RunningWorker,
    WatchedEngine,
    ask,
    data_of,
    finish,
    read_events,
    run_api,
    run_worker,
    show,
    text_of,
    wait_ready,
    wait_until,
)
from tests.topology import SHARDS, one_shard, redis_with, shard_at


class RawStream:
    """An event stream on a socket of our own, which reads only when it is told to."""

    def __init__(self, port: int, task_id: str, *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(f"GET /api/tasks/{task_id}/events HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())

    def __enter__(self) -> "RawStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read_all(self) -> bytes:
        """Read to the end of the connection."""
        data = b""
        try:
            while piece := self.socket.recv(1 << 20):
                data += piece
        except ConnectionResetError:
            pass
        return data

    def read_until(self, ending: bytes) -> bytes:
        """Read until the bytes end so."""
        data = b""
        while not data.endswith(ending):
            piece = self.socket.recv(1 << 20)
            assert piece, data
            data += piece
        return data


def chunks(body: bytes) -> tuple[list[bytes], bool]:
    """Return the chunks of a chunked body, and whether the one came that ends it."""
    found: list[bytes] = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return found, True
        if len(rest) < length + 2:
            break
        found.append(rest[:length])
        body = rest[length + 2 :]
    return found, False


async def fill(redis_url: str, task_id: str, outputs: int, text: str) -> None:
    """Write a running task's log by hand, as a worker would."""
    store = Store(redis_url, shards=SHARDS)
    queue, log = TaskQueue(store), EventLog(store)
    claim = await queue.claim(nonce="hand:1", model="by hand", lease_s=60, max_attempts=5, floor=0)
    assert claim is not None and claim.lease.task_id == task_id
    for start in range(0, outputs, 100):
        part = [Output(text=text)] * min(100, outputs - start)
        await log.append(claim.lease, start + 1, part, lease_s=60)
    await store.close()


def test_a_stream_is_the_pinned_bytes(client: httpx.Client, worker: RunningWorker) -> None:
    """Frame for frame what the contract says: id, event, data in one line, CRLF; one index more for each output."""
    task_id = finish(client, "[text=Ja, ü 😀!]")["task_id"]

    body = client.get(f"/api/tasks/{task_id}/events").content

    started, epoch = body.split(b"\r\n\r\n")[1], 0
    epoch = int(started.split(b"\r\n")[0].removeprefix(b"id: ").partition(b"-")[0])
    assert epoch > 1_700_000_000_000
    assert body.decode() == (
        f'id: 0-1\r\nevent: queued\r\ndata: {{"type":"queued","task_id":"{task_id}"}}\r\n\r\n'
        f'id: {epoch}-0\r\nevent: started\r\ndata: {{"type":"started","attempt":1,"model":"scripted"}}\r\n\r\n'
        + "".join(
            f'id: {epoch}-{index + 1}\r\nevent: llm_streaming\r\ndata: {{"type":"llm_streaming",'
            f'"token":{json.dumps(token, ensure_ascii=False)},"index":{index}}}\r\n\r\n'
            for index, token in enumerate(tokens_of(body))
        )
        + f'id: {epoch}-{len(tokens_of(body)) + 1}\r\nevent: completed\r\ndata: {{"type":"completed","text_length":8,'
        '"usage":{"prompt_tokens":3,"completion_tokens":3},"finish_reason":"stop"}\r\n\r\n'
    )
    assert "".join(tokens_of(body)) == "Ja, ü 😀!"


def tokens_of(body: bytes) -> list[str]:
    """The tokens of the answer, as they were logged."""
    return [data_of(frame)["token"] for frame in Parser().feed(body) if frame.event == "llm_streaming"]


@pytest.mark.parametrize(
    ("question", "end"),
    [
        ("[fail]", {"type": "failed", "code": "engine_error", "message": "The question asked for this failure."}),
        (
            "[tokens=0]",
            {
                "type": "failed",
                "code": "invalid_request",
                "message": "[tokens=...] takes a whole number from 1 to 100000.",
            },
        ),
    ],
)
def test_a_failed_stream_ends_with_why(
    client: httpx.Client, worker: RunningWorker, question: str, end: dict[str, str]
) -> None:
    """A typed end, after which the body ends whole."""
    frames = read_events(client, ask(client, question)["task_id"])

    assert [frame.event for frame in frames if frame.id] == ["queued", "started", "failed"]
    assert data_of(frames[-1]) == end


def test_an_expired_stream_ends_with_why(redis_url: str) -> None:
    """The deadline passed while it was running."""
    with run_api(redis_url, deadline_s=1) as api, run_worker(redis_url), api.client() as client:
        frames = read_events(client, ask(client, "[pace=20] [tokens=1000]")["task_id"])

    assert frames[-1].event == "expired"
    assert data_of(frames[-1]) == {"type": "expired", "message": "The task was not finished before its deadline."}
    assert text_of(frames)


def test_a_stream_has_the_headers_that_proxies_need(client: httpx.Client, worker: RunningWorker) -> None:
    """An event stream that nobody stores, buffers or compresses."""
    task_id = finish(client, "[tokens=2]")["task_id"]

    headers = client.get(f"/api/tasks/{task_id}/events").headers

    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers and "content-encoding" not in headers


def test_the_events_come_as_they_happen(client: httpx.Client, worker: RunningWorker) -> None:
    """Each token within a tenth of a second after it was made, not all at the end."""
    task_id = ask(client, "[pace=10] [tokens=5]")["task_id"]
    times: list[float] = []
    with client.stream("GET", f"/api/tasks/{task_id}/events") as response:
        parser = Parser()
        for piece in response.iter_raw():
            times += [time.monotonic() for frame in parser.feed(piece) if frame.event == "llm_streaming"]

    assert len(times) == 5
    assert all(0.03 < later - earlier < 0.3 for earlier, later in itertools.pairwise(times))


def test_every_cursor_gives_exactly_the_rest(client: httpx.Client, worker: RunningWorker) -> None:
    """From each event of an answer, by header and by query; the last one says that there is nothing more."""
    task_id = finish(client, "[tokens=12]")["task_id"]
    whole = client.get(f"/api/tasks/{task_id}/events").content
    frames = Parser().feed(whole)

    for number, frame in enumerate(frames):
        assert frame.id is not None
        rest = b"".join(part + b"\r\n\r\n" for part in whole.split(b"\r\n\r\n")[number + 1 : -1])
        by_header = client.get(f"/api/tasks/{task_id}/events", headers={"Last-Event-ID": frame.id})
        by_query = client.get(f"/api/tasks/{task_id}/events", params={"after": frame.id})
        # the header is what a browser sends by itself; the query may be as old as the page
        by_both = client.get(
            f"/api/tasks/{task_id}/events", headers={"Last-Event-ID": frame.id}, params={"after": "0-1"}
        )
        for response in (by_header, by_query, by_both):
            assert response.content == rest
            assert response.status_code == (204 if frame is frames[-1] else 200)
    assert client.get(f"/api/tasks/{task_id}/events", params={"after": "0-0"}).content == whole
    assert client.get(f"/api/tasks/{task_id}/events", headers={"Last-Event-ID": ""}).content == whole


def test_a_reader_that_comes_back_in_the_middle_misses_and_repeats_nothing(
    client: httpx.Client, worker: RunningWorker
) -> None:
    """It leaves after every few events of a running answer and comes back with its cursor."""
    task_id = ask(client, "[pace=200] [tokens=60]")["task_id"]
    frames: list[Frame] = []
    while not frames or frames[-1].event not in TERMINAL:
        last = next((frame.id for frame in reversed(frames) if frame.id), None)
        headers = {} if last is None else {"Last-Event-ID": last}
        with client.stream("GET", f"/api/tasks/{task_id}/events", headers=headers) as response:
            parser = Parser()
            for piece in response.iter_raw():
                if new := parser.feed(piece):
                    frames += new
                    break

    logged = [frame for frame in frames if frame.id]
    assert logged == read_events(client, task_id)
    indices = [data_of(frame)["index"] for frame in logged if frame.event == "llm_streaming"]
    assert indices == list(range(len(indices))) and len(text_of(logged).split()) == 60


@pytest.mark.parametrize("cursor", ["1-1", "999999999999999-999999999", "0-2"])
def test_a_foreign_cursor_is_told_in_band(client: httpx.Client, worker: RunningWorker, cursor: str) -> None:
    """A reset to nothing, then the whole log: never a silent skip."""
    task_id = finish(client, "[tokens=3]")["task_id"]
    whole = client.get(f"/api/tasks/{task_id}/events").content

    body = client.get(f"/api/tasks/{task_id}/events", params={"after": cursor}).content

    assert body == b'id: 0-0\r\nevent: reset\r\ndata: {"type":"reset","from":0,"text":""}\r\n\r\n' + whole


def test_a_silent_stream_is_kept_alive(client: httpx.Client) -> None:
    """Comment lines, which readers ignore, at the pace of the settings; here every 0.3 s."""
    task_id = ask(client, "nobody answers")["task_id"]
    comments = 0
    began = time.monotonic()
    with client.stream("GET", f"/api/tasks/{task_id}/events") as response:
        for piece in response.iter_raw():
            comments += piece.count(b": keep-alive\r\n\r\n")
            if comments == 3:
                break

    assert 0.8 < time.monotonic() - began < 3


@one_shard
def test_a_waiting_reader_sees_its_place_in_the_queue(client: httpx.Client, redis_url: str) -> None:
    """Positions without an id, then the answer."""
    first, second = (ask(client, f"[tokens=1] {number}")["task_id"] for number in range(2))
    with client.stream("GET", f"/api/tasks/{second}/events") as response:
        parser, frames = Parser(), list[Frame]()
        pieces = response.iter_raw()
        while len(frames) < 2:
            frames += parser.feed(next(pieces))
        client.post(f"/api/tasks/{first}/cancel")
        while len(frames) < 3:
            frames += parser.feed(next(pieces))
        with run_worker(redis_url):
            frames += [frame for piece in pieces for frame in parser.feed(piece)]

    assert [(frame.event, frame.id) for frame in frames[:3]] == [
        ("queued", "0-1"),
        ("position", None),
        ("position", None),
    ]
    assert [frame.data for frame in frames[1:3]] == [
        '{"type":"position","position":1}',
        '{"type":"position","position":0}',
    ]
    assert [frame.event for frame in frames[3:]] == ["started", "llm_streaming", "completed"]


def test_a_reader_sees_how_far_the_prompt_is(client: httpx.Client, worker: RunningWorker) -> None:
    """Progress without an id while a long prompt is evaluated, rising, and none after the first token."""
    task_id = ask(client, "[prompt_s=3] [tokens=2] " + "word " * 98)["task_id"]

    frames = read_events(client, task_id)

    events = [frame.event for frame in frames]
    progress = [data_of(frame) for frame in frames if frame.event == "progress"]
    assert all(frame.id is None for frame in frames if frame.event == "progress")
    assert progress and all(part.keys() == {"type", "prompt_tokens_evaluated", "prompt_tokens"} for part in progress)
    evaluated = [part["prompt_tokens_evaluated"] for part in progress]
    assert evaluated == sorted(set(evaluated)) and {part["prompt_tokens"] for part in progress} == {100}
    assert "progress" not in events[events.index("llm_streaming") :]


async def test_what_has_gathered_goes_out_in_few_chunks(api: RunningApi, client: httpx.Client, redis_url: str) -> None:
    """A log of 2,000 events is four writes, not 2,000."""
    task_id = ask(client, "x")["task_id"]
    await fill(redis_url, task_id, 2000, "word ")

    with RawStream(api.port, task_id) as stream:
        data = await asyncio.to_thread(stream.read_until, b": keep-alive\r\n\r\n\r\n")

    parts, ended = chunks(data.partition(b"\r\n\r\n")[2])
    assert len(parts) <= 5 and not ended
    assert len([frame for frame in Parser().feed(b"".join(parts)) if frame.event == "llm_streaming"]) == 2000


@pytest.mark.parametrize("over", [False, True], ids=["running", "finished"])
async def test_a_reader_that_takes_nothing_is_cut_and_delays_nobody(redis_url: str, over: bool) -> None:
    """After the send timeout its place is free and its connection gone; a reader beside it has long had everything."""
    with run_api(redis_url, send_timeout_s=0.5, keep_alive_s=0.2) as api, api.client() as client:
        task_id = ask(client, "x")["task_id"]
        await fill(redis_url, task_id, 2000, "x" * 4000)  # 8 MB, more than any socket buffer holds
        if over:
            await cut_short(redis_url, task_id)
        with RawStream(api.port, task_id, receive_bytes=4096) as stalled:
            assert await asyncio.to_thread(wait_until, lambda: api.context.followers == 1)

            began = time.monotonic()
            with RawStream(api.port, task_id) as beside:
                ending = b"0\r\n\r\n" if over else b": keep-alive\r\n\r\n\r\n"
                taken = 0
                while taken <= 8_000_000:  # a keep-alive may come in between, on a busy machine
                    taken += len(await asyncio.to_thread(beside.read_until, ending))
                took_s = time.monotonic() - began
            assert await asyncio.to_thread(wait_until, lambda: api.context.followers == 0, 3)
            freed_s = time.monotonic() - began
            data = await asyncio.to_thread(stalled.read_all)

    assert took_s < 1.5 and freed_s < 2.5
    assert len(data) < 8_000_000, "its connection was left open with all that it did not take"
    assert not chunks(data.partition(b"\r\n\r\n")[2])[1], "a cut must not look like an end"


async def cut_short(redis_url: str, task_id: str) -> None:
    """End a task that was filled by hand."""
    key = shard_at(task_id).task(TaskId(task_id))
    with redis_with(redis_url, key) as redis:
        redis.hset(key, "nonce", "")
    store = Store(redis_url, shards=SHARDS)
    await TaskQueue(store).request_cancel(TaskId(task_id), LOCAL_OWNER)
    await store.close()


async def test_many_readers_that_take_nothing_cost_bounded_memory(redis_url: str) -> None:
    """They share one log in memory; what lies unsent at each of them is dropped with its connection."""
    with run_api(redis_url, send_timeout_s=0.5, keep_alive_s=0.2) as api, api.client() as client:
        task_id = ask(client, "x")["task_id"]
        await fill(redis_url, task_id, 2000, "x" * 4000)
        before = resident_bytes()
        with ExitStack() as stack:
            first = stack.enter_context(RawStream(api.port, task_id, receive_bytes=4096))
            assert await asyncio.to_thread(first.socket.recv, 1)  # it has loaded the log, which the others share
            for _ in range(19):
                stack.enter_context(RawStream(api.port, task_id, receive_bytes=4096))
            assert await asyncio.to_thread(wait_until, lambda: api.context.followers == 20)
            grown = resident_bytes() - before
            assert await asyncio.to_thread(wait_until, lambda: api.context.followers == 0, 5)
            assert await asyncio.to_thread(wait_until, lambda: open_connections(api) <= 1, 5), open_connections(api)

    assert grown < 40_000_000


def resident_bytes() -> int:
    """Memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def open_connections(api: RunningApi) -> int:
    """Connections that the process holds open: those of its port that are established or left by the other side."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file][1:]
    return sum(1 for row in rows if row[1].endswith(f":{api.port:04X}") and row[3] in ("01", "08"))


class Stuck:
    """A connection whose reader takes nothing."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.waits = asyncio.Event()

    async def send(self, message: Message) -> None:
        """Take the head of the response and no more."""
        if message["type"] == "http.response.body":
            self.sent.append(message["body"])
            self.waits.set()
            await asyncio.Event().wait()

    async def receive(self) -> Message:
        """Say nothing."""
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_reader_that_takes_nothing_is_sent_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    """No keep-alive beside the event that waits for it, and one cut after the send timeout."""
    feed = Feed(TaskId("0.ab"))
    feed.fold = Fold([Entry(Cursor(0, 1), Queued())])
    released: list[bool] = []
    reader = Stuck()
    limits = {"keep_alive_s": 0.01, "send_timeout_s": 0.2}
    stream = EventStream(feed, START, draining=Draining(), release=lambda: released.append(True), **limits)

    began = time.monotonic()
    await stream({"type": "http", "method": "GET"}, reader.receive, reader.send)

    assert 0.2 <= time.monotonic() - began < 1
    assert len(reader.sent) == 1 and reader.sent[0].startswith(b"id: 0-1\r\n")
    assert released == [True]
    assert [record.action for record in caplog.records] == ["stream_stalled"]  # type: ignore[attr-defined]


class Taken:
    """A connection whose reader takes everything."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.came = asyncio.Event()

    async def send(self, message: Message) -> None:
        """Take it."""
        if message["type"] == "http.response.body":
            self.sent.append(message["body"])
            self.came.set()

    async def receive(self) -> Message:
        """Say nothing."""
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_keep_alive_comes_only_after_silence() -> None:
    """Not while events come more often than that; and not after the end."""
    feed = Feed(TaskId("0.ab"))
    feed.fold = Fold([Entry(Cursor(0, 1), Queued())])
    reader = Taken()
    limits = {"keep_alive_s": 0.2, "send_timeout_s": 5.0}
    stream = EventStream(feed, START, draining=Draining(), release=lambda: None, **limits)
    running = asyncio.create_task(stream({"type": "http", "method": "GET"}, reader.receive, reader.send))
    feed.take(Entry(Cursor(5, 0), Started(attempt=1, model="m", kept=0, previous=Cursor(0, 1))))
    for number in range(1, 41):
        feed.take(Entry(Cursor(5, number), Output(text="x")))
        feed.notify()
        await asyncio.sleep(0.01)
    assert not [piece for piece in reader.sent if piece.startswith(b":")]

    while not reader.sent[-1].startswith(b":"):
        reader.came.clear()
        await asyncio.wait_for(reader.came.wait(), 1)
    feed.take(Entry(Cursor(5, 41), Cancelled(kept=40)))
    feed.notify()
    await running

    assert reader.sent[-1] == b"" and b"event: cancelled" in reader.sent[-2]


async def test_a_drain_leaves_a_long_replay_where_it_is() -> None:
    """The follower goes on elsewhere from its cursor; it need not be sent the rest first."""
    feed = Feed(TaskId("0.ab"))
    feed.fold = Fold([Entry(Cursor(0, 1), Queued())])
    feed.take(Entry(Cursor(5, 0), Started(attempt=1, model="m", kept=0, previous=Cursor(0, 1))))
    for number in range(1, 5001):
        feed.take(Entry(Cursor(5, number), Output(text="word " * 20)))
    draining = Draining()
    reader = Taken()
    limits = {"keep_alive_s": 10.0, "send_timeout_s": 5.0}
    stream = EventStream(feed, START, draining=draining, release=lambda: None, **limits)

    async def send(message: Message) -> None:
        await reader.send(message)
        if len(reader.sent) == 2:
            draining.set()

    await stream({"type": "http", "method": "GET"}, reader.receive, send)

    assert len(reader.sent) == 2 and all(len(piece) < 70_000 for piece in reader.sent)


async def test_a_cut_from_outside_is_no_timeout() -> None:
    """A stream that is cancelled ends as cancelled, whatever its reader does."""
    feed = Feed(TaskId("0.ab"))
    feed.fold = Fold([Entry(Cursor(0, 1), Queued())])
    released: list[bool] = []
    reader = Stuck()
    limits = {"keep_alive_s": 10.0, "send_timeout_s": 10.0}
    stream = EventStream(feed, START, draining=Draining(), release=lambda: released.append(True), **limits)
    running = asyncio.create_task(stream({"type": "http", "method": "GET"}, reader.receive, reader.send))
    await reader.waits.wait()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert released == [True]


def test_a_task_that_is_deleted_while_it_is_followed_ends_the_stream(client: httpx.Client, redis_url: str) -> None:
    """A typed end without an id: there is no place to go on from. Running or waiting, with text or without."""
    with run_worker(redis_url, slots=1):
        running = ask(client, "[pace=20] [tokens=1000]")["task_id"]
        assert wait_until(lambda: bool(show(client, running)["text"]))
        waiting = ask(client, "x")["task_id"]
        for task_id in (waiting, running):
            with client.stream("GET", f"/api/tasks/{task_id}/events") as response:
                parser, frames = Parser(), list[Frame]()
                pieces = response.iter_raw()
                frames += parser.feed(next(pieces))
                began = time.monotonic()
                client.delete(f"/api/tasks/{task_id}")
                frames += [frame for piece in pieces for frame in parser.feed(piece)]

            assert (frames[-1].event, frames[-1].id) == ("failed", None)
            assert data_of(frames[-1])["code"] == "task_forgotten"
            assert time.monotonic() - began < 4


def test_no_more_readers_than_allowed(redis_url: str) -> None:
    """503 with Retry-After; a place that becomes free is taken, also one of a reader that just went."""
    with run_api(redis_url, followers=2) as api, api.client() as client:
        task_id = ask(client, "x")["task_id"]
        url = f"/api/tasks/{task_id}/events"
        with client.stream("GET", url), client.stream("GET", url):
            refused = client.get(url)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_followers")
            assert int(refused.headers["retry-after"]) > 0
        assert wait_until(lambda: api.context.followers == 0, 2)
        with client.stream("GET", url) as response:
            assert response.status_code == 200


def test_a_refused_reader_takes_no_place(redis_url: str) -> None:
    """404, 410, 422 and 204 leave the count as it was."""
    with run_api(redis_url, followers=1) as api, run_worker(redis_url), api.client() as client:
        wait_ready(client)
        done = finish(client, "[tokens=1]")["task_id"]
        last = read_events(client, done)[-1].id
        gone = finish(client, "[tokens=1]")["task_id"]
        client.delete(f"/api/tasks/{gone}")
        for _ in range(3):
            assert client.get(f"/api/tasks/{done}/events", params={"after": last}).status_code == 204
            assert client.get(f"/api/tasks/{done}/events", params={"after": "x"}).status_code == 422
            assert client.get(f"/api/tasks/{gone}/events").status_code == 410
            assert client.get("/api/tasks/0." + "0" * 32 + "/events").status_code == 404
        assert read_events(client, done)
        assert wait_until(lambda: (api.context.followers, api.context.tail.followed) == (0, 0), 2)


def test_readers_that_leave_stop_nothing(client: httpx.Client, api: RunningApi, redis_url: str) -> None:
    """The answer goes on without anyone, and its feed is given up."""
    engine = WatchedEngine()
    with run_worker(redis_url, engine):
        task_id = ask(client, "[pace=50] [tokens=30]")["task_id"]
        for _ in range(5):
            with client.stream("GET", f"/api/tasks/{task_id}/events") as response:
                next(response.iter_raw())
        assert wait_until(lambda: api.context.followers == 0, 2)
        assert engine.wait_running(0, LIMIT_S)

        assert wait_until(lambda: show(client, task_id)["state"] == "completed")
        assert len(show(client, task_id)["text"].split()) == 30
        assert api.context.tail.followed == 0


@pytest.fixture
def quick_worker(redis_url: str) -> Iterator[Worker]:
    """A worker with many slots."""
    with run_worker(redis_url, slots=64) as running:
        yield running.worker


async def test_readers_that_come_together_see_the_same(
    api: RunningApi, client: httpx.Client, quick_worker: Worker
) -> None:
    """Fifty readers join one fast answer in the same moment, four times: none is reset, all have the whole text."""
    async with api.async_client() as readers:

        async def read(task_id: str) -> str:
            async with readers.stream("GET", f"/api/tasks/{task_id}/events") as response:
                parser = Parser()
                return text_of([frame async for piece in response.aiter_raw() for frame in parser.feed(piece)])

        for number in range(4):
            task_id = ask(client, f"[pace=400] [tokens=80] {number}")["task_id"]
            texts = await asyncio.gather(*(read(task_id) for _ in range(50)))
            assert set(texts) == {show(client, task_id)["text"]}
