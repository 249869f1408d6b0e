"""The HTTP connection: a request's head has a limit, and a response can break it; with the fast parser and without."""

import asyncio
import importlib
import socket
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn

from sibyl.api import connection
from tests import serving
from tests.serving import RunningApi, ask, finish, read_events, run_api, run_worker, text_of, wait_until

HEAD_S = 0.3
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(params=["httptools and uvloop", "h11 and asyncio"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The connection and the loop that APIs have in this test: with the compiled packages, and without."""
    if request.param == "h11 and asyncio":
        monkeypatch.setattr(serving, "Connection", connection.H11Connection)
        monkeypatch.setattr(uvicorn.Config, "get_loop_factory", lambda config: asyncio.SelectorEventLoop)
    return str(request.param)


@pytest.fixture
def api(redis_url: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningApi]:
    """An API that is impatient."""
    monkeypatch.setattr(connection, "HEAD_S", HEAD_S)
    with run_api(redis_url) as running:
        yield running


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc"], ids=["nothing", "half a head"])
def test_a_connection_whose_head_is_late_is_closed(api: RunningApi, sent: bytes) -> None:
    """It would keep its place for ever."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as client:
        began = time.monotonic()
        client.sendall(sent)

        assert client.recv(1) == b""
        assert HEAD_S * 0.9 < time.monotonic() - began < 3


def test_so_is_one_that_was_of_use_before(api: RunningApi) -> None:
    """The limit holds for each request of a connection."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as client:
        client.sendall(WHOLE)
        answer = b""
        while not answer.endswith(b"}"):
            answer += client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /healthz HTT")

        assert client.recv(1) == b""


def test_a_request_that_takes_longer_than_its_head_may_is_answered(api: RunningApi) -> None:
    """Only the head is timed here: a body has a limit of its own, an answer needs what it needs."""
    body = b'{"question": "Is anybody there? [tokens=1]"}'
    head = (
        b"POST /api/questions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as client:
        client.sendall(head % len(body) + body[:10])
        client.settimeout(HEAD_S * 2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5)
        client.sendall(body[10:])

        assert client.recv(4096).startswith(b"HTTP/1.1 202")


def test_the_fast_parser_is_taken_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not, the API serves with the slow one."""
    assert connection.Connection is connection.HttptoolsConnection
    try:
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "uvicorn.protocols.http.httptools_impl", None)
            slow = importlib.reload(connection)
            assert slow.Connection is slow.H11Connection
    finally:
        importlib.reload(connection)


def test_an_answer_is_followed_and_replayed(redis_url: str, kind: str) -> None:
    """As it comes, and again, on one connection."""
    with run_api(redis_url) as api, run_worker(redis_url), api.client() as client:
        task_id = ask(client, "[pace=200] [tokens=30]")["task_id"]
        frames = read_events(client, task_id)

        assert len(text_of(frames).split()) == 30
        assert read_events(client, task_id) == [frame for frame in frames if frame.id]
        assert len(text_of(read_events(client, finish(client, "[tokens=2000]")["task_id"])).split()) == 2000


def test_a_drain_breaks_a_stream(redis_url: str, kind: str) -> None:
    """Without its final chunk, which would be an end."""
    with run_api(redis_url) as api, api.client() as client:
        task_id = ask(client, "nobody answers")["task_id"]
        with client.stream("GET", f"/api/tasks/{task_id}/events") as response:
            pieces = response.iter_raw()
            assert next(pieces).startswith(b"id: 0-1")
            api.thread.loop.call_soon_threadsafe(api.context.draining.set)
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                list(pieces)
        assert wait_until(lambda: api.context.followers == 0)


def test_a_reader_that_takes_nothing_is_broken_off(redis_url: str, kind: str) -> None:
    """Also when there is more to send than its buffers hold."""
    with run_api(redis_url, send_timeout_s=0.4) as api, run_worker(redis_url), api.client() as client:
        task_id = finish(client, "[tokens=60000]")["task_id"]
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.settimeout(5)
            stalled.connect(("127.0.0.1", api.port))
            stalled.sendall(f"GET /api/tasks/{task_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert wait_until(lambda: api.context.followers == 1)
            assert wait_until(lambda: api.context.followers == 0, 3)
            taken = 0
            try:
                while piece := stalled.recv(1 << 16):
                    taken += len(piece)
            except ConnectionResetError:
                pass

    assert 0 < taken < 300_000, "the answer has more"
