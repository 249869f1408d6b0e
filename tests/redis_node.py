"""One Redis server for tests and campaigns: started, killed, stopped, and started again with the same data and port.

It runs the program that ``SIBYL_TEST_REDIS_SERVER`` names, else the one that Sibyl itself would choose; listens on
loopback; appends every write to a file (fsync every second), so that a killed node comes back with its data; and dies
with this process. The kernel watches the *thread* that started it (see ``store/parent_death.py``): start it from one
that lives as long as it shall, such as the main one.
"""

import asyncio
import contextlib
import functools
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from sibyl.store.parent_death import ending_with_parent
from sibyl.store.redis_binary import find_redis_binary
from tests.processes import until

_START_LIMIT_S = 20.0
_BUS = 10_000  # a cluster node also listens on its port + 10,000


@functools.cache
def server_program() -> Path:
    """The server program under test."""
    named = os.environ.get("SIBYL_TEST_REDIS_SERVER")
    with ThreadPoolExecutor(1) as thread:  # the caller's loop may be running
        return thread.submit(asyncio.run, find_redis_binary(only=Path(named) if named else None)).result().path


class RedisNode:
    """One server process: started, stopped, killed, paused, and started again with the same data and port."""

    def __init__(self, directory: Path, *flags: str, binary: Path | None = None) -> None:
        """Prepare a node; ``start`` starts it.

        Args:
            directory: its own; made when it is not there.
            flags: lines of its configuration file, such as ``"min-replicas-to-write 1"``.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._binary = binary or server_program()
        self._sentinel = any(flag.startswith("sentinel ") for flag in flags)
        self._process: subprocess.Popen[bytes] | None = None
        self._password = next((flag.split()[1] for flag in flags if flag.startswith("requirepass ")), None)
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {directory}", f"logfile {directory}/redis.log"]
        if not self._sentinel:
            # As soon as it can, a replica that comes back is one again: tests wait for it.
            lines += ["appendonly yes", 'save ""', "repl-diskless-sync yes", "repl-diskless-sync-delay 0"]
        self._configuration = directory / "redis.conf"  # the server rewrites it when its role changes
        self._configuration.write_text("\n".join([*lines, *flags, ""]))

    def __repr__(self) -> str:
        return f"<redis {self.directory.name} :{self.port}>"

    @property
    def running(self) -> bool:
        """Whether its process is there; a paused one is."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None, f"{self} was never started"
        return self._process.pid

    def start(self) -> "RedisNode":
        """Start it and wait until it has loaded its data."""
        assert not self.running
        mode = ["--sentinel"] if self._sentinel else []
        command = ending_with_parent(str(self._binary), str(self._configuration), *mode)
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )

        def answers() -> bool:
            if not self.running:
                raise RuntimeError(f"{self} ended while starting: {self.log()[-2000:]}")
            with contextlib.suppress(RedisError, OSError), self.admin() as admin:
                return bool(admin.ping())
            return False

        until(answers, limit_s=_START_LIMIT_S, what=f"{self} answers")
        return self

    def log(self) -> str:
        """What it has said so far."""
        path = self.directory / "redis.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """End it in order; does nothing when it is not there."""
        if self.running:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert self._process is not None
                self._process.wait(5)
        self.kill()

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def pause(self) -> None:
        """Stop its process with SIGSTOP: it takes connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused one go on."""
        self._signal(signal.SIGCONT)

    @contextlib.contextmanager
    def admin(self) -> Iterator[Redis]:
        """A connection to it, which decodes and repeats nothing."""
        with Redis(
            host="127.0.0.1",
            port=self.port,
            password=self._password,
            decode_responses=True,
            socket_timeout=5,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            yield client

    def ask(self, *words: str | int) -> Any:
        """Run one command and return the reply as the server gave it."""
        with self.admin() as admin:
            admin.response_callbacks.clear()
            return admin.execute_command(*words)  # type: ignore[no-untyped-call]

    def facts(self) -> dict[str, Any]:
        """What INFO says."""
        with self.admin() as admin:
            return dict(admin.info())

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self} was never started"
        if self._process.poll() is None:
            self._process.send_signal(number)


_reserved: list[socket.socket] = []  # until this process ends


def _free_port() -> int:
    """A port below those that outgoing connections get, and free together with that of the cluster bus.

    No other test process takes it as well, though its server may have yet to start: a name stands for it.
    """
    draw = random.SystemRandom()  # hypothesis seeds the other one, alike in every process
    for _ in range(1000):
        port = draw.randrange(12_000, 22_000)
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + _BUS))
            if sys.platform == "linux":
                name = socket.socket(socket.AF_UNIX)
                _reserved.append(name)
                name.bind(f"\0sibyl-test-port-{port}")
            return port
    raise RuntimeError("No free port.")
