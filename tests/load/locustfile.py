"""For those who load-test a Sibyl of their own: users who ask over REST and follow the answer over SSE.

    pip install locust                 # in an environment of its own
    locust -f tests/load/locustfile.py --host http://127.0.0.1:8000 --users 16 --spawn-rate 4 --run-time 60s --headless

Beside Locust's own figures of the requests it shows
- `time to first token`, from the POST;
- `inter-token gap`, from each piece of an answer to the next;
- `answer`, from the POST to the last event;
- `resume`, from a connection that was cut on purpose to the next event over another one.

An answer fails when a piece of it is missing or came twice, when its length is not what the last event says, or when it
ends otherwise than completed: the promises hold under load or show in red. `--cut-share` says how many answers are cut.
"""

import json
import random
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from locust import HttpUser, between, events, task
from locust.argument_parser import LocustArgumentParser

_ENDS = ("completed", "failed", "cancelled", "expired")
_QUESTIONS = (
    "Should I change my job this year?",
    "What does the river know about patience?",
    "Will the two of us travel well together?",
    "How do I begin again after a bad winter?",
)


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--question", default="", help="asked by all; by default one of a few, by chance")
    parser.add_argument("--max-tokens", type=int, default=128, help="most tokens of an answer")
    parser.add_argument("--cut-share", type=float, default=0.25, help="answers whose connection is cut once, 0 to 1")


class BrokenPromise(Exception):
    """An answer is not what was promised."""


class Following:
    """One answer as a reader sees it, over as many connections as it takes."""

    def __init__(self) -> None:
        self.cursor: str | None = None  #: of the last event
        self.text = ""
        self.pieces = 0
        self.end: dict[str, Any] | None = None

    def take(self, cursor: str | None, event: dict[str, Any]) -> None:
        """Take the next event.

        Raises:
            BrokenPromise: it cannot be the next one.
        """
        self.cursor = cursor or self.cursor
        match event["type"]:
            case "llm_streaming":
                if event["index"] != self.pieces:
                    raise BrokenPromise(f"piece {event['index']} came where {self.pieces} was due")
                self.pieces += 1
                self.text += event["token"]
            case "reset":  # a Redis that lost its newest writes: only so much of the text counts
                self.pieces, self.text = event["from"], event["text"]
            case kind if kind in _ENDS:
                self.end = event
                if kind != "completed":
                    raise BrokenPromise(f"the answer {kind}: {event.get('code', '')} {event.get('message', '')}")
                if event["text_length"] != len(self.text):
                    raise BrokenPromise(f"{len(self.text)} characters came of {event['text_length']}")


class Asker(HttpUser):
    """Asks, reads the answer to its end, thinks for a moment, asks again."""

    wait_time = between(0.1, 1.0)

    @task
    def ask(self) -> None:
        """One question and its answer."""
        options = self.environment.parsed_options
        body = {
            "question": options.question or random.choice(_QUESTIONS),
            "sampling": {"max_tokens": options.max_tokens},
        }
        began_s = time.perf_counter()
        with self.client.post("/api/questions", json=body, catch_response=True) as response:
            if response.status_code != 202:
                response.failure(f"refused with {response.status_code}")
                time.sleep(float(response.headers.get("Retry-After", 1)))
                return
            url = response.json()["events_url"]
        following = Following()
        cut_after = random.randint(1, 8) if random.random() < options.cut_share else None
        try:
            self._follow(url, following, began_s, cut_after)
        except Exception as error:
            self._report("answer", began_s, error=error)
        else:
            self._report("answer", began_s, size=len(following.text))

    def _follow(self, url: str, following: Following, began_s: float, cut_after: int | None) -> None:
        resumed_s, last_s = None, None
        while following.end is None:
            pieces_here = 0
            for cursor, event in self._events(url, following.cursor):
                if resumed_s is not None:
                    self._report("resume", resumed_s)
                    resumed_s, last_s = None, None  # the pause between two connections is no gap of the model
                following.take(cursor, event)
                if event["type"] == "llm_streaming":
                    if following.pieces == 1:
                        self._report("time to first token", began_s)
                    if last_s is not None:
                        self._report("inter-token gap", last_s)
                    last_s = time.perf_counter()
                    pieces_here += 1
                    if pieces_here == cut_after:
                        break
            if following.end is None:
                if pieces_here != cut_after:
                    raise BrokenPromise("the stream ended without an end")
                cut_after, resumed_s = None, time.perf_counter()

    def _events(self, url: str, cursor: str | None) -> Iterator[tuple[str | None, dict[str, Any]]]:
        """Yield the events of one connection; leaving early cuts it."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": cursor} if cursor else {})
        with closing(self.client.get(url, headers=headers, stream=True, name="/api/tasks/…/events")) as response:
            response.raise_for_status()
            event_id = None
            for line in response.iter_lines(chunk_size=None):  # bytes: as text, more than a line's end would end one
                if line.startswith(b"id: "):
                    event_id = line.removeprefix(b"id: ").decode()
                elif line.startswith(b"data: "):
                    yield event_id, json.loads(line.removeprefix(b"data: "))
                    event_id = None

    def _report(self, name: str, since_s: float, *, size: int = 0, error: Exception | None = None) -> None:
        self.environment.events.request.fire(
            request_type="SSE",
            name=name,
            response_time=1000 * (time.perf_counter() - since_s),
            response_length=size,
            exception=error,
            context={},
        )
