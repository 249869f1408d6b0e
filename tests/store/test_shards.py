"""The queue over several shards: one set of limits, one order of priorities, and no shard that stops another."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sibyl.core.errors import QueueFull, StoreUnavailable, StoreUnsuitable, TooManyTasks
from sibyl.core.state import State
from sibyl.core.task import LOCAL_OWNER, Owner
from sibyl.store.connection import Store
from sibyl.store.keys import shard_of_idempotency_key
from sibyl.store.scripts import Script
from tests.store.conftest import OpenStore
from tests.store.desk import LIMITS, Desk

OTHER = Owner("other")


@pytest.mark.parametrize("shards", [1, 3])
async def test_limits_hold_over_all_shards(redis_url: str, open_store: OpenStore, shards: int) -> None:
    """Exactly, while submits come one after the other; a known key is answered also beyond them."""
    desk = Desk(open_store(redis_url, shards=shards))
    five, few = replace(LIMITS, queue_tasks=5), replace(LIMITS, owner_tasks=3)

    mine = [await desk.submit(limits=few, key=f"key {number}") for number in range(3)]
    with pytest.raises(TooManyTasks):
        await desk.submit(limits=few)
    assert await desk.submit(limits=few, key="key 1") == mine[1]
    await desk.queue.erase(mine[0], LOCAL_OWNER)
    await desk.submit(limits=few)

    for _ in range(2):
        await desk.submit(limits=five, owner=OTHER)
    with pytest.raises(QueueFull):
        await desk.submit(limits=five, owner=OTHER)
    assert await desk.submit(limits=replace(LIMITS, queue_tasks=0), key="key 1") == mine[1]
    await desk.claimed()
    await desk.submit(limits=five, owner=OTHER)


async def test_submits_at_the_same_moment_overshoot_by_their_number_at_most(
    redis_url: str, open_store: OpenStore
) -> None:
    """Not at all on one shard; on three they do not see each other, and still as many as asked at once is the bound."""
    for shards, at_once in ((1, 8), (3, 8)):
        desk = Desk(open_store(redis_url, shards=shards))
        owner = Owner(f"owner of {shards}")

        async def ask(desk: Desk = desk, owner: Owner = owner) -> int:
            accepted = 0
            for _ in range(5):
                with contextlib.suppress(TooManyTasks):
                    await desk.submit(owner=owner, limits=replace(LIMITS, owner_tasks=10))
                    accepted += 1
            return accepted

        accepted = sum(await asyncio.gather(*(ask() for _ in range(at_once))))

        assert 10 <= accepted <= (10 if shards == 1 else 10 + at_once - 1)


async def test_no_shard_is_preferred(redis_url: str, open_store: OpenStore) -> None:
    """With a backlog on each of three, the first claims do not all come from the first."""
    desk = Desk(open_store(redis_url, shards=3))
    for _ in range(90):
        await desk.submit()
    claimed = Counter([(await desk.claimed()).lease.task_id[0] for _ in range(30)])

    assert set(claimed) == {"0", "1", "2"}


async def test_a_higher_priority_runs_sooner_on_whatever_shard(redis_url: str, open_store: OpenStore) -> None:
    """Bands are strict over all shards, and what was abandoned on any of them comes before all that waits."""
    desk = Desk(open_store(redis_url, shards=3))
    lost = [await desk.submit() for _ in range(4)]
    for _ in lost:
        await desk.claimed()
    bands = {
        await desk.submit(priority=priority): priority for priority in (0, 5, 9, 5, 9, 0, 5, 9, 0) for _ in range(4)
    }
    for task_id in lost:
        await desk.lapse(task_id)

    order = []
    while (claim := await desk.claim()) is not None:
        order.append(claim.lease.task_id)

    assert set(order[:4]) == set(lost)
    assert [bands[task_id] for task_id in order[4:]] == sorted(bands.values(), reverse=True)


class Parted(Store):
    """Shard 1 lies on a server that is out of reach."""

    async def run(self, script: Script, keys: Sequence[str], *args: str | int | float) -> Any:
        """Run it, where it can be run."""
        self._require_reach(keys[0])
        return await super().run(script, keys, *args)

    async def command(self, *words: str | int | float) -> Any:
        """Run it, where it can be run."""
        self._require_reach(str(words[1]))
        return await super().command(*words)

    def _require_reach(self, key: str) -> None:
        if "{q1}" in key:
            raise StoreUnavailable()


async def test_a_shard_out_of_reach_stops_no_other(redis_url: str, open_store: OpenStore) -> None:
    """What lies on the others is accepted, claimed, ended at its deadline; with nothing else to do it is an error."""
    whole = Desk(open_store(redis_url, shards=3))
    for _ in range(30):
        await whole.submit()
    parted = Desk(Parted(redis_url, shards=3))
    try:
        keys = [key for key in map(str, range(9)) if shard_of_idempotency_key(LOCAL_OWNER, key, 3) != 1]
        ids = [await parted.submit(key=key, limits=replace(LIMITS, owner_tasks=1000)) for key in keys]
        assert {task_id[0] for task_id in ids} == {"0", "2"}
        for task_id in ids:
            await parted.overdue(task_id)
        with pytest.raises(StoreUnavailable):
            await parted.queue.reap()
        assert {(await parted.views.task(task_id, LOCAL_OWNER)).state for task_id in ids} == {State.EXPIRED}

        with pytest.raises(StoreUnavailable):
            assert {(await parted.claimed()).lease.task_id[0] for _ in range(30)} == {"0", "2"}
        assert await parted.store.command("ZCARD", parted.store.shards[0].waiting) == 0
        assert await parted.store.command("ZCARD", parted.store.shards[2].waiting) == 0
    finally:
        await parted.store.close()


async def test_all_processes_use_the_same_number_of_shards(redis_url: str, open_store: OpenStore) -> None:
    """The first decides; another one would put tasks where nobody looks, so it must not begin."""
    await open_store(redis_url, shards=3).require_same_shards()
    await open_store(redis_url, shards=3).require_same_shards()

    with pytest.raises(StoreUnsuitable, match=r"in 3 shards, and this process is set to 1\. Set SIBYL_SHARDS=3"):
        await open_store(redis_url).require_same_shards()
