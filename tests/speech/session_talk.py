"""A session machine with a clock that a test moves, and the least that a recogniser says to it."""

import json
from typing import Any

from sibyl.speech.effects import Effect
from sibyl.speech.hearing import (
    Final,
    Heard,
    Listening,
    Word,
)
from sibyl.speech.outbox import Message
from sibyl.speech.session import FRAME_BYTES, Session, SessionLimits

SECOND = b"\x01\x00" * 16_000
LIMITS = SessionLimits(idle_s=30, session_s=1000, backlog_s=30, grace_s=15, drain_s=20)


class Talk:
    """A session with a clock that a test moves."""

    def __init__(self, **config: Any) -> None:
        self.now = 100.0
        self.session = Session("id", "token", LIMITS, now=self.now, utc_s=1_800_000_000.0)
        self.effects: list[Effect] = []
        self.said: list[Message] = []
        self.config = config

    def text(self, **message: Any) -> "Talk":
        return self.raw(json.dumps(message))

    def raw(self, text: str) -> "Talk":
        return self._after(self.session.text(text, self.now))

    def audio(self, data: bytes) -> "Talk":
        for start in range(0, len(data), FRAME_BYTES):
            self._after(self.session.binary(data[start : start + FRAME_BYTES], self.now))
        return self

    def heard(self, *heard: Heard) -> "Talk":
        for item in heard:
            self._after(self.session.heard(item, self.now))
        return self

    def wait(self, seconds: float) -> "Talk":
        self.now += seconds
        return self._after(self.session.tick(self.now))

    def returned(self) -> "Talk":
        return self._after(self.session.returned(self.now))

    def failed(self, error: Exception) -> "Talk":
        return self._after(self.session.failed(error, self.now))

    def _after(self, effects: list[Effect]) -> "Talk":
        self.effects += effects
        return self

    def take(self) -> list[Message]:
        """Return what was said since the last time."""
        taken = []
        while (message := self.session.outbox.take()) is not None:
            taken.append(message)
        self.said += taken
        return taken

    def types(self) -> list[str]:
        return [message["type"] for message in self.take()]


def listening(**config: Any) -> Talk:
    """Return a session that listens, its ``ready`` taken."""
    talk = Talk().text(**config)
    talk.heard(Listening(model="m"))
    talk.take()
    return talk


def final(text: str, start_s: float = 0.0, end_s: float = 1.0) -> Final:
    return Final(text=text, start_s=start_s, end_s=end_s, words=(Word(text=text, start_s=start_s, end_s=end_s),))
