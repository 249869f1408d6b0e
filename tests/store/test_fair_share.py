"""Fair share between owners, on the real scripts: start-time fair queueing. One slot, so that nothing is by chance."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from sibyl.core.task import LOCAL_OWNER, Owner, TaskId
from sibyl.store.queue import Limits
from tests.store.desk import Desk

MANY, OTHER = Owner("many"), Owner("other")
WIDE = Limits(queue_tasks=10_000, owner_tasks=10_000, deadline_s=600, retention_s=60)


async def flood(desk: Desk, owner: Owner, count: int) -> list[TaskId]:
    """Submit so many tasks, one after the other."""
    return [await desk.submit(owner=owner, limits=WIDE) for _ in range(count)]


async def serve(desk: Desk) -> TaskId:
    """Run the next task to its end: one service time."""
    claim = await desk.claimed()
    assert await desk.complete(claim.lease, 0) is None
    return claim.lease.task_id


async def line(desk: Desk) -> list[TaskId]:
    """Who waits, next first."""
    return list(await desk.store.command("ZRANGE", desk.store.shards[0].waiting, 0, -1))


def jain(shares: Sequence[int]) -> float:
    """Jain's index: 1 when all shares are equal, 1/n when one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


@pytest.mark.timeout(60)
async def test_a_thousand_tasks_of_one_owner_delay_another_by_two_service_times_at_most(desk: Desk) -> None:
    """Whenever the single task comes: before the first, in the midst, near the end. Its position is exact meanwhile."""
    of_many = await flood(desk, MANY, 1000)
    served: list[TaskId] = []
    for begun in (0, 1, 2, 500, 997):
        while len(served) < begun:
            task_id = await serve(desk)
            served += [task_id] if task_id in of_many else []
        running = await desk.claimed()  # the slot is taken when the single task comes
        single = await desk.submit(owner=Owner(f"owner {begun}"), limits=WIDE)
        position = (await desk.views.task(single, Owner(f"owner {begun}"))).position

        assert await desk.complete(running.lease, 0) is None
        served += [running.lease.task_id]
        ahead = 0
        while (task_id := await serve(desk)) != single:
            served.append(task_id)
            ahead += 1

        assert ahead == position
        assert 1 + ahead <= 2, "one that ran already, and at most one more"
    assert served == of_many[: len(served)]


async def test_two_owners_with_long_queues_get_equal_shares(desk: Desk) -> None:
    """Although one had all of them in line before the other came: Jain's index from there on, at every moment."""
    of_many = set(await flood(desk, MANY, 250))
    for _ in range(20):
        await serve(desk)
    await flood(desk, OTHER, 200)
    expected = await line(desk)
    shares = {MANY: 0, OTHER: 0}

    for number in range(400):
        assert await line(desk) == expected[number:], "nobody's position ever changed but by being served"
        shares[MANY if await serve(desk) in of_many else OTHER] += 1
        assert abs(shares[MANY] - shares[OTHER]) <= 2  # one of a round, and one since the other's round came first
        assert number < 40 or jain(list(shares.values())) >= 0.997
    assert jain(list(shares.values())) == pytest.approx(1)


async def test_an_owner_who_asks_again_after_each_answer_gets_no_more_than_a_share(desk: Desk) -> None:
    """Not even at the same virtual time again and again: who waits in line is served every other time."""
    of_many = set(await flood(desk, MANY, 50))
    await flood(desk, OTHER, 1)
    shares = {MANY: 0, OTHER: 0}

    for _ in range(60):
        if await serve(desk) in of_many:
            shares[MANY] += 1
        else:
            shares[OTHER] += 1
            await flood(desk, OTHER, 1)

    assert shares == {MANY: 30, OTHER: 30}


async def test_equal_owners_get_equal_shares(desk: Desk) -> None:
    """Whoever came first with how many: at every moment each was served as often as the others, give or take one."""
    owners = [Owner(name) for name in "abcd"]
    of = {task_id: owner for owner in owners for task_id in await flood(desk, owner, 8)}
    served: Counter[Owner] = Counter()

    for _ in of:
        served[of[await serve(desk)]] += 1
        assert max(served.values()) - min(served[owner] for owner in owners) <= 1

    assert set(served.values()) == {8}


async def test_what_was_cancelled_is_not_charged(desk: Desk) -> None:
    """Who took back a hundred tasks is served as soon as anybody."""
    await flood(desk, MANY, 10)
    cancelled = await flood(desk, OTHER, 100)
    await asyncio.gather(*(desk.queue.request_cancel(task_id, OTHER) for task_id in cancelled))

    single = (await flood(desk, OTHER, 1))[0]

    assert (await line(desk)).index(single) <= 2


async def test_an_owner_is_remembered_only_while_ahead_of_the_others(desk: Desk) -> None:
    """However many come and go beside somebody whose queue is never empty; and nothing is left when all have gone."""
    shard = desk.store.shards[0]
    await flood(desk, LOCAL_OWNER, 60)
    for number in range(50):
        await flood(desk, Owner(f"owner {number}"), 1)
        for _ in range(2):
            await serve(desk)
        assert await desk.store.command("ZCARD", shard.ahead) <= 3

    while await line(desk):
        await serve(desk)

    assert await desk.store.command("EXISTS", shard.open, shard.ahead, shard.clock) == 0
