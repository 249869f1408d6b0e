"""Group commit: everything pending in one round trip, each told its own, one's failure nobody else's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sibyl.core.errors import LeaseLost, StoreUnsuitable, TextUnwritable, WriteFailed
from sibyl.core.event import Output
from sibyl.core.fold import Fold
from sibyl.core.task import LOCAL_OWNER, Lease
from sibyl.store import commit, connection
from sibyl.store.channel import Channel
from sibyl.store.commit import Commits, LogWriter
from sibyl.store.connection import Store
from sibyl.store.log import Appended, Gap, Outcome
from sibyl.store.scripts import Script
from tests.faults import proxy
from tests.store.desk import Desk, outputs
from tests.topology import one_shard


@pytest.fixture
async def commits(desk: Desk) -> AsyncIterator[Commits]:
    """The commits of one worker."""
    commits = Commits(desk.store, lease_s=60)
    yield commits
    await commits.close()


async def said(writer: LogWriter, *texts: str, first: int = 1) -> Outcome:
    """Append texts and return what became of it."""
    return await appended(writer, outputs(*texts), first)


async def appended(writer: LogWriter, some: list[Output], first: int, progress: str = "") -> Outcome:
    """Append outputs and return what became of it."""
    told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    writer.append(first, some, progress=progress, told=told.set_result)
    return await told


async def begun(desk: Desk, commits: Commits, count: int) -> list[tuple[Lease, LogWriter]]:
    """Claim so many tasks."""
    leases = [(await desk.begin())[1] for _ in range(count)]
    return [(lease, commits.writer(lease)) for lease in leases]


async def connected(desk: Desk, commits: Commits) -> None:
    """Have a commit or two, after which the fast way is open."""
    ((lease, writer),) = await begun(desk, commits, 1)
    first = 1
    while commits._shards[desk.shard(lease.task_id).number]._channel is None:
        await said(writer, "x", first=first)
        first += 1


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of appends of each commit."""
    sizes: list[int] = []
    begin = commit._ShardCommits._begin

    def noted(self: commit._ShardCommits) -> None:
        begin(self)
        sizes.append(len(self._batch))

    monkeypatch.setattr(commit._ShardCommits, "_begin", noted)
    return sizes


@one_shard
@pytest.mark.parametrize("fast", [False, True])
async def test_what_is_pending_goes_in_one_round_trip(
    desk: Desk, commits: Commits, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """Sixteen answers, one commit, by the ordinary way as by the fast one; and each log has its own."""
    if fast:
        await connected(desk, commits)
    held = await begun(desk, commits, 16)
    sizes = counted(monkeypatch)

    outcomes = await asyncio.gather(*(said(writer, f"{number} ") for number, (_, writer) in enumerate(held)))

    assert sizes == [16]
    assert outcomes == [Appended(1, cancel=False)] * 16
    assert [await desk.text(lease.task_id) for lease, _ in held] == [f"{number} " for number in range(16)]


@one_shard
async def test_while_one_is_under_way_the_next_gathers(
    desk: Desk, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes during a commit goes together with the next one."""
    await connected(desk, commits)
    held = await begun(desk, commits, 4)
    sizes = counted(monkeypatch)

    first = asyncio.ensure_future(said(held[0][1], "0"))
    while not sizes:  # noqa: ASYNC110 - a turn of the loop, no time
        await asyncio.sleep(0)
    rest = [asyncio.ensure_future(said(writer, "1")) for _, writer in held[1:]]
    await asyncio.gather(first, *rest)

    assert sizes == [1, 3]


async def test_each_is_told_its_own_outcome(desk: Desk, commits: Commits) -> None:
    """Stored, cancelled, a gap, a lost lease: in one commit."""
    await connected(desk, commits)
    (_, ok), (cancelled, cancel), (_, gap), (lost, fenced) = await begun(desk, commits, 4)
    await desk.queue.request_cancel(cancelled.task_id, LOCAL_OWNER)
    await desk.queue.release(lost)

    outcomes = await asyncio.gather(said(ok, "a"), said(cancel, "b"), said(gap, "c", first=2), said(fenced, "d"))

    assert list(outcomes[:3]) == [Appended(1, cancel=False), Appended(1, cancel=True), Gap(0)]
    assert isinstance(outcomes[3], LeaseLost)


@pytest.mark.parametrize("fast", [False, True])
async def test_what_one_task_cannot_write_keeps_no_other_from_its_own(desk: Desk, commits: Commits, fast: bool) -> None:
    """A log that Redis refuses, here one with an entry from the future: its writer alone is told so, and why."""
    if fast:
        await connected(desk, commits)
    held = await begun(desk, commits, 3)
    broken = held[1][0]
    await desk.store.command("XADD", desk.shard(broken.task_id).log(broken.task_id), f"{broken.epoch + 1}-0", "x", "y")

    outcomes = await asyncio.gather(*(said(writer, "word") for _, writer in held))

    assert outcomes[0] == outcomes[2] == Appended(1, cancel=False)
    assert isinstance(outcomes[1], StoreUnsuitable)
    assert "equal or smaller" in outcomes[1].message
    assert [await desk.text(lease.task_id) for lease in (held[0][0], held[2][0])] == ["word"] * 2


@pytest.mark.parametrize("fast", [False, True])
async def test_a_text_that_is_no_unicode_is_refused_and_keeps_no_other_from_its_own(
    desk: Desk, commits: Commits, fast: bool
) -> None:
    """Half a surrogate pair, by the ordinary way as by the fast one: whoever appends it is told so at once."""
    if fast:
        await connected(desk, commits)
    held = await begun(desk, commits, 3)

    told = [asyncio.ensure_future(said(writer, "word")) for _, writer in held[::2]]
    with pytest.raises(TextUnwritable):
        await said(held[1][1], "fine", "half \ud800")
    outcomes = await asyncio.gather(*told)
    after = await said(held[1][1], "whole")

    assert outcomes == [Appended(1, cancel=False)] * 2
    assert after == Appended(1, cancel=False)
    assert [await desk.text(lease.task_id) for lease, _ in held] == ["word", "whole", "word"]


class Fault(Exception):
    """Nobody expects it."""


def failing_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """Let a function of the committing code raise when it is called next, and then work."""
    works = getattr(owner, name)

    def fail(*_: object, **__: object) -> None:
        monkeypatch.setattr(owner, name, works)
        raise Fault("word")  # as an error may quote what it met

    monkeypatch.setattr(owner, name, fail)


FAULTS: list[tuple[bool, object, str]] = [
    (False, commit, "append_all"),
    (True, commit, "outcomes_in"),
    (True, commit._ShardCommits, "_packed"),
    (True, Channel, "ask"),
]


@one_shard
@pytest.mark.parametrize(("fast", "owner", "name"), FAULTS, ids=[name for _, _, name in FAULTS])
async def test_a_fault_is_told_to_its_round_and_the_next_one_goes_on(
    desk: Desk,
    commits: Commits,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fast: bool,
    owner: object,
    name: str,
) -> None:
    """All whose appends were in it hear of it once, nobody waits for ever, and what comes after is written."""
    if fast:
        await connected(desk, commits)
    held = await begun(desk, commits, 6)
    failing_once(monkeypatch, owner, name)
    sizes = counted(monkeypatch)

    met = [asyncio.ensure_future(said(writer, "word")) for _, writer in held[:4]]
    while not sizes:  # noqa: ASYNC110 - a turn of the loop, no time
        await asyncio.sleep(0)
    spared = await asyncio.gather(*(said(writer, "word") for _, writer in held[4:]))
    failed = await asyncio.gather(*met)
    again = await asyncio.gather(*(said(writer, "word") for _, writer in held[:4]))

    assert [type(outcome) for outcome in failed] == [WriteFailed] * 4
    assert spared == [Appended(1, cancel=False)] * 2
    assert again == [Appended(1, cancel=False)] * 4
    assert [await desk.text(lease.task_id) for lease, _ in held] == ["word"] * 6
    (logged,) = [record for record in caplog.records if record.__dict__.get("action") == "commit_fault"]
    assert (logged.__dict__["appends"], logged.exc_info is not None) == (4, True)


async def test_one_who_fails_when_told_keeps_no_other_from_hearing(desk: Desk, commits: Commits) -> None:
    """It must not, but the answers beside it should not pay for it."""
    await connected(desk, commits)
    held = await begun(desk, commits, 3)

    def fail(_: Outcome) -> None:
        raise Fault("told")

    held[0][1].append(1, outputs("word"), told=fail)
    outcomes = await asyncio.gather(*(said(writer, "word") for _, writer in held[1:]))
    again = await said(held[1][1], " more", first=2)

    assert outcomes == [Appended(1, cancel=False)] * 2
    assert again == Appended(2, cancel=False)


async def test_text_arrives_as_it_is(desk: Desk, commits: Commits) -> None:
    """By the fast way too: any characters, none, many outputs at once, progress."""
    await connected(desk, commits)
    ((lease, writer),) = await begun(desk, commits, 1)
    odd = [
        Output(text=text, token_ids=ids)
        for text, ids in (("\r\n\0", (1, 2)), ("👩‍👩‍👧", ()), ("", (3,)), ("$5\r\n", (4,)))
    ]

    assert await appended(writer, [], 1, progress="3 9") == Appended(0, cancel=False)
    assert await appended(writer, odd, 1) == Appended(4, cancel=False)

    assert list(Fold(await desk.log.read(lease.task_id)).answer()) == odd
    assert await desk.store.command("HGET", desk.shard(lease.task_id).task(lease.task_id), "progress") == "3 9"


async def test_a_lost_reply_is_asked_for_again(
    desk: Desk,
    open_store: Callable[..., Store],
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection ends in the middle of a commit: all in it are written once and told so."""
    monkeypatch.setattr(connection, "backoff_s", lambda *_, **__: 0.001)
    async with proxy(redis_url, tmp_path) as network:
        commits = Commits(open_store(network.url, patience_s=5), lease_s=60)
        await connected(desk, commits)
        held = await begun(desk, commits, 4)
        network.drop(Script.APPEND.source.sha1.encode(), 3)

        outcomes = await asyncio.gather(*(said(writer, "once") for _, writer in held))
        again = await asyncio.gather(*(said(writer, " more", first=2) for _, writer in held))
        await commits.close()

    assert network.dropped == 3
    assert outcomes == [Appended(1, cancel=False)] * 4
    assert again == [Appended(2, cancel=False)] * 4
    assert [await desk.text(lease.task_id) for lease, _ in held] == ["once more"] * 4


async def test_a_lease_is_written_anew_only_when_a_part_of_it_is_over(desk: Desk, commits: Commits) -> None:
    """An append soon after the claim leaves it; one after an eighth of the lease renews it."""
    ((lease, writer),) = await begun(desk, commits, 1)
    key = desk.shard(lease.task_id).task(lease.task_id)
    claimed_ms = await desk.store.command("HGET", key, "lease_ms")

    await said(writer, "one")
    soon_ms = await desk.store.command("HGET", key, "lease_ms")
    await desk.store.command("HSET", key, "lease_ms", int(claimed_ms) - 8_000)  # eight seconds of sixty later
    await said(writer, "two", first=2)
    renewed_ms = await desk.store.command("HGET", key, "lease_ms")

    assert soon_ms == claimed_ms
    assert int(renewed_ms) >= int(claimed_ms)


@one_shard
async def test_it_is_better_to_gather_after_a_great_commit_and_not_after_a_lone_one(
    desk: Desk, commits: Commits
) -> None:
    """So a lone answer is never held back, and many do not cost a commit for every token of each."""
    held = await begun(desk, commits, 9)

    await said(held[0][1], "alone")
    alone_s = commits.rest_s()
    await asyncio.gather(*(said(writer, "together") for _, writer in held[1:]))
    together_s = commits.rest_s()

    assert alone_s <= 0
    assert 0 < together_s <= 7 * commit.REST_S
