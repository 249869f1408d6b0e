"""One server process: started from its files, signalled, waited for.

It writes the configuration and owns the log. It does not know whether the server answers, or what it stores.
"""

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Self

from sibyl.store.parent_death import ending_with_parent
from sibyl.store.redis_binary import RedisBinary

logger = logging.getLogger(__name__)


class RedisProcess:
    """A server process, alive or dead, and the log of this run."""

    def __init__(self, process: asyncio.subprocess.Process, log_path: Path) -> None:
        self._process = process
        self.log_path = log_path

    @classmethod
    async def spawn(cls, binary: RedisBinary, directory: Path, configuration: str, *, inherited: int) -> Self:
        """Start ``binary`` in ``directory``. It ends with this process, and keeps the descriptor ``inherited`` open.

        OSErrors of the file system pass through; on cancellation nothing is left running.
        """
        configuration_path = directory / "redis.conf"
        configuration_path.unlink(missing_ok=True)
        with os.fdopen(_create(configuration_path), "w") as file:
            file.write(configuration)
        log_path = directory / "redis.log"
        with contextlib.suppress(FileNotFoundError):  # one earlier log is kept, so that logs stay bounded
            log_path.replace(log_path.with_suffix(".log.1"))
        log = _create(log_path)
        try:
            process = await asyncio.create_subprocess_exec(
                *ending_with_parent(str(binary.path), str(configuration_path)),
                cwd=directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[inherited],
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends Redis last
            )
        finally:
            os.close(log)
        return cls(process, log_path)

    @property
    def pid(self) -> int:
        """The process id; a dead process keeps its number."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process.returncode is None

    async def exited(self) -> int:
        """Wait for the end; return the exit status, negative for a signal."""
        return await self._process.wait()

    async def end(self, limit_s: float) -> None:
        """End it with SIGTERM, and with SIGKILL after ``limit_s`` seconds or at once on cancellation."""
        try:
            self._signal(signal.SIGTERM)
            async with asyncio.timeout(limit_s):
                await self.exited()
        except TimeoutError:
            logger.warning("Redis did not end within %g s, killed", limit_s, extra={"action": "redis_killed"})
        finally:
            self._signal(signal.SIGKILL)
        await self.exited()

    async def kill(self) -> None:
        """End it with SIGKILL. What it acknowledged is in its file."""
        self._signal(signal.SIGKILL)
        await self.exited()

    def log(self, after: int = 0) -> str:
        """What this run has said so far, beyond the first ``after`` bytes."""
        with self.log_path.open("rb") as log:
            log.seek(after)
            return log.read().decode(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        # Not with asyncio's send_signal: that reaps a process which has just died before asyncio's own watcher does,
        # and the watcher then reports 255 in place of the exit status (CPython 3.11).
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def _create(path: Path) -> int:
    """Open a new file that only this user may read."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
