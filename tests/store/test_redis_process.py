"""One server process, with real ones. How it serves and ends is in ``test_embedded.py``."""

import os
import signal
from pathlib import Path

import pytest

from sibyl.store.redis_binary import find_redis_binary
from sibyl.store.redis_process import RedisProcess


async def spawned(directory: Path, configuration: str) -> RedisProcess:
    """A server process that inherits some descriptor."""
    return await RedisProcess.spawn(await find_redis_binary(), directory, configuration, inherited=0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_exit_status_is_true_however_often_it_is_signalled(tmp_path: Path, number: signal.Signals) -> None:
    """A process that dies while it is being ended keeps the status of its own death."""
    for _ in range(10):
        process = await spawned(tmp_path, "port 0\nunixsocket s\n")
        os.kill(process.pid, number)
        await process.end(limit_s=5)
        # SIGTERM before Redis has a handler for it ends it like any program.
        assert await process.exited() in ({-signal.SIGKILL} if number is signal.SIGKILL else {0, -signal.SIGTERM})
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
