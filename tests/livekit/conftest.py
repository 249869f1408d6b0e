"""Nothing may be left behind by any test of the plugin: no task, no thread."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.serving import RunningApi, run_api
from tests.topology import Servers

_NOT_OURS = ("asyncio_", "bridge_")  # pools of the loop and of the server, which keep their threads


@pytest.fixture(autouse=True)
async def _nothing_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    yield
    assert not [record for record in caplog.get_records("call") if record.name == "asyncio"]  # such as lost errors
    assert not asyncio.all_tasks() - tasks - {asyncio.current_task()}
    left = {thread.name for thread in set(threading.enumerate()) - threads}
    assert not [name for name in left if not name.startswith(_NOT_OURS)]


@pytest.fixture(scope="module")
def api(redis_servers: Servers) -> Iterator[RunningApi]:
    """An API with the scripted recogniser and short patience."""
    with run_api(redis_servers.url, speech_provider="scripted", speech_idle_s=1.0, speech_grace_s=2.0) as api:
        yield api


@pytest.fixture(scope="module")
def other_api(redis_servers: Servers) -> Iterator[RunningApi]:
    """Another node, which does not know the first one's sessions."""
    with run_api(redis_servers.url, speech_provider="scripted") as api:
        yield api
