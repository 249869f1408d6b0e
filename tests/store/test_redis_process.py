"""One server process, with real ones. How it serves and ends is in ``test_embedded.py``."""

import asyncio
import os
import signal
import time
from pathlib import Path

from sibyl.store.redis_binary import find_redis_binary
from sibyl.store.redis_process import RedisProcess


async def spawned(directory: Path, configuration: str) -> RedisProcess:
    """A server process that inherits some descriptor."""
    return await RedisProcess.spawn(await find_redis_binary(), directory, configuration, inherited=0)


async def test_the_exit_status_is_true_whenever_a_signal_comes(tmp_path: Path) -> None:
    """A program that dies while it is being ended keeps the status of its own death."""
    for delay_us in range(0, 1000, 5):
        program = await asyncio.create_subprocess_exec("sleep", "60")
        process = RedisProcess(program, tmp_path / "log")
        os.kill(process.pid, signal.SIGKILL)
        until = time.perf_counter() + delay_us / 1e6
        while time.perf_counter() < until:  # without the event loop: the moment is the fault
            pass
        await process.end(limit_s=5)
        assert await process.exited() == -signal.SIGKILL
        assert not process.running


async def test_a_refused_configuration_is_in_the_log_of_this_run(tmp_path: Path) -> None:
    """What the server says before it can open its own log is kept, and only of this run."""
    first = await spawned(tmp_path, "first-directive 1\n")
    assert await first.exited() == 1
    assert "first-directive" in first.log()

    second = await spawned(tmp_path, "second-directive 1\n")
    assert await second.exited() == 1
    assert "second-directive" in second.log()
    assert "first-directive" not in second.log()
