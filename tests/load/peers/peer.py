"""What every side of a comparison is: a server that is started with the same seat and asked by the same client."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import httpx

from tests.load.peers.wire import Answer, Question, Wire
from tests.load.usage import cpu_of
from tests.processes import until

_ROOT = Path(__file__).parents[3]
_START_S = 120.0
_CLIENT_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What every side gets alike."""

    model: Path
    slots: int  #: answers at a time
    threads: int
    context_tokens: int  #: of one slot


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of one round of questions."""

    answers: list[Answer]
    client_cpu_s: float
    server_cpu_s: float

    @property
    def took_s(self) -> float:
        """From the first question to the last event."""
        return max(answer.ended_s for answer in self.answers) - min(answer.sent_s for answer in self.answers)

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return sum(answer.tokens for answer in self.answers)

    @property
    def tokens_per_s(self) -> float:
        """All answers together."""
        return self.tokens / self.took_s


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    name: str
    port: int
    wire: Wire
    pid: int

    def ask(self, clients: Sequence[Sequence[Question]]) -> Asked:
        """Have so many clients, in a process of their own, each ask its questions in turn; all begin at once.

        Raises:
            RuntimeError: an answer is not whole, or has not as many tokens as were asked for.
        """
        plan = {
            "port": self.port,
            "wire": self.wire,
            "clients": [[asdict(question) for question in questions] for questions in clients],
        }
        before = self.cpu_s()
        done = subprocess.run(
            [sys.executable, "-m", "tests.load.peers.client"],
            input=json.dumps(plan),
            capture_output=True,
            text=True,
            cwd=_ROOT,
            timeout=_CLIENT_S,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {(done.stderr.strip() or 'no word').splitlines()[-1]}")
        found = json.loads(done.stdout)
        answers = [Answer(**answer) for answer in found["answers"]]
        for answer in answers:
            if problem := answer.problem:
                raise RuntimeError(f"{self.name}: {problem}")
        return Asked(answers, found["cpu_s"], self.cpu_s() - before)

    def cpu_s(self) -> float:
        """CPU time so far, of the server with all its children."""
        return sum(cpu_of(pid).total_s for pid in _family(self.pid))


class Peer(Protocol):
    """A program that answers questions about a GGUF model over HTTP."""

    name: str

    def start(self, seat: Seat, folder: Path) -> AbstractContextManager[Running]:
        """Run it while the block runs; it is ready when the block begins. Its log lies in the folder.

        Raises:
            Unavailable: it cannot be had on this machine.
        """

    def about(self) -> dict[str, str]:
        """Return versions, and what was set otherwise than it is by default."""


@contextlib.contextmanager
def server(
    name: str, command: Sequence[str], folder: Path, *, port: int, health: str, env: dict[str, str] | None = None
) -> Iterator[Running]:
    """Run a server with OpenAI's wire while the block runs; it is ready when its health path says 200."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder, env=env, start_new_session=True
        )

    def healthy() -> bool:
        if process.poll() is not None:
            said = path.read_text(errors="replace").strip().splitlines()[-5:]
            raise RuntimeError(f"{name} ended with {process.returncode}: {' | '.join(said)}")
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{port}{health}", timeout=5, trust_env=False).status_code == 200
        return False

    try:
        until(healthy, limit_s=_START_S, what=name)
        yield Running(name, port, "openai", process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def settle(seconds: float = 0.3) -> None:
    """Let the side that was just measured come to rest: threads that computed spin for a moment when they wait."""
    time.sleep(seconds)


def cores() -> int:
    """Return how many cores to compute with: one is left to what takes questions and gives answers, on all sides.

    As Sibyl does by default. With a thread on every core, threads that compute in step wait for whoever shares a core
    with the rest, and the times say more of that than of the sides.
    """
    return max(1, len(os.sched_getaffinity(0)) - 1)


def _family(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found
