"""The one client of all comparisons: a process that asks as many questions at once as it is told, by bare sockets.

It does next to nothing while it waits (one epoll, one read, two appends for what comes), because what the driver of a
benchmark uses is missing from what it measures. Its own CPU time is counted. A plan comes as JSON on stdin, see
``Running.ask``; what came is printed as JSON.
"""

import json
import resource
import select
import socket
import sys
import time
from dataclasses import asdict
from typing import Any

from tests.load.peers.wire import Answer, Arrivals, Question, Wire, follow, read, request, split_head, whole

_RECEIVE_BYTES = 1 << 18
_LIMIT_S = 600.0


class Conversation:
    """One client: asks its questions in turn, each over a connection of its own: not every server keeps them open."""

    def __init__(self, port: int, wire: Wire, questions: list[Question]) -> None:
        """Connect."""
        self._port = port
        self._wire: Wire = wire
        self._questions = questions
        self._sent_s: list[float] = []
        self._received: list[Arrivals] = []
        self._follows = False
        self.connect()
        self._begin()

    @property
    def reads(self) -> int:
        """How often it has read of the answer that is under way."""
        return len(self._times_s)

    @property
    def after_reads(self) -> int:
        """How often the first client is to have read before this one begins."""
        return self._questions[0].after_reads

    def ask(self) -> None:
        """Ask the next question."""
        sending = request(self._wire, self._questions[len(self._sent_s)])
        self._sent_s.append(time.monotonic())
        self._send(sending)

    def take(self) -> bool:
        """Take what has come; whether the answer is whole now."""
        data = self.socket.recv(_RECEIVE_BYTES)
        self._times_s.append(time.monotonic())
        self._data += data
        self._sizes.append(len(self._data))
        if data and not whole(self._data):
            return False
        if self._wire == "sibyl" and not self._follows:
            self._follow()
            return False
        self._received.append(Arrivals(bytes(self._data), self._times_s, self._sizes))
        self._follows = False
        self._begin()
        return True

    @property
    def over(self) -> bool:
        """Whether all questions are answered."""
        return len(self._received) == len(self._questions)

    def connect(self) -> None:
        """Connect for the next question."""
        self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def answers(self) -> list[Answer]:
        """Return what came."""
        return [
            read(self._wire, question, sent_s, arrivals)
            for question, sent_s, arrivals in zip(self._questions, self._sent_s, self._received, strict=True)
        ]

    def _begin(self) -> None:
        self._data = bytearray()
        self._times_s: list[float] = []
        self._sizes: list[int] = []

    def _follow(self) -> None:
        head = split_head(self._data)
        if head is None or head[0] != 202:
            raise RuntimeError(f"refused: {bytes(self._data[:300])!r}")
        url = json.loads(self._data[head[2] :])["events_url"]
        self._begin()
        self._follows = True
        self._send(follow(url))

    def _send(self, data: bytes) -> None:
        self.socket.setblocking(True)
        self.socket.sendall(data)
        self.socket.setblocking(False)


def converse(conversations: list[Conversation]) -> None:
    """Have all questions asked and answered."""
    by_handle = {each.socket.fileno(): each for each in conversations}
    first, give_up = conversations[0], time.monotonic() + _LIMIT_S
    later = [each for each in conversations if each.after_reads]
    with select.epoll() as epoll:
        for handle in by_handle:
            epoll.register(handle, select.EPOLLIN)
        for each in conversations:
            if not each.after_reads:
                each.ask()
        while by_handle:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{len(by_handle)} answers do not end")
            for handle, _ in epoll.poll(5.0):
                each = by_handle[handle]
                if each.take():
                    epoll.unregister(handle)
                    del by_handle[handle]
                    each.socket.close()
                    if not each.over:
                        each.connect()
                        by_handle[each.socket.fileno()] = each
                        epoll.register(each.socket.fileno(), select.EPOLLIN)
                        each.ask()
                while later and first.reads >= later[0].after_reads:
                    later.pop(0).ask()


def main() -> None:
    """Do what the plan says."""
    plan: dict[str, Any] = json.load(sys.stdin)
    conversations = [
        Conversation(plan["port"], plan["wire"], [Question(**question) for question in questions])
        for questions in plan["clients"]
    ]
    before = resource.getrusage(resource.RUSAGE_SELF)
    converse(conversations)
    after = resource.getrusage(resource.RUSAGE_SELF)
    answers = [asdict(answer) for each in conversations for answer in each.answers()]
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    json.dump({"answers": answers, "cpu_s": cpu_s}, sys.stdout)


if __name__ == "__main__":
    main()
