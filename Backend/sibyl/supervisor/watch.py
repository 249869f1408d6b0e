"""Notices a child that lives and does nothing: stopped, or its event loop stuck. It is killed, and so started again.

A worker shows that it works by announcing itself, the API by answering ``/healthz``. Only who has done so since its
process began is missed when it is silent: a model may take its time to load. While Redis is away no worker can announce
itself, so that time does not count, nor does one in which this process was stopped itself.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable

import httpx

from sibyl.core.errors import SibylError
from sibyl.core.silence import Silence
from sibyl.store.workers import WorkerRegistry
from sibyl.supervisor.child import Child

logger = logging.getLogger(__name__)

LOOK_S = 1.0
LOOK_CAP_S = 3.0  # of the time between two looks no more counts
WORKER_SILENT_S = 8.0  # after its last announcement; a deaf worker has restarted itself by then, see worker/hearing.py
API_SILENT_S = 8.0
API_ANSWER_S = 2.0

Sign = Callable[[], Awaitable[object | None]]


class Unknown(Exception):
    """Nobody can know now whether there is life."""


async def watch(child: Child, sign: Sign, *, limit_s: float) -> None:
    """Kill the child whenever it has shown no sign of life for ``limit_s``. Ends only by cancellation.

    Args:
        sign: returns what changes as long as there is life, None while there may be none; raises ``Unknown``.
    """
    silence = Silence(limit_s=limit_s, look_cap_s=LOOK_CAP_S)
    incarnation = child.incarnation
    while True:
        await asyncio.sleep(LOOK_S)
        if child.incarnation != incarnation:
            silence.forget()
            incarnation = child.incarnation
        try:
            frozen = silence.look(time.monotonic(), await sign())
        except Unknown:
            silence.pause(time.monotonic())
            continue
        if frozen and child.incarnation == incarnation:
            facts = {"action": "child_frozen", "child": child.name, "silent_s": round(silence.silent_s, 1)}
            logger.error("The %s process is frozen; killing it", child.name, extra=facts)
            child.signal(signal.SIGKILL)
            silence.forget()


def announcements(registry: WorkerRegistry, name: str, child: Child) -> Sign:
    """The sign of a worker: when it last announced itself; None while its present process has not."""

    async def sign() -> object | None:
        try:
            sighting = await registry.sighting(name)
        except SibylError:
            raise Unknown from None
        return None if sighting is None or sighting.pid != child.pid else sighting.seen_ms

    return sign


def answers(client: httpx.AsyncClient, child: Child) -> Sign:
    """The sign of an API: how often it has answered, whatever it said; None while its present process has not."""
    count, incarnation = 0, 0

    async def sign() -> object | None:
        nonlocal count, incarnation
        asked = child.incarnation
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(API_ANSWER_S):
                await client.get("healthz")
            count, incarnation = count + 1, asked
        return count if incarnation == child.incarnation else None

    return sign
