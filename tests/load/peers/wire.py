"""The two wires that the client speaks: Sibyl's own, and OpenAI's chat completions, which all others have.

Pure: bytes with the moments of their arrival in, what an answer was out. The client keeps what came and has it read
here when all is over, so that reading costs no side anything while it is measured.
"""

import bisect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Wire = Literal["sibyl", "openai"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one client asks. Greedy: all sides compute the most likely tokens."""

    question: str
    max_tokens: int
    system: str | None = None
    after_reads: int = 0  #: asked once the first client has read so often; only of a client's first question
    kind: str = ""  #: what tells its answer from others in the figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one client got, by the monotonic clock."""

    sent_s: float
    token_times_s: list[float]  #: of each piece of text; a piece may hold several tokens
    ended_s: float
    asked_tokens: int
    kind: str
    finish_reason: str | None
    counted: int | None  #: tokens of the answer as the server counts them; None when it does not say
    prompt_tokens: int | None
    text: str

    @property
    def first_s(self) -> float:
        """From the question to the first piece of text."""
        return self.token_times_s[0] - self.sent_s

    @property
    def tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.token_times_s) if self.counted is None else self.counted

    @property
    def problem(self) -> str | None:
        """What is wrong with it."""
        if not self.token_times_s:
            return "no text came"
        if self.finish_reason != "length":
            return f"the answer ended with {self.finish_reason}"
        if self.tokens != self.asked_tokens:
            return f"{self.tokens} tokens came, and {self.asked_tokens} were asked for"
        return None


def request(wire: Wire, question: Question) -> bytes:
    """Return the request that asks."""
    if wire == "sibyl":
        sampling = {"temperature": 0.0, "max_tokens": question.max_tokens}
        body: dict[str, Any] = {"question": question.question, "sampling": sampling}
        if question.system is not None:
            body["system"] = question.system
        return _post("/api/questions", body)
    system = [] if question.system is None else [{"role": "system", "content": question.system}]
    body = {
        "model": "any",
        "messages": [*system, {"role": "user", "content": question.question}],
        "temperature": 0.0,
        "max_tokens": question.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return _post("/v1/chat/completions", body)


def follow(events_url: str) -> bytes:
    """Return the request that follows a task of Sibyl's."""
    return f"GET {events_url} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode()


def _post(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def split_head(data: bytes | bytearray) -> tuple[int, dict[str, str], int] | None:
    """Return status, headers and where the body begins; None while the head is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = bytes(data[:end]).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, end + 4


def whole(data: bytes | bytearray) -> bool:
    """Whether a response has come to its end."""
    head = split_head(data)
    if head is None:
        return False
    _, headers, start = head
    if "content-length" in headers:
        return len(data) - start >= int(headers["content-length"])
    return data.endswith(b"\r\n0\r\n\r\n")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The bytes of one response, and how many of them had come at which moment."""

    data: bytes
    times_s: Sequence[float]
    sizes: Sequence[int]

    def events(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield the JSON of each server-sent event with the moment when its last byte came.

        Raises:
            ValueError: the status is not 200.
        """
        head = split_head(self.data)
        if head is None or head[0] != 200:
            raise ValueError(f"refused: {self.data[:300].decode(errors='replace')!r}")
        _, headers, start = head
        rest = b""
        for at, part in self._parts(start, chunked=headers.get("transfer-encoding") == "chunked"):
            rest = (rest + part).replace(b"\r\n", b"\n")
            while (end := rest.find(b"\n\n")) >= 0:
                frame, rest = rest[:end], rest[end + 2 :]
                for line in frame.split(b"\n"):
                    if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                        yield at, json.loads(data)

    def _parts(self, place: int, *, chunked: bool) -> Iterator[tuple[float, bytes]]:
        if not chunked:
            for at, size in zip(self.times_s, self.sizes, strict=True):
                if size > place:
                    yield at, self.data[place:size]
                    place = size
            return
        while True:
            line = self.data.index(b"\r\n", place)
            size = int(self.data[place:line], 16)
            if not size:
                return
            start, end = line + 2, line + 2 + size
            yield self.times_s[bisect.bisect_left(self.sizes, end)], self.data[start:end]
            place = end + 2


def read(wire: Wire, asked: Question, sent_s: float, arrivals: Arrivals) -> Answer:
    """Return what a response was.

    Raises:
        ValueError: it is no stream of answers, or says that something failed.
    """
    times, texts = [], []
    reason = None
    usage: dict[str, int] = {}
    for at, event in arrivals.events():
        text = ""
        if wire == "sibyl":
            match event["type"]:
                case "llm_streaming":
                    text = event["token"]
                case "completed":
                    reason, usage = event["finish_reason"], event["usage"]
                case "failed" | "cancelled" | "expired" | "reset":
                    raise ValueError(f"the answer {event['type']}: {event.get('message')}")
        else:
            if "error" in event:
                raise ValueError(f"the answer failed: {event['error']}")
            usage = event.get("usage") or usage
            for choice in event.get("choices", ()):
                text = choice.get("delta", {}).get("content") or ""
                reason = choice.get("finish_reason") or reason
        if text:
            times.append(at)
            texts.append(text)
    return Answer(
        sent_s=sent_s,
        token_times_s=times,
        ended_s=arrivals.times_s[-1],
        asked_tokens=asked.max_tokens,
        kind=asked.kind,
        finish_reason=reason,
        counted=usage.get("completion_tokens"),
        prompt_tokens=usage.get("prompt_tokens"),
        text="".join(texts),
    )
