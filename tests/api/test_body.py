"""Bad input: each gets its documented 4xx, leaves nothing behind, and the next good request works."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

import sibyl.api.body
from sibyl.wire.tasks import QUESTION_CHARS
from tests.serving import RunningApi, ask

JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def nothing_is_lost(client: httpx.Client) -> Iterator[None]:
    """What was accepted before stays, what was refused left nothing, and a good request works."""
    before = ask(client, "before")["task_id"]
    yield
    assert [task["task_id"] for task in client.get("/api/tasks").json()["tasks"]] == [before]
    ask(client, "after")


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Return status and code of an error, having looked at its shape."""
    error = response.json()["error"]
    assert response.json().keys() == {"error"}
    assert error.keys() <= {"code", "message", "details"}
    assert isinstance(error["message"], str) and error["message"] and "\n" not in error["message"]
    return response.status_code, error["code"]


WRONG_FIELDS: dict[str, object] = {
    "missing": {},
    "empty": {"question": ""},
    "blank": {"question": " \t\r\n\u2003\x00\x1f\x7f\x85"},
    "null": {"question": None},
    "a number": {"question": 1},
    "a list": {"question": ["x"]},
    "over-long": {"question": "x" * (QUESTION_CHARS + 1)},
    "over-long in letters of four bytes": {"question": "😀" * (QUESTION_CHARS + 1)},
    "an unknown field": {"question": "x", "wat": 1},
    "an unknown field with a long name": {"question": "x", "w" * 10_000: 1},
    "an unknown field in sampling": {"question": "x", "sampling": {"wat": 1}},
    "a number as text": {"question": "x", "priority": "5"},
    "a whole number with a fraction": {"question": "x", "priority": 5.5},
    "true as a number": {"question": "x", "priority": True},
    "too large a priority": {"question": "x", "priority": 10},
    "too small a priority": {"question": "x", "priority": -1},
    "huge priority": {"question": "x", "priority": 10**400},
    "no tokens": {"question": "x", "sampling": {"max_tokens": 0}},
    "too many tokens": {"question": "x", "sampling": {"max_tokens": 32_769}},
    "a negative temperature": {"question": "x", "sampling": {"temperature": -0.1}},
    "an infinite temperature": {"question": "x", "sampling": {"temperature": float("inf")}},
    "no temperature at all": {"question": "x", "sampling": {"temperature": float("nan")}},
    "top_p of nothing": {"question": "x", "sampling": {"top_p": 0}},
    "a seed of 64 bits": {"question": "x", "sampling": {"seed": 2**32}},
    "a stop string that is empty": {"question": "x", "sampling": {"stop": [""]}},
    "a stop string that is none": {"question": "x", "sampling": {"stop": "x"}},
    "too many stop strings": {"question": "x", "sampling": {"stop": ["x"] * 9}},
    "history by the system": {"question": "x", "history": [{"role": "system", "content": "x"}]},
    "empty history": {"question": "x", "history": [{"role": "user", "content": ""}]},
    "history without content": {"question": "x", "history": [{"role": "user"}]},
    "too long a history": {"question": "x", "history": [{"role": "user", "content": "x"}] * 65},
    "many wrong turns": {"question": "x", "history": [{"role": "x"}] * 64},
    "metadata of numbers": {"question": "x", "metadata": {"a": 1}},
    "metadata without a name": {"question": "x", "metadata": {"": "x"}},
    "metadata with a long name": {"question": "x", "metadata": {"x" * 65: "x"}},
    "metadata with a long value": {"question": "x", "metadata": {"x": "x" * 513}},
    "too much metadata": {"question": "x", "metadata": {str(number): "x" for number in range(17)}},
    "half a letter": {"question": "\ud800"},
    "half a letter in metadata": {"question": "x", "metadata": {"a": "\udfff"}},
    "half a letter as a name": {"question": "x", "metadata": {"\ud800": "a"}},
    "half a letter as an unknown field": {"question": "x", "\ud800": "a"},
    "a list as body": [],
    "text as body": "question",
    "null as body": None,
    "a number as body": 1,
}


@pytest.mark.parametrize("route", ["/api/questions", "/api/fortunes"])
@pytest.mark.parametrize("body", WRONG_FIELDS.values(), ids=WRONG_FIELDS)
def test_a_wrong_field_is_named(client: httpx.Client, route: str, body: object) -> None:
    """422 with where and what; never the value, which may be anything and of any size."""
    response = client.post(route, content=json.dumps(body), headers=JSON)

    assert refusal(response) == (422, "invalid_request")
    details = response.json()["error"]["details"]
    assert details and all(detail.keys() == {"loc", "message"} for detail in details)
    assert {detail["loc"][0] for detail in details} == {"body"}
    assert len(response.content) < 8_000


def deeply_nested(opening: str, closing: str) -> bytes:
    """JSON of so many levels that a parser which recurses gives up."""
    return ('{"question": "x", "metadata": ' + opening * 20_000 + closing * 20_000 + "}").encode()


MALFORMED: dict[str, bytes] = {
    "cut off": b'{"question": "x"',
    "no JSON": b"question=x",
    "two values": b'{"question": "x"} {}',
    "a byte that is no UTF-8": b'{"question": "x\xff"}',
    "a cut letter": b'{"question": "x\xe2\x82"}',
    "an overlong letter": b'{"question": "x\xc0\x80"}',
    "half a letter in UTF-8": b'{"question": "x\xed\xa0\x80"}',
    "UTF-16 with a mark": '{"question": "x"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"question": "x"}'.encode("utf-16-le"),
    "UTF-32": '{"question": "x"}'.encode("utf-32"),
    "Latin-1": '{"question": "é"}'.encode("latin-1"),
    "a line end in a string": b'{"question": "x\n"}',
    "a number of 5,000 digits": b'{"question": "x", "priority": ' + b"9" * 5_000 + b"}",
    "deep lists": deeply_nested("[", "]"),
    "deep objects": deeply_nested('{"a":', "}").replace(b":}", b":1}"),
    "only openings": b"[" * 100_000,
}


@pytest.mark.parametrize("route", ["/api/questions", "/api/fortunes"])
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_json_in_utf_8_is_refused(client: httpx.Client, route: str, body: bytes) -> None:
    """400, whatever the parser stumbled over."""
    assert refusal(client.post(route, content=body, headers=JSON)) == (400, "malformed_body")


def test_an_empty_body_is_refused(client: httpx.Client) -> None:
    """Nothing at all is a missing body."""
    assert refusal(client.post("/api/questions", headers=JSON)) == (422, "invalid_request")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"])
def test_another_kind_of_body_is_refused(client: httpx.Client, kind: str) -> None:
    """415; so a form on a foreign page cannot ask, either."""
    response = client.post("/api/questions", content=b'{"question": "x"}', headers={"content-type": kind})

    assert refusal(response) == (415, "unsupported_media_type")


def test_a_body_without_a_kind_is_refused(client: httpx.Client) -> None:
    """What says nothing about itself is not guessed."""
    assert refusal(client.post("/api/questions", content=b'{"question": "x"}')) == (415, "unsupported_media_type")


def test_a_large_body_is_refused_before_it_is_read(api: RunningApi) -> None:
    """413 to the declared length alone: not a byte of the body has to be sent."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=5)
    connection.putrequest("POST", "/api/questions")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", str(10 * 1024 * 1024))
    connection.endheaders()

    response = connection.getresponse()

    assert (response.status, json.loads(response.read())["error"]["code"]) == (413, "body_too_large")
    assert response.headers["connection"] == "close"
    connection.close()


def ten_megabytes() -> Iterator[bytes]:
    """A body of ten megabytes that nobody announced."""
    yield b'{"question": "'
    for _ in range(160):
        yield b"x" * 65_536
    yield b'"}'


def test_a_large_body_in_chunks_is_refused_when_it_grew_too_large(api: RunningApi) -> None:
    """413 although no length was declared, and without holding it."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        connection.sendall(
            b"POST /api/questions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        sent = 0
        try:
            for piece in ten_megabytes():
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has answered, and reads no more
        answer = b""
        try:
            while piece := connection.recv(65_536):
                answer += piece
        except ConnectionResetError:
            pass

    assert sent < 10 * 1024 * 1024 or answer.startswith(b"HTTP/1.1 413")
    assert not answer or (answer.startswith(b"HTTP/1.1 413") and b"body_too_large" in answer)


def test_a_large_body_in_chunks_can_read_its_refusal(api: RunningApi) -> None:
    """A client that sends slightly too much and then reads gets the 413."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=5)

    connection.request("POST", "/api/questions", body=iter([b"x" * 300_000]), headers=JSON, encode_chunked=True)
    response = connection.getresponse()

    assert (response.status, json.loads(response.read())["error"]["code"]) == (413, "body_too_large")
    connection.close()


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 1000\r\n\r\n{",
        b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
    ids=["declared", "in chunks"],
)
def test_a_body_that_does_not_come_is_given_up(api: RunningApi, monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    """408 after a while, and the connection is closed: one that trickles holds nothing for long."""
    monkeypatch.setattr(sibyl.api.body, "READ_S", 0.3)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        head = b"host: localhost\r\ncontent-type: application/json\r\n" + head
        connection.sendall(b"POST /api/questions HTTP/1.1\r\n" + head)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece

    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_timeout"' in answer
    assert time.monotonic() - began < 3


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error(api: RunningApi) -> None:
    """Nothing is answered, nothing is logged; the fixture looks."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        connection.sendall(
            b"POST /api/questions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 1000\r\n\r\n{"
        )


HOSTILE_IDS = [
    *(
        "x",
        "0",
        "0.",
        ".0",
        "0.x",
        "..",
        "%2e%2e%2fetc%2fpasswd",
        "..%5c..",
        "0.%0a",
        "%0d%0aset-cookie:x",
        "%00",
        "%ff",
    ),
    *("{q0}", "0.{q0}", "*", "?", "-1." + "0" * 32, "00." + "0" * 32, "1." + "0" * 32, "٠." + "0" * 32),
    *(
        "0." + "G" * 32,
        "0." + "A" * 32,
        "0." + "0" * 31,
        "0." + "0" * 33,
        "9" * 5_000,
        "0." + "0" * 32 + "%20",
        "%7B%7D",
    ),
]
CALLS: dict[str, Callable[[httpx.Client, str], httpx.Response]] = {
    "show": lambda client, task_id: client.get(f"/api/tasks/{task_id}"),
    "events": lambda client, task_id: client.get(f"/api/tasks/{task_id}/events"),
    "cancel": lambda client, task_id: client.post(f"/api/tasks/{task_id}/cancel"),
    "delete": lambda client, task_id: client.delete(f"/api/tasks/{task_id}"),
    "before": lambda client, task_id: client.get(f"/api/tasks?before={task_id}"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_id_of_no_task_is_not_found(
    client: httpx.Client, call: Callable[[httpx.Client, str], httpx.Response]
) -> None:
    """404, however strange it is; it becomes part of no key, path or header."""
    for task_id in (*HOSTILE_IDS, "0." + "0" * 32):
        status, code = refusal(call(client, task_id))

        if status == 405:  # the id has made it another path, one under which the page may lie
            assert any(part in task_id for part in ("..", "?", "%2e")), task_id
        else:
            assert (status, code) in [(404, "unknown_task"), (404, "not_found")], task_id


@pytest.mark.parametrize(
    "cursor", ["x", "1", "1-", "-1", "1-1-1", "1--1", "1 -1", "1.0-1", "٣-1", "1" * 16 + "-1", "1-" + "1" * 10]
)
@pytest.mark.parametrize("header", [True, False], ids=["Last-Event-ID", "after"])
def test_a_malformed_cursor_is_refused(client: httpx.Client, cursor: str, header: bool) -> None:
    """422, in the header as in the query."""
    task_id = client.get("/api/tasks").json()["tasks"][0]["task_id"]
    headers = {b"Last-Event-ID": cursor.encode()} if header else {}
    parameters = {} if header else {"after": cursor}

    response = client.get(f"/api/tasks/{task_id}/events", headers=headers, params=parameters)

    assert refusal(response) == (422, "invalid_cursor")


def test_a_malformed_cursor_beside_a_good_one_is_refused(client: httpx.Client) -> None:
    """Also when it would not be used: it is a fault of the client's that must not hide."""
    task_id = client.get("/api/tasks").json()["tasks"][0]["task_id"]

    response = client.get(f"/api/tasks/{task_id}/events?after=x", headers={"Last-Event-ID": "0-1"})

    assert refusal(response) == (422, "invalid_cursor")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "limit=1e1", "limit=" + "9" * 5_000, "state=x", "state=", "state=RUNNING"],
)
def test_a_wrong_parameter_of_the_list_is_named(client: httpx.Client, query: str) -> None:
    """422 with the parameter's name."""
    response = client.get(f"/api/tasks?{query}")

    assert refusal(response) == (422, "invalid_request")
    assert response.json()["error"]["details"][0]["loc"] == ["query", query.partition("=")[0]]


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        b"POST /api/questions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /api/questions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /api/questions HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["version", "TLS", "path", "headers", "negative length", "long length", "two lengths"],
)
def test_what_is_no_http_is_refused(api: RunningApi, raw: bytes) -> None:
    """A 4xx or a closed connection, and never a 5xx."""
    answer = b""
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65_536):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass

    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200"))
