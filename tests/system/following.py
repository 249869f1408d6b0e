"""A follower that keeps all it saw: frames by id, resumed with the last one after each cut."""

import json
import threading
import time
from typing import Any

import httpx


class Follower:
    """Follows one task in a thread and reconnects until it ends, as any SSE client would."""

    def __init__(self, url: str, task_id: str, *, limit_s: float = 60.0) -> None:
        self._url = f"{url}/api/tasks/{task_id}/events"
        self._limit_s = limit_s
        self.events: list[dict[str, Any]] = []  #: all events with an id, in the order of arrival
        self.ids: list[str] = []
        self.hints: list[dict[str, Any]] = []  #: and resets, which no follower here expects
        self.connects = 0
        self.changed = threading.Condition()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """The answer as it was seen."""
        return "".join(event["token"] for event in self.events if event["type"] == "llm_streaming")

    @property
    def ended(self) -> bool:
        """Whether a terminal event came."""
        return bool(self.events) and self.events[-1]["type"] in ("completed", "failed", "cancelled", "expired")

    def wait_for(self, event_type: str, count: int = 1) -> None:
        """Wait until so many events of a type were seen."""
        with self.changed:
            seen = self.changed.wait_for(
                lambda: self.error or sum(event["type"] == event_type for event in self.events) >= count, self._limit_s
            )
        assert seen and self.error is None, f"no {count} {event_type}: {[event['type'] for event in self.events][-3:]}"

    def wait_for_end(self) -> dict[str, Any]:
        """Wait until the task ends and return its terminal event."""
        self._thread.join(self._limit_s)
        assert self.error is None and self.ended, (self.error, [event["type"] for event in self.events][-3:])
        return self.events[-1]

    def _run(self) -> None:
        give_up = time.monotonic() + self._limit_s
        try:
            with httpx.Client(timeout=10, trust_env=False) as client:
                while not self.ended and time.monotonic() < give_up:
                    try:
                        self._connect(client)
                    except httpx.TransportError:
                        time.sleep(0.05)  # not a wait for an event: the pause of a client before it reconnects
        except BaseException as error:
            self.error = error
        with self.changed:
            self.changed.notify_all()

    def _connect(self, client: httpx.Client) -> None:
        headers = {"Last-Event-ID": self.ids[-1]} if self.ids else {}
        self.connects += 1
        with client.stream("GET", self._url, headers=headers) as response:
            if response.status_code in (429, 503):
                time.sleep(0.05)
                return
            response.raise_for_status()
            event_id = None
            for line in response.iter_lines():
                if line.startswith("id: "):
                    event_id = line.removeprefix("id: ")
                elif line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    with self.changed:
                        if event_id is None or event["type"] == "reset":
                            self.hints.append(event)
                        else:
                            self.ids.append(event_id)
                            self.events.append(event)
                        self.changed.notify_all()
                elif not line:
                    event_id = None
