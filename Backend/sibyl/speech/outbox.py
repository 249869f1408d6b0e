"""Messages on their way to a client: numbered in order, partials replaced by newer ones, kept for a resume.

A message gets its ``seq`` when it is taken for writing, so a partial that was replaced before leaves no hole. A reader
that takes nothing for a while costs one partial and the finals, however long it takes.
"""

from collections import deque
from typing import Any

Message = dict[str, Any]

KEPT = 4096  # most messages that are kept for a replay
_REPLACED_BY = {"partial": "utt", "ack": "type", "warning": "code", "error": "code"}  # a newer one with the same
_UNNUMBERED = frozenset({"ready", "ack", "warning", "error"})  # about now; a replay would be wrong


class Outbox:
    """One session's messages, over all its connections."""

    def __init__(self) -> None:
        self.seq = 0  #: number of the last message that was taken
        self._waiting: deque[Message] = deque()
        self._kept: deque[Message] = deque()
        self._lost_seq = 0  # numbers up to here are not kept any more

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Message) -> None:
        """Add a message. A partial, ack, warning or error takes the place of one of its kind that still waits."""
        if message["type"] in _REPLACED_BY:
            _drop(self._waiting, message)
        self._waiting.append(message)

    def take(self) -> Message | None:
        """Return the next message to write, or None."""
        if not self._waiting:
            return None
        message = self._waiting.popleft()
        if message["type"] == "ready":
            return message | {"seq": self.seq}
        if message["type"] in _UNNUMBERED or "seq" in message:
            return message
        self.seq += 1
        message = {"type": message["type"], "seq": self.seq} | message
        if message["type"] in ("partial", "final"):
            _drop(self._kept, {"type": "partial", "utt": message["utt"]})
        self._kept.append(message)
        if len(self._kept) > KEPT:
            self._lost_seq = self._kept.popleft()["seq"]
        return message

    def rewind(self, last_seq: int) -> bool:
        """Have all numbered messages after ``last_seq`` written again, first. Return whether they are all there."""
        if not self._lost_seq <= last_seq <= self.seq:
            return False
        again = [message for message in self._kept if message["seq"] > last_seq]
        waiting = (message for message in self._waiting if message["type"] not in _UNNUMBERED and "seq" not in message)
        self._waiting = deque([*again, *waiting])
        return True


def _drop(messages: deque[Message], new: Message) -> None:
    """Drop the message that a new one replaces; it is near the end, if it is there."""
    kind, name = new["type"], _REPLACED_BY[new["type"]]
    for back, message in enumerate(reversed(messages), start=1):
        if message["type"] == kind and message[name] == new[name]:
            del messages[-back]
            return
        if name == "utt" and message.get("utt", new["utt"]) < new["utt"]:  # they rise
            return
