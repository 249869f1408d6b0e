"""Real processes for tests and benchmarks: `sibyl serve` on a free port, `sibyl api` and `sibyl worker` apart, and what
a test does to them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(look: Callable[[], T], *, limit_s: float, what: str) -> T:
    """Look until there is something, every 10 ms, and return it. For what other processes do, which tell us nothing."""
    give_up = time.monotonic() + limit_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what}: not within {limit_s} s")
        time.sleep(0.01)


class Serve:
    """A running `sibyl serve`."""

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        python: str = sys.executable,
        env: dict[str, str] | None = None,
        closed_stdin: bool = False,
    ) -> None:
        """Start it on a free port; ``ready`` waits for it."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        self._log_path = data_dir / "serve.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SIBYL_")}
        command = [python, "-m", "sibyl", "serve", "--port", str(self.port), "--data-dir", str(data_dir), *flags]
        if closed_stdin:
            command = ["sh", "-c", 'exec "$@" 0<&-', "sh", *command]
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=data_dir, env=environment | (env or {})
            )

    @property
    def log(self) -> str:
        """All that its processes logged."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def ready(self, limit_s: float = 60.0) -> "Serve":
        """Wait until a question would be answered."""

        def look() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"serve ended with {self.process.returncode}:\n{self.log}")
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False, verify=False).status_code == 200
            return False

        until(look, limit_s=limit_s, what="ready")
        return self

    def children(self, word: str) -> list[int]:
        """Return the process ids of children with this word in their command line: api, worker, redis-server."""
        return [pid for pid in _children(self.process.pid) if word in _command_line(pid)]

    def child(self, word: str) -> int:
        """Wait for such a child and return its process id."""
        return until(lambda: self.children(word), limit_s=20, what=f"child {word}")[0]

    def ask(self, question: str, **body: Any) -> dict[str, Any]:
        """Submit a question and return the task."""
        response = httpx.post(
            f"{self.url}/api/questions", json={"question": question, **body}, timeout=30, trust_env=False
        )
        response.raise_for_status()
        task: dict[str, Any] = response.json()
        return task

    def task(self, task_id: str) -> dict[str, Any]:
        """Return the task as it stands."""
        response = httpx.get(f"{self.url}/api/tasks/{task_id}", timeout=30, trust_env=False)
        response.raise_for_status()
        task: dict[str, Any] = response.json()
        return task

    def stop(self, limit_s: float = 60.0) -> int:
        """End it as Ctrl-C would and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextlib.contextmanager
def serving(data_dir: Path, *flags: str, **options: Any) -> Iterator[Serve]:
    """Run `sibyl serve` while the block runs; it is ready when the block begins."""
    serve = Serve(data_dir, *flags, **options)
    try:
        yield serve.ready()
    finally:
        serve.stop()


class Node:
    """A running `sibyl api` or `sibyl worker`, which may be ended and started again as the same one."""

    def __init__(self, log: Path, *words: str, env: dict[str, str] | None = None) -> None:
        """Start it with these words after `sibyl`."""
        self._log_path = log
        self._words = words
        ours = {"SIBYL_ENGINE": "scripted", **(env or {})}
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("SIBYL_")} | ours
        self.start()

    def start(self) -> None:
        """Start it, again."""
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sibyl", *self._words],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )

    @property
    def log(self) -> str:
        """All that it logged, in all its lives."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def end(self, number: signal.Signals = signal.SIGTERM, *, limit_s: float = 60.0) -> int:
        """Send a signal and return the exit status once it has ended; kill it after the limit."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def api_node(directory: Path, redis_url: str, **env: str) -> tuple[Node, str]:
    """Start `sibyl api` on a free port and return it with its URL; it may take a second until it answers."""
    port = free_port()
    words = ("api", "--port", str(port), "--redis-url", redis_url)
    return Node(directory / f"api-{port}.log", *words, env=env), f"http://127.0.0.1:{port}"


def worker_node(directory: Path, redis_url: str, *, name: str, **env: str) -> Node:
    """Start `sibyl worker`; it is ready when an API says so (see ``workers_alive``)."""
    words = ("worker", "--name", name, "--redis-url", redis_url)
    return Node(directory / f"{name}.log", *words, env=env)


def workers_alive(url: str) -> set[str]:
    """Return the names of the workers that are alive, as the API says; none while it does not answer."""
    with contextlib.suppress(httpx.HTTPError):
        body = httpx.get(f"{url}/readyz", timeout=5, trust_env=False, verify=False).json()
        return {str(worker["name"]) for worker in body.get("workers", [])}
    return set()


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.append(int(entry.name))
    return found


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
