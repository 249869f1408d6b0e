"""What the tests of the bridge share: nothing may be lost silently, nothing may be left behind."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sibyl.bridge.abort import Abort
from sibyl.bridge.bridge import Bridge


@pytest.fixture(autouse=True)
async def nothing_is_left_behind() -> AsyncIterator[None]:
    """Fail a test that leaves a task, or an error that asyncio could only log: "never retrieved", "destroyed"."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    gc.freeze()  # so that the collection below looks at this test's objects only, which takes no time
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    gc.collect()
    gc.unfreeze()
    loop.set_exception_handler(None)
    assert not complaints
    assert not left


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    """A bridge of four threads."""
    bridge = Bridge(threads=4)
    yield bridge
    bridge.close()


@pytest.fixture
def abort() -> Abort:
    """A stop request that nobody made yet."""
    return Abort()
