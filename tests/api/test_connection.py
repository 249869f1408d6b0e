"""The HTTP connection: a request's head has a limit, whatever else a client does not do."""

import socket
import time
from collections.abc import Iterator

import pytest

from sibyl.api import connection
from tests.serving import RunningApi, run_api

HEAD_S = 0.3
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def api(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningApi]:
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
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
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
