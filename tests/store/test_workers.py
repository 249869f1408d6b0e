"""Who is there to answer."""

import os
from dataclasses import replace

import pytest

from sibyl.core.task import WorkerInfo
from sibyl.store.connection import Store
from sibyl.store.workers import WorkerRegistry

WORKER = WorkerInfo(
    name="a\nb 'ü",
    model="m 1",
    slots=2,
    context_tokens=None,
    max_piece_bytes=16,
    seen_at=0,
    counters={"prompt_tokens": 7},
)


@pytest.fixture
def registry(store: Store) -> WorkerRegistry:
    """Nobody is there yet."""
    return WorkerRegistry(store)


async def age(store: Store, name: str, seconds: int) -> None:
    """Let the worker have announced itself so long ago."""
    key = store.shards[0].workers
    seen_ms, announcement = (await store.command("HGET", key, name)).split(" ", 1)
    await store.command("HSET", key, name, f"{int(seen_ms) - 1000 * seconds} {announcement}")


async def test_whoever_announces_itself_is_alive(registry: WorkerRegistry, store: Store) -> None:
    """With all that it said, and the time by Redis' clock."""
    other = replace(WORKER, name="c", context_tokens=4096, max_piece_bytes=None)
    await registry.announce(WORKER)
    await registry.announce(other)
    seconds, _ = await store.command("TIME")

    alive = {worker.name: worker for worker in await registry.alive()}

    assert {name: replace(worker, seen_at=0) for name, worker in alive.items()} == {WORKER.name: WORKER, "c": other}
    assert all(abs(worker.seen_at - int(seconds)) <= 2 for worker in alive.values())


async def test_what_a_newer_worker_says_beside_is_passed_over(registry: WorkerRegistry, store: Store) -> None:
    """During a rolling restart an older API must still see who is there."""
    await registry.announce(WORKER)
    key = store.shards[0].workers
    said = await store.command("HGET", key, WORKER.name)
    await store.command("HSET", key, WORKER.name, said.replace('"model"', '"colour": "red", "model"'))

    assert [worker.model for worker in await registry.alive()] == [WORKER.model]


async def test_nobody_is_alive_at_first(registry: WorkerRegistry) -> None:
    """And looking announces nobody."""
    assert await registry.alive() == []
    assert await registry.alive() == []


async def test_who_has_been_silent_is_not_alive(registry: WorkerRegistry, store: Store) -> None:
    """Five seconds of silence; announcing again is being alive again."""
    await registry.announce(WORKER)
    await age(store, WORKER.name, 4)
    assert len(await registry.alive()) == 1
    await age(store, WORKER.name, 2)
    assert await registry.alive() == []

    await registry.announce(WORKER)

    assert len(await registry.alive()) == 1


async def test_announcing_again_is_one_worker(registry: WorkerRegistry) -> None:
    """The newest word counts."""
    await registry.announce(WORKER)
    await registry.announce(replace(WORKER, model="another"))

    assert [worker.model for worker in await registry.alive()] == ["another"]


async def test_who_retires_is_gone_at_once(registry: WorkerRegistry) -> None:
    """Twice is once."""
    await registry.announce(WORKER)
    await registry.retire(WORKER.name)
    await registry.retire(WORKER.name)

    assert await registry.alive() == []


async def test_the_silent_can_be_told_from_the_retired(registry: WorkerRegistry, store: Store) -> None:
    """A silent one keeps the time of its last word, and whose it was; one that retired, or never spoke, has none."""
    assert await registry.sighting(WORKER.name) is None
    await registry.announce(WORKER)
    await age(store, WORKER.name, 60)
    silent = await registry.sighting(WORKER.name)
    assert await registry.alive() == []
    assert await registry.sighting(WORKER.name) == silent

    await registry.announce(WORKER)
    now = await registry.sighting(WORKER.name)
    await registry.retire(WORKER.name)

    assert silent is not None and now is not None and 59_000 < now.seen_ms - silent.seen_ms < 70_000
    assert silent.pid == now.pid == os.getpid()
    assert await registry.sighting(WORKER.name) is None


async def test_who_has_been_silent_for_minutes_is_forgotten(registry: WorkerRegistry, store: Store) -> None:
    """Workers that come and go under new names fill nothing up."""
    await registry.announce(WORKER)
    await age(store, WORKER.name, 400)

    await registry.alive()

    assert await store.command("HLEN", store.shards[0].workers) == 0
