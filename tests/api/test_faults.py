"""Faults under load: many readers, readers that lose their connection, a Redis that stops or dies."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from sibyl.store.embedded import EmbeddedRedis
from sibyl.wire.sse import Frame, Parser
from tests.serving import TERMINAL, RunningApi, ask, data_of, run_api, run_worker, show, text_of


async def read_on(
    client: httpx.AsyncClient, task_id: str, leave: random.Random | None = None
) -> tuple[list[Frame], int]:
    """Follow to the end through every cut; return the logged frames and how often the connection was lost.

    With ``leave`` the reader cuts the connection by itself, after a random number of bytes.
    """
    frames: list[Frame] = []
    losses = 0
    while not frames or frames[-1].event not in TERMINAL:
        headers = {"Last-Event-ID": frames[-1].id} if frames and frames[-1].id else {}
        taken = 0
        most = leave.randrange(1, 2000) if leave else None
        with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError, httpx.ConnectError):
            async with client.stream("GET", f"/api/tasks/{task_id}/events", headers=headers) as response:
                if response.status_code == 503:
                    await asyncio.sleep(0.1)
                    continue
                assert response.status_code == 200
                parser = Parser()
                async for piece in response.aiter_raw():
                    if most is not None and taken + len(piece) > most:
                        piece = piece[: most - taken]
                    taken += len(piece)
                    new = parser.feed(piece)
                    assert "reset" not in [frame.event for frame in new]
                    frames += [frame for frame in new if frame.id]
                    if most is not None and taken >= most:
                        break
        losses += not frames or frames[-1].event not in TERMINAL
    return frames, losses


def check(frames: list[Frame], stored: str) -> None:
    """No gap, no repeat, and the stored answer."""
    indices = [data_of(frame)["index"] for frame in frames if frame.event == "llm_streaming"]
    assert indices == list(range(len(indices)))
    assert text_of(frames) == stored


async def test_fifty_readers_of_one_task_while_fifty_run(api: RunningApi, client: httpx.Client, redis_url: str) -> None:
    """Every reader's text is the stored answer, of the one and of the fifty."""
    with run_worker(redis_url, slots=16):
        tasks = [ask(client, f"[pace=100] [tokens=60] {number}")["task_id"] for number in range(51)]
        async with api.async_client() as readers:
            one = [read_on(readers, tasks[0]) for _ in range(50)]
            each = [read_on(readers, task_id) for task_id in tasks[1:]]
            read = await asyncio.gather(*one, *each)

        for (frames, losses), task_id in zip(read, [tasks[0]] * 50 + tasks[1:], strict=True):
            assert losses == 0
            check(frames, show(client, task_id)["text"])


async def test_two_hundred_lost_connections_cost_no_word(api: RunningApi, client: httpx.Client, redis_url: str) -> None:
    """Readers that lose the connection at any byte and come back with their cursor."""
    chance = random.Random(20)
    losses = 0
    with run_worker(redis_url, slots=8):
        async with api.async_client() as readers:
            while losses < 200:
                tasks = [ask(client, f"[pace=150] [tokens=100] {losses} {number}")["task_id"] for number in range(8)]
                read = await asyncio.gather(*(read_on(readers, task_id, chance) for task_id in tasks * 2))
                for (frames, lost), task_id in zip(read, tasks * 2, strict=True):
                    check(frames, show(client, task_id)["text"])
                    losses += lost


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A Redis that a test may stop and kill."""
    redis = EmbeddedRedis(tmp_path)
    await redis.start()
    yield redis
    await redis.stop()


@pytest.mark.parametrize("fault", ["stopped", "killed"])
async def test_a_redis_that_is_away_in_the_middle_costs_no_word(own_redis: EmbeddedRedis, fault: str) -> None:
    """Two seconds of silence, or death and restart: the answer goes on, on the same stream or after a cut."""
    with run_api(own_redis.url) as api, run_worker(own_redis.url, lease_s=5) as worker, api.client() as client:
        assert worker.engine.model == "scripted"
        tasks = [ask(client, f"[pace=50] [tokens=150] {number}")["task_id"] for number in range(2)]
        async with api.async_client() as readers:
            reading = [asyncio.create_task(read_on(readers, task_id)) for task_id in tasks * 3]
            await asyncio.sleep(0.8)  # in the middle of three seconds of answer
            assert own_redis.pid is not None
            if fault == "stopped":
                os.kill(own_redis.pid, signal.SIGSTOP)
                await asyncio.sleep(2)  # the length of the fault itself
                os.kill(own_redis.pid, signal.SIGCONT)
            else:
                os.kill(own_redis.pid, signal.SIGKILL)
                await own_redis.exited()
                await own_redis.start()
            read = await asyncio.gather(*reading)

        for (frames, _), task_id in zip(read, tasks * 3, strict=True):
            task = show(client, task_id)
            assert (task["state"], len(task["text"].split())) == ("completed", 150)
            check(frames, task["text"])
