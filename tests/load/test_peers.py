"""The client of the comparisons reads both wires as they arrive, and finds what is wrong with an answer."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest

from tests.load.peers.peer import Running
from tests.load.peers.wire import Answer, Arrivals, Question, Wire, read
from tests.load.plots import curves
from tests.processes import serving

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
QUESTION = Question(question="how?", max_tokens=3)


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def said(wire: Wire, text: str) -> bytes:
    """An event with a piece of text."""
    if wire == "sibyl":
        return b"data: %s\r\n\r\n" % json.dumps({"type": "llm_streaming", "token": text}).encode()
    return b"data: %s\n\n" % json.dumps({"choices": [{"delta": {"content": text}}]}).encode()


def ended(wire: Wire) -> bytes:
    """The event that ends it, with three tokens."""
    usage = {"prompt_tokens": 9, "completion_tokens": 3}
    last: dict[str, object]
    if wire == "sibyl":
        last = {"type": "completed", "usage": usage, "finish_reason": "length"}
        return b"data: %s\r\n\r\n" % json.dumps(last).encode()
    last = {"choices": [{"delta": {}, "finish_reason": "length"}], "usage": usage}
    return b"data: %s\n\ndata: [DONE]\n\n" % json.dumps(last).encode()


def arrivals(parts: Sequence[bytes]) -> Arrivals:
    """These reads, a second apart, the first at second 1."""
    times = [float(number) for number in range(1, len(parts) + 1)]
    return Arrivals(b"".join(parts), times, list(accumulate(map(len, parts))))


@pytest.mark.parametrize("wire", ["sibyl", "openai"])
def test_each_piece_has_the_moment_of_its_last_byte(wire: Wire) -> None:
    """Heads, chunks and events may be cut anywhere; what counts is when a piece was whole."""
    first, second = chunk(said(wire, "a")), chunk(said(wire, "b") + said(wire, "c"))
    end = chunk(ended(wire)) + b"0\r\n\r\n"
    parts = [HEAD[:20], HEAD[20:] + first[:9], first[9:] + second[:30], second[30:], end[:7], end[7:]]
    answer = read(wire, QUESTION, 0.5, arrivals(parts))
    assert (answer.text, answer.token_times_s, answer.ended_s) == ("abc", [3.0, 4.0, 4.0], 6.0)
    assert (answer.first_s, answer.tokens, answer.prompt_tokens, answer.problem) == (2.5, 3, 9, None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"counted": 2}, "2 tokens came, and 3 were asked for"),
        ({"counted": None, "token_times_s": [1.0]}, "1 tokens came, and 3 were asked for"),
        ({"finish_reason": "stop"}, "the answer ended with stop"),
        ({"token_times_s": []}, "no text came"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_found(change: dict[str, object], problem: str) -> None:
    """No side gets figures for tokens that it did not give."""
    whole = Answer(
        sent_s=0.0,
        token_times_s=[1.0, 2.0, 3.0],
        ended_s=4.0,
        asked_tokens=3,
        kind="",
        finish_reason="length",
        counted=3,
        prompt_tokens=9,
        text="abc",
    )
    assert whole.problem is None
    assert replace(whole, **change).problem == problem  # type: ignore[arg-type]


def test_a_refusal_is_no_answer() -> None:
    """A status other than 200 is said with what the server said."""
    refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 6\r\n\r\nloaded"
    with pytest.raises(ValueError, match=r"refused: .*loaded"):
        read("openai", QUESTION, 0.0, arrivals([refusal]))


def test_the_client_asks_a_real_sibyl(tmp_path: Path) -> None:
    """Two clients with two questions each, and a third that begins when the first is being answered."""
    with serving(tmp_path / "data", "--engine", "scripted", "--slots", "3") as serve:
        side = Running("sibyl", serve.port, "sibyl", serve.process.pid)
        question = Question(question="[tokens=500] [pace=200] how?", max_tokens=24, kind="first")
        later = replace(question, kind="later", after_reads=4)
        asked = side.ask([[question, question], [question, question], [later]])
    assert [answer.tokens for answer in asked.answers] == [24] * 5
    assert asked.tokens == 120 and asked.tokens_per_s > 0 and asked.client_cpu_s < asked.took_s
    assert asked.answers[4].sent_s > asked.answers[0].token_times_s[0]
    assert asked.answers[1].sent_s >= asked.answers[0].ended_s


def test_curves_are_read_from_the_figures_of_servers() -> None:
    """Each side's pairs of concurrency and figure, in order; what is no concurrency is left out."""
    measured = {
        "what": "…",
        "16 clients": {"a": {"tokens_per_s": 3.0}},
        "1 client": {"a": {"tokens_per_s": 1.0}, "b": {"tokens_per_s": 2.0}},
    }
    assert curves(measured, "tokens_per_s") == {"a": [(1, 1.0), (16, 3.0)], "b": [(1, 2.0)]}
