"""A cluster: every shard on the node that has its slot, also while the slot moves and after a node has failed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sibyl.core.errors import StoreUnavailable, StoreUnsuitable
from sibyl.core.state import State
from sibyl.core.task import LOCAL_OWNER, TaskId
from sibyl.store.connection import Store
from sibyl.store.keys import Shard
from sibyl.store.tail import Tail
from tests.processes import until
from tests.redis_nodes import Cluster, cluster
from tests.serving import working
from tests.store.conftest import OpenStore
from tests.store.desk import LIMITS, Desk
from tests.store.following import Reader, running
from tests.topology import SHARDS
from tests.worker.desk import spec, uninterrupted

pytestmark = pytest.mark.timeout(90)

QUESTION = "[pace=100] [tokens=300]"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries."""
    with cluster(tmp_path_factory.mktemp("cluster")) as group:
        yield group


@pytest.fixture
async def desk(nodes: Cluster) -> AsyncIterator[Desk]:
    """A client of the cluster."""
    nodes.flush()
    store = Store(nodes.url, shards=SHARDS, patience_s=15)
    yield Desk(store)
    await store.close()


def slot_of(nodes: Cluster, task_id: TaskId) -> int:
    """The slot of the task's shard."""
    return nodes.slot(Shard(int(task_id.partition(".")[0])).bell)


async def ask(desk: Desk) -> TaskId:
    """Ask for a long answer."""
    return await desk.queue.submit(spec(QUESTION), owner=LOCAL_OWNER, limits=LIMITS)


@pytest.mark.parametrize("pause_s", [0.0, 0.2])
async def test_an_answer_moves_with_its_slot(nodes: Cluster, desk: Desk, pause_s: float) -> None:
    """While an attempt appends and readers follow, its slot goes to another node, at once or lying on both for a
    second: whatever is refused in between comes later, and nothing is noticed.
    """
    async with working(nodes.url, lease_s=8), running(Tail(desk.store)) as tail:
        task_id = await ask(desk)
        readers = [Reader(tail, task_id) for _ in range(3)]
        for reader in readers:
            await reader.until(lambda reader: len(reader.text) > 100)
        slot = slot_of(nodes, task_id)
        before = nodes.owner(slot)

        after = await asyncio.to_thread(nodes.move_slot, slot, pause_s=pause_s, batch=2)
        late = Reader(tail, task_id)
        for reader in (*readers, late):
            await reader.end(limit_s=30)

    whole = await uninterrupted(QUESTION)
    assert after is not before
    assert nodes.owner(slot) is after
    for reader in (*readers, late):
        assert reader.text == whole
        assert reader.resets == []
    assert await desk.text(task_id) == whole


async def test_a_task_is_seen_while_its_slot_lies_on_two_nodes(nodes: Cluster, desk: Desk) -> None:
    """Its keys have moved, those of the queue have not: what asks for one key gets it; what needs several waits."""
    task_id, lease = await desk.begin("one ")
    shard = desk.shard(task_id)
    slot = slot_of(nodes, task_id)
    source = nodes.owner(slot)
    target = next(node for node in nodes.primaries() if node is not source)
    hasty = desk.store.patient(0.1)
    nodes.begin_move(slot, target)
    nodes.move_keys(slot, target, shard.task(task_id), shard.log(task_id))

    assert len(await desk.log.read(task_id)) == 3
    await desk.views.require_owner(task_id, LOCAL_OWNER)
    with pytest.raises(StoreUnavailable, match="moving to another node"):
        await Desk(hasty).say(lease, "two", first=2)

    nodes.end_move(slot, target)
    await desk.say(lease, "two", first=2)
    assert await desk.text(task_id) == "one two"


async def test_a_reader_that_waits_is_woken_by_the_move(nodes: Cluster, desk: Desk) -> None:
    """It waits at the node that had the slot, and hears at once that it must go elsewhere."""
    task_id, lease = await desk.begin("one ")
    async with running(Tail(desk.store)) as tail:
        reader = await Reader(tail, task_id).until(lambda reader: reader.text == "one ")
        await asyncio.to_thread(nodes.move_slot, slot_of(nodes, task_id))
        await desk.say(lease, "two", first=2)
        await reader.until(lambda reader: reader.text == "one two", limit_s=3)
        await desk.complete(lease, 2)
        await reader.end()

    assert reader.resets == []


async def test_shards_lie_on_all_nodes(nodes: Cluster, open_store: OpenStore) -> None:
    """Twelve shards, three nodes: none is without work, and no script meets keys of two slots."""
    nodes.flush()
    desk = Desk(open_store(nodes.url, shards=12))
    tasks = [await desk.submit() for _ in range(60)]
    for _ in tasks:
        claim = await desk.claimed()
        await desk.say(claim.lease, claim.lease.task_id)
        await desk.complete(claim.lease, 1)

    listed, _ = await desk.views.tasks(LOCAL_OWNER, limit=100)
    assert {task.task_id for task in listed} == set(tasks)
    assert all((task.state, task.text) == (State.COMPLETED, task.task_id) for task in listed)
    assert all(int(node.ask("DBSIZE")) > 0 for node in nodes.primaries())


async def test_a_store_looks_at_every_node(nodes: Cluster, open_store: OpenStore) -> None:
    """One that evicts would lose the answers of its shards."""
    store = open_store(nodes.url)
    assert (await store.check()).split()[0] in ("Redis", "Valkey")

    for node in nodes.nodes:
        node.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(StoreUnsuitable, match="noeviction"):
                await store.check()
        finally:
            node.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_one_node_of_a_cluster_is_not_taken_for_a_server(nodes: Cluster, open_store: OpenStore) -> None:
    """With a redis:// URL two of three shards would be refused for ever, so the URL is."""
    stores = [open_store(node.url) for node in nodes.nodes]

    outcomes = await asyncio.gather(*(store.command("GET", "key") for store in stores), return_exceptions=True)

    refused = [outcome for outcome in outcomes if isinstance(outcome, StoreUnsuitable)]
    assert len(refused) == 2
    assert "redis+cluster://" in refused[0].message


async def test_a_node_that_is_gone_is_passed_over(nodes: Cluster, open_store: OpenStore) -> None:
    """The first of the URL answers nobody."""
    store = open_store(nodes.url.replace("cluster://", "cluster://127.0.0.1:1,"))

    assert await store.command("SET", "key", "value")


async def test_without_any_node_the_store_is_out_of_reach(open_store: OpenStore) -> None:
    """And not unsuitable: they may come."""
    with pytest.raises(StoreUnavailable):
        await open_store("redis+cluster://127.0.0.1:1,127.0.0.1:2", patience_s=0.2).check()


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_a_replica_takes_over_in_a_cluster(tmp_path: Path, how: str) -> None:
    """The node of the answer's shard dies or stands still: the same as with sentinels."""
    with cluster(tmp_path, 3, 3) as group:
        store = Store(group.url, shards=SHARDS, patience_s=15)
        desk = Desk(store)
        try:
            async with working(group.url, lease_s=8), running(Tail(store)) as tail:
                task_id = await ask(desk)
                reader = await Reader(tail, task_id).until(lambda reader: len(reader.text) > 100)
                slot = slot_of(group, task_id)
                old = group.owner(slot)
                old.kill() if how == "kill" else old.pause()
                others = [node for node in group.nodes if node is not old]

                def taken_over() -> bool:
                    return group.owner(slot, seen_by=others[0]) is not old

                await asyncio.to_thread(until, taken_over, limit_s=20, what="a replica takes over")
                before = reader.text
                await reader.until(lambda reader: len(reader.text) > len(before) + 50, limit_s=8)
                await reader.end(limit_s=30)
        finally:
            await store.close()

    assert reader.text == await uninterrupted(QUESTION)
    assert len(reader.resets) <= 1
