"""A remote server's answer, its refusals, its silences and its cuts, over real sockets on this machine."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sibyl.bridge.abort import Abort
from sibyl.core.errors import EngineError, InvalidRequest, ModelUnusable, PromptTooLong, TaskCancelled, UpstreamError
from sibyl.core.event import Output
from sibyl.core.task import SamplingParams, Usage
from sibyl.engines import upstream
from sibyl.engines.upstream import UpstreamEngine
from tests.engines.asking import answer, asking, said, text_of

Play = Callable[["Stage"], None]


class Stage(BaseHTTPRequestHandler):
    """One request, handed to the play that the test wrote."""

    server: "Theatre"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._perform()

    def do_POST(self) -> None:
        self._perform()

    def _perform(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self.body: dict[str, Any] = json.loads(self.rfile.read(length) or "{}")
        self.server.requests.append(self)
        self.server.arrived.set()
        self.close_connection = True
        self.server.play(self)

    def begin(self) -> None:
        """Begin a stream without a length, which ends with the connection."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()

    def write(self, text: str) -> None:
        """Send bytes at once."""
        self.wfile.write(text.encode())
        self.wfile.flush()

    def chunk(self, content: str | None = None, finish_reason: str | None = None, **more: object) -> None:
        """Send a chunk of an answer."""
        delta = {} if content is None else {"content": content}
        choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
        self.write(f"data: {json.dumps({'choices': choices, **more}, ensure_ascii=False)}\n\n")

    def refuse(self, status: int, body: object, **headers: str) -> None:
        """Answer with an error."""
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Theatre(ThreadingHTTPServer):
    """A server whose answers are a function that the test sets."""

    daemon_threads = True
    play: Play
    requests: list[Stage]
    arrived: threading.Event

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what some plays are about."""


@pytest.fixture
def theatre() -> Iterator[Theatre]:
    """A running server."""
    server = Theatre(("127.0.0.1", 0), Stage)
    server.requests = []
    server.arrived = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def engine(theatre: Theatre) -> Iterator[UpstreamEngine]:
    """An engine that uses it."""
    engine = UpstreamEngine(theatre.url, api_key="secret-key", model="big")
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let retries follow quickly."""
    monkeypatch.setattr(upstream, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(upstream, "MOST_WAIT_S", 0.05)


def good(stage: Stage) -> None:
    """A whole answer, as vLLM sends it."""
    stage.begin()
    stage.write(": keep-alive\n\n")
    stage.chunk("")
    for word in ("Yes", ", at\u2028once", " 🎉"):
        stage.chunk(word)
    stage.chunk(None, "stop")
    stage.write('data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}}\n\n')
    stage.write("data: [DONE]\n\n")


def test_an_answer_comes_piece_by_piece(theatre: Theatre, engine: UpstreamEngine) -> None:
    """Without token ids, with the server's own usage, and whatever characters are in it."""
    theatre.play = good

    outputs, result = answer(engine, asking("Shall I?"))

    assert outputs == [Output(text="Yes"), Output(text=", at\u2028once"), Output(text=" 🎉")]
    assert result.finish_reason == "stop"
    assert result.usage == Usage(prompt_tokens=9, completion_tokens=5)


def test_logprobs_come_with_the_text_of_their_tokens(theatre: Theatre, engine: UpstreamEngine) -> None:
    """Those of a token that is a part of a character wait for the rest of it."""

    def play(stage: Stage) -> None:
        stage.begin()
        for text, *tokens in (("a", "a"), ("", "\ufffd"), ("é", "\ufffd"), ("b", "b")):
            content = [{"token": token, "logprob": -1.0, "top_logprobs": []} for token in tokens]
            choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": content}}
            stage.write(f"data: {json.dumps({'choices': [choice]})}\n\n")
        stage.chunk(None, "stop")

    theatre.play = play

    outputs, _ = answer(engine, asking("Why?", sampling=SamplingParams(logprobs=0)))

    assert theatre.requests[0].body["logprobs"] is True
    assert [(output.text, len(output.logprobs)) for output in outputs] == [("a", 1), ("é", 2), ("b", 1)]


def test_a_server_that_passes_over_the_grammar_is_found_out(theatre: Theatre, engine: UpstreamEngine) -> None:
    """Nothing that breaks it is emitted, and no attempt is made again; one that keeps to it is believed."""
    theatre.play = good
    for grammar in ('root ::= "Yes" " please"', 'root ::= "Yes, at" . "once 🎉!"'):
        outputs: list[Output] = []
        with pytest.raises(EngineError, match="does not keep to the grammar") as caught:
            engine.generate(asking("?", sampling=SamplingParams(grammar=grammar)), outputs.append)
        assert not isinstance(caught.value, UpstreamError)
        assert text_of(outputs) in ("Yes", "Yes, at\u2028once 🎉")

    assert text_of(answer(engine, asking("?", sampling=SamplingParams(grammar="root ::= [^x]+")))[0])


def test_a_bound_answer_that_was_begun_is_not_sent_on(theatre: Theatre, engine: UpstreamEngine) -> None:
    """The server would begin the grammar anew, behind what readers have seen."""
    theatre.play = good
    bound = SamplingParams(json_schema="{}")

    with pytest.raises(EngineError, match="in the middle"):
        answer(engine, asking("?", sampling=bound, stored=[Output(text="{")]))

    assert not theatre.requests
    assert text_of(answer(engine, asking("?", sampling=bound))[0])


def test_the_request_says_what_was_asked_and_no_more(theatre: Theatre, engine: UpstreamEngine) -> None:
    """What the client left open is left to the server, but for a bound on the length."""
    theatre.play = good
    answer(engine, asking((said("Be brief.", "system"), said("Why?")), sampling=SamplingParams(seed=4)))
    every = SamplingParams(max_tokens=9, temperature=0.0, top_p=0.5, top_k=3, min_p=0.1, seed=4, stop=("x",))
    answer(engine, asking("Why?", sampling=every))

    first, second = (stage.body for stage in theatre.requests)
    assert theatre.requests[0].path == "/v1/chat/completions"
    assert theatre.requests[0].headers["authorization"] == "Bearer secret-key"
    assert first == {
        "model": "big",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 512,
        "seed": 4,
    }
    assert {
        name: second[name] for name in ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop")
    } == {
        "max_tokens": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "seed": 4,
        "stop": ["x"],
    }


def test_a_resumed_answer_is_sent_back_to_be_continued(theatre: Theatre, engine: UpstreamEngine) -> None:
    """The server goes on from the stored text; its tokens count as written, not as read."""

    def go_on(stage: Stage) -> None:
        words = ["one ", "two ", "three ", "four"]
        last = stage.body["messages"][-1]
        if stage.body.get("continue_final_message"):
            assert last["role"] == "assistant"
            rest = last["content"]
            while words and rest.startswith(words[0]):
                rest = rest.removeprefix(words.pop(0))
        stage.begin()
        for word in words:
            stage.chunk(word)
        stage.chunk(None, "stop", usage={"prompt_tokens": 12, "completion_tokens": len(words)})
        stage.write("data: [DONE]\n\n")

    theatre.play = go_on
    whole, _ = answer(engine, asking("Count."))

    rest, result = answer(engine, asking("Count.", stored=whole[:2]))

    assert [*whole[:2], *rest] == whole
    assert result.usage == Usage(prompt_tokens=10, completion_tokens=4)
    sent = theatre.requests[-1].body
    assert sent["messages"][-1] == {"role": "assistant", "content": "one two "}
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
    assert sent["max_tokens"] == 30


def test_pieces_are_counted_where_the_server_gives_no_usage(theatre: Theatre, engine: UpstreamEngine) -> None:
    """An estimate is better than nothing; the prompt's length stays unknown."""

    def play(stage: Stage) -> None:
        stage.begin()
        stage.chunk("a")
        stage.chunk("b", "length")

    theatre.play = play

    outputs, result = answer(engine, asking("?"))

    assert text_of(outputs) == "ab"
    assert result.finish_reason == "length"
    assert result.usage == Usage(prompt_tokens=0, completion_tokens=2)


def test_the_model_and_its_context_are_asked_for(theatre: Theatre) -> None:
    """When none is named, the first that the server has."""
    theatre.play = lambda stage: stage.refuse(200, {"data": [{"id": "small", "max_model_len": 2048}, {"id": "x"}]})

    engine = UpstreamEngine(theatre.url + "/v1/")

    assert (engine.model, engine.context_tokens, engine.max_piece_bytes) == ("small", 2048, None)
    assert engine.count_prompt_tokens((said("?"),)) is None
    assert theatre.requests[0].path == "/v1/models"
    assert "authorization" not in theatre.requests[0].headers
    engine.close()


@pytest.mark.parametrize(
    "body", ["no json", {"data": []}, {"data": [{"name": "x"}]}, {"data": [{"id": 7}]}, {"data": [None]}, []]
)
def test_a_server_that_names_no_model_is_unusable(theatre: Theatre, body: object) -> None:
    """Whatever it says instead."""
    theatre.play = lambda stage: stage.refuse(200, body)

    with pytest.raises(ModelUnusable, match="names no model"):
        UpstreamEngine(theatre.url)


def test_a_server_that_refuses_or_is_not_there_is_unusable(theatre: Theatre) -> None:
    """When it is asked for its models."""
    theatre.play = lambda stage: stage.refuse(401, "no")
    with pytest.raises(ModelUnusable, match="401"):
        UpstreamEngine(theatre.url)
    with pytest.raises(ModelUnusable, match="out of reach"):
        UpstreamEngine(f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://user:pw@host/v1", "http://[::1"]
)
def test_an_address_that_is_none_is_unusable(url: str) -> None:
    """A password in it too: it would end up in logs."""
    with pytest.raises(ModelUnusable, match="address") as caught:
        UpstreamEngine(url, model="m")
    assert "pw" not in caught.value.message


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "maximum context length is 4096", "code": None}}, PromptTooLong),
        (400, {"error": {"code": "context_length_exceeded", "message": "too long"}}, PromptTooLong),
        (400, {"error": {"type": "exceed_context_size_error", "message": "x"}}, PromptTooLong),
        (400, {"error": {"message": "unknown field min_p"}}, EngineError),
        (401, {"error": "who are you, secret-key?"}, EngineError),
        (404, "no such page", EngineError),
        (500, {"detail": "out of memory"}, UpstreamError),
        (307, "", UpstreamError),
    ],
)
def test_a_refusal_is_the_error_that_it_means(
    theatre: Theatre, engine: UpstreamEngine, status: int, body: object, expected: type[Exception]
) -> None:
    """Only what another attempt may mend is an UpstreamError; none is tried again here, and none tells the key."""
    theatre.play = lambda stage: stage.refuse(status, body)

    with pytest.raises((EngineError, InvalidRequest)) as caught:
        answer(engine, asking("?"))

    assert type(caught.value) is expected
    assert "secret-key" not in str(caught.value)
    assert len(theatre.requests) == 1


def test_a_long_refusal_is_cut(theatre: Theatre, engine: UpstreamEngine) -> None:
    """A page of HTML does not become an error message."""
    theatre.play = lambda stage: stage.refuse(400, "<p>\n" * 100_000)

    with pytest.raises(EngineError) as caught:
        answer(engine, asking("?"))

    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_tried_again(theatre: Theatre, engine: UpstreamEngine, status: int) -> None:
    """A few times, waiting as long as it asks, within bounds."""

    def play(stage: Stage) -> None:
        if len(theatre.requests) < 3:
            stage.refuse(status, "busy", Retry_After="1000000")
        else:
            good(stage)

    theatre.play = play

    outputs, _ = answer(engine, asking("?"))

    assert outputs[0].text == "Yes"
    assert len(theatre.requests) == 3


def test_a_server_that_stays_busy_is_an_upstream_error(theatre: Theatre, engine: UpstreamEngine) -> None:
    """After a bounded number of tries."""
    theatre.play = lambda stage: stage.refuse(503, "busy")

    with pytest.raises(UpstreamError, match="503"):
        answer(engine, asking("?"))
    assert len(theatre.requests) == upstream.TRIES


def test_a_server_that_comes_up_late_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens at first; a later try finds it."""
    monkeypatch.setattr(upstream, "FIRST_WAIT_S", 0.2)
    monkeypatch.setattr(upstream, "MOST_WAIT_S", 2.0)
    port = free_port()
    engine = UpstreamEngine(f"http://127.0.0.1:{port}", model="m")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(answer, engine, asking("?"))
        server = Theatre(("127.0.0.1", port), Stage)
        server.requests, server.arrived, server.play = [], threading.Event(), good
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        outputs, _ = future.result(20)
    server.shutdown()
    thread.join()
    server.server_close()
    engine.close()

    assert outputs[0].text == "Yes"


def test_a_server_that_is_not_there_is_an_upstream_error() -> None:
    """After a bounded number of tries."""
    engine = UpstreamEngine(f"http://127.0.0.1:{free_port()}", model="m")

    with pytest.raises(UpstreamError, match="out of reach"):
        answer(engine, asking("?"))
    engine.close()


def cut_off(stage: Stage) -> None:
    """Two pieces, and the connection is closed."""
    stage.begin()
    stage.chunk("a")
    stage.chunk("b")


def endless_line(stage: Stage) -> None:
    """A line that never ends."""
    stage.begin()
    for _ in range(40):
        stage.write("x" * 65_536)


@pytest.mark.parametrize(
    ("play", "emitted"),
    [
        (cut_off, "ab"),
        (endless_line, ""),
        (lambda stage: None, ""),
        (lambda stage: (stage.begin(), stage.chunk("a"), stage.write("data: {no json\n\n")), "a"),
        (lambda stage: (stage.begin(), stage.write("data: 7\n\n")), ""),
        (lambda stage: (stage.begin(), stage.chunk("a"), stage.write('data: {"error": {"message": "oom"}}\n\n')), "a"),
        (lambda stage: (stage.begin(), stage.chunk("a", "abort")), "a"),
        (lambda stage: stage.refuse(200, {"choices": [{"message": {"content": "whole"}}]}), ""),
    ],
)
def test_a_stream_that_ends_without_an_end_is_an_upstream_error(
    theatre: Theatre, engine: UpstreamEngine, play: Play, emitted: str
) -> None:
    """A cut is never mistaken for an end; what came before it was emitted."""
    theatre.play = play
    outputs: list[Output] = []

    with pytest.raises(UpstreamError):
        engine.generate(asking("?"), outputs.append)

    assert text_of(outputs) == emitted
    assert len(theatre.requests) == 1


@pytest.mark.parametrize("ending", ["data: [DONE]\n\n", ""])
def test_either_sign_of_an_end_is_enough(theatre: Theatre, engine: UpstreamEngine, ending: str) -> None:
    """Some servers send no [DONE], some no reason."""

    def play(stage: Stage) -> None:
        stage.begin()
        stage.chunk("a", None if ending else "stop")
        stage.write(ending)

    theatre.play = play

    assert answer(engine, asking("?"))[1].finish_reason == "stop"


def test_a_filtered_answer_is_an_error_that_no_attempt_mends(theatre: Theatre, engine: UpstreamEngine) -> None:
    """It is not shown as if it were whole."""

    def play(stage: Stage) -> None:
        stage.begin()
        stage.chunk("a", "content_filter")

    theatre.play = play

    with pytest.raises(EngineError, match="filter") as caught:
        answer(engine, asking("?"))
    assert not isinstance(caught.value, UpstreamError)


def test_odd_chunks_are_passed_over(theatre: Theatre, engine: UpstreamEngine) -> None:
    """Reasoning, null contents, missing fields, and half a surrogate pair, which could not be stored."""

    def play(stage: Stage) -> None:
        stage.begin()
        for chunk in (
            {"choices": None},
            {"choices": [None]},
            {"choices": [{"delta": None}]},
            {"choices": [{"delta": {"content": None, "reasoning_content": "hm"}}]},
            {"choices": [{"delta": {"content": 7}}]},
            {"usage": {"prompt_tokens": "x"}},
            {"choices": [{"delta": {"content": "a\ud83db"}}]},
        ):
            stage.write(f"data: {json.dumps(chunk)}\n\n")
        stage.write("data: [DONE]\n\n")

    theatre.play = play

    outputs, _ = answer(engine, asking("?"))

    assert text_of(outputs) == "a\ufffdb"


def silent(stage: Stage) -> None:
    """Not a byte, until the client goes."""
    stage.connection.settimeout(20)
    stage.rfile.read(1)
    stage.server.gone.set()  # type: ignore[attr-defined]


def silent_after_the_first(stage: Stage) -> None:
    """One piece, and then not a byte."""
    stage.begin()
    stage.chunk("a")
    silent(stage)


@pytest.mark.parametrize("play", [silent, silent_after_the_first])
def test_a_stop_closes_the_connection_at_once(theatre: Theatre, engine: UpstreamEngine, play: Play) -> None:
    """Before the first byte and after it; the server sees it, which is what stops its model."""
    theatre.play = play
    theatre.gone = threading.Event()  # type: ignore[attr-defined]
    abort = Abort()
    emitted = threading.Event()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(engine.generate, asking("?", abort=abort), lambda output: emitted.set())
        assert theatre.arrived.wait(10)
        if play is silent_after_the_first:
            assert emitted.wait(10)
        asked = time.monotonic()
        abort.request(TaskCancelled())
        with pytest.raises(TaskCancelled):
            future.result(10)
        took_s = time.monotonic() - asked

    assert took_s < 0.3
    assert theatre.gone.wait(5)  # type: ignore[attr-defined]


def test_a_stop_ends_the_wait_between_tries(
    theatre: Theatre, engine: UpstreamEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it would be."""
    monkeypatch.setattr(upstream, "MOST_WAIT_S", 1000.0)
    theatre.play = lambda stage: stage.refuse(503, "busy", Retry_After="1000")
    abort = Abort()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(engine.generate, asking("?", abort=abort), lambda output: None)
        assert theatre.arrived.wait(10)
        abort.request(TaskCancelled())
        with pytest.raises(TaskCancelled):
            future.result(5)


def test_an_exception_of_the_taker_passes_and_closes_the_connection(theatre: Theatre, engine: UpstreamEngine) -> None:
    """The server's model stops, and the engine answers again."""
    theatre.play = silent_after_the_first
    theatre.gone = threading.Event()  # type: ignore[attr-defined]

    def refuse(output: Output) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        engine.generate(asking("?"), refuse)
    assert theatre.gone.wait(5)  # type: ignore[attr-defined]
    theatre.play = good
    assert answer(engine, asking("?"))[0]


def test_a_silent_server_is_given_up_after_the_read_timeout(theatre: Theatre) -> None:
    """It is an error of the upstream, not a wait for ever."""
    theatre.play = silent
    theatre.gone = threading.Event()  # type: ignore[attr-defined]
    engine = UpstreamEngine(theatre.url, model="m", read_timeout_s=0.2)

    with pytest.raises(UpstreamError, match="broke off"):
        answer(engine, asking("?"))
    engine.close()


def test_several_generations_do_not_stop_each_other(theatre: Theatre, engine: UpstreamEngine) -> None:
    """One is stopped while two others run on the same engine."""
    release = threading.Event()
    running = threading.Barrier(4)

    def play(stage: Stage) -> None:
        stage.begin()
        stage.chunk("a")
        running.wait(10)
        assert release.wait(10)
        stage.chunk("b", "stop")

    theatre.play = play
    abort = Abort()
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(answer, engine, asking("?")) for _ in range(2)]
        stopped = pool.submit(answer, engine, asking("?", abort=abort))
        running.wait(10)
        abort.request(TaskCancelled())
        with pytest.raises(TaskCancelled):
            stopped.result(10)
        release.set()
        assert [text_of(other.result(10)[0]) for other in others] == ["ab", "ab"]
