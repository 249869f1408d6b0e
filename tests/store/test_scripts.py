"""The Lua scripts: each atomic, each safe to repeat when its reply was lost."""

import re
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from sibyl.core.event import Cancelled
from sibyl.core.state import TRANSITIONS
from sibyl.core.task import LOCAL_OWNER, Lease, TaskId, WorkerInfo
from sibyl.store.connection import Store
from sibyl.store.scripts import Script
from sibyl.store.workers import WorkerRegistry
from sibyl.wire.record import FIELDS
from tests.faults import proxy
from tests.store.desk import Desk, dump, masked

WORKER = WorkerInfo(name="w", model="oracle", slots=2, context_tokens=None, max_piece_bytes=16, seen_at=0)


@pytest.mark.parametrize("script", Script, ids=lambda script: script.value)
def test_redis_knows_a_script_by_the_digest_that_we_compute(redis_url: str, script: Script) -> None:
    """It compiles, and EVALSHA will find it."""
    with Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.script_load(script.source.text) == script.source.sha1


def test_every_lua_file_is_a_script_or_the_prelude() -> None:
    """A file that nothing loads would be dead code."""
    files = {Path(file.name).stem for file in resources.files("sibyl.store").joinpath("lua").iterdir()}

    assert files == {script.value for script in Script} | {"prelude"}


@pytest.mark.parametrize("script", Script, ids=lambda script: script.value)
def test_the_scripts_share_names_and_states_with_python(script: Script) -> None:
    """Nothing is decided in two languages: the tables are rendered into each."""
    for name, field in FIELDS.items():
        assert f"{name} = '{field}'" in script.source.text
    for state in TRANSITIONS:
        assert re.search(rf"\b{state} = {{", script.source.text)


@pytest.mark.parametrize("script", Script, ids=lambda script: script.value)
def test_a_script_assigns_to_locals_only(script: Script) -> None:
    """Redis refuses a new global, but only in the branch that runs."""
    local: set[str] = set()
    for line in re.sub(r"--.*|'[^']*'", "", script.source.text).splitlines():
        if declared := re.match(r"\s*local function (\w+)\((.*?)\)|\s*local ([\w, ]+?)(?: =|$)", line):
            local |= {name.strip() for group in declared.groups() if group for name in group.split(",")}
        elif assigned := re.match(r"\s*(?:for )?([\w, ]+?) (?:=|in) ", line):
            names = {name.strip() for name in assigned[1].split(",")}
            assert line.lstrip().startswith("for ") or names <= local or line.startswith("    "), line
        assert not re.match(r"\s*function ", line), line


def test_redis_refuses_a_new_global(redis_url: str) -> None:
    """What the test above looks for by reading, the server refuses by itself."""
    with Redis.from_url(redis_url) as client, pytest.raises(ResponseError, match=r"global|readonly"):
        client.eval("leak = 1", 0)


class Recorded(Store):
    """A store that notes which keys each script got."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.runs: list[tuple[Script, Sequence[str]]] = []

    async def run(self, script: Script, keys: Sequence[str], *args: str | int | float) -> Any:
        """Note, and run."""
        self.runs.append((script, keys))
        return await super().run(script, keys, *args)


async def test_the_keys_of_each_script_share_a_hash_tag(redis_url: str) -> None:
    """So that they lie in one slot of a cluster; and this is every script there is."""
    store = Recorded(redis_url)
    try:
        for prepare, act in SCENARIOS.values():
            await store.client.flushdb()
            await act(Desk(store), await prepare(Desk(store)))
    finally:
        await store.close()

    assert {script for script, _ in store.runs} == set(Script)
    for script, keys in store.runs:
        assert {re.findall(r"\{.*?\}", key)[0] for key in keys} == {"{q0}"}, script


async def test_a_script_that_redis_forgot_is_sent_again(desk: Desk, admin: Redis) -> None:
    """SCRIPT FLUSH, a restart, a failover: the next run sends the text."""
    first = await desk.submit()
    admin.script_flush()

    assert await desk.submit() != first
    assert (await desk.claimed()).lease.task_id == first


# ---- lost replies

Held = tuple[TaskId, Lease | None]
Prepare = Callable[[Desk], Awaitable[Held]]
Act = Callable[[Desk, Held], Awaitable[object]]


async def nothing(desk: Desk) -> Held:
    """An empty Redis."""
    return TaskId(""), None


async def queued(desk: Desk) -> Held:
    """A task waits."""
    return await desk.submit(key="known"), None


async def running(desk: Desk) -> Held:
    """A task runs, two outputs are stored."""
    return await desk.begin("one ", "two ")


async def abandoned(desk: Desk) -> Held:
    """Its lease ran out."""
    task_id, lease = await running(desk)
    await desk.lapse(task_id)
    return task_id, lease


async def worn_out(desk: Desk) -> Held:
    """Its lease ran out, and it has no attempts left."""
    task_id, lease = await abandoned(desk)
    await desk.store.command("HSET", desk.shard(task_id).task(task_id), "tries", 3)
    return task_id, lease


async def overdue(desk: Desk) -> Held:
    """It waits, and its time is over."""
    task_id, lease = await queued(desk)
    await desk.overdue(task_id)
    return task_id, lease


def held(lease: Lease | None) -> Lease:
    """The lease of a task that runs."""
    assert lease is not None
    return lease


async def release(desk: Desk, held_: Held, *, unharmed: bool = False) -> None:
    """Give back; a repeated release answers that it is not ours any more, which is true by then."""
    await desk.queue.release(held(held_[1]), unharmed=unharmed)


SCENARIOS: dict[str, tuple[Prepare, Act]] = {
    "submit": (nothing, lambda desk, _: desk.submit()),
    "submit with a key": (nothing, lambda desk, _: desk.submit(key="k")),
    "submit with a known key": (queued, lambda desk, _: desk.submit(key="known")),
    "due and claim": (queued, lambda desk, _: desk.claim("w:nonce")),
    "take over": (abandoned, lambda desk, _: desk.claim("w:nonce")),
    "claim the worn out": (worn_out, lambda desk, _: desk.claim("w:nonce")),
    "claim the overdue": (overdue, lambda desk, _: desk.claim("w:nonce")),
    "append": (running, lambda desk, task: desk.say(held(task[1]), "three ", "four", first=3)),
    "heartbeat": (running, lambda desk, task: desk.say(held(task[1]), first=3)),
    "settle": (running, lambda desk, task: desk.complete(held(task[1]), 2)),
    "settle cancelled": (running, lambda desk, task: desk.queue.settle(held(task[1]), 2, Cancelled(kept=2))),
    "release": (running, release),
    "release unharmed": (running, lambda desk, task: release(desk, task, unharmed=True)),
    "cancel the queued": (queued, lambda desk, task: desk.queue.request_cancel(task[0], LOCAL_OWNER)),
    "cancel the running": (running, lambda desk, task: desk.queue.request_cancel(task[0], LOCAL_OWNER)),
    "cancel the abandoned": (abandoned, lambda desk, task: desk.queue.request_cancel(task[0], LOCAL_OWNER)),
    "erase": (running, lambda desk, task: desk.queue.erase(task[0], LOCAL_OWNER)),
    "reap": (overdue, lambda desk, _: desk.queue.reap()),
    "announce": (nothing, lambda desk, _: WorkerRegistry(desk.store).announce(WORKER)),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_lost_reply_changes_nothing(
    name: str, store: Store, open_store: Callable[..., Store], redis_url: str, admin: Redis, tmp_path: Path
) -> None:
    """The reply of each script lost once, twice, three times: the same state as without any fault, and the same
    answer to the caller.
    """
    prepare, act = SCENARIOS[name]
    for script in Script:
        admin.script_load(script.source.text)
    right = await act(Desk(store), await prepare(Desk(store)))
    undisturbed = await dump(store)
    async with proxy(redis_url, tmp_path) as network:
        faulty = open_store(network.url, patience_s=5)
        for times in (1, 2, 3):
            admin.flushall()
            before = await prepare(Desk(store))
            network.drop(b"EVALSHA", times)
            answer = await act(Desk(faulty), before)
            assert network.dropped == times
            assert await dump(store) == undisturbed
            assert masked(answer) == masked(right) or name in MAY_ANSWER_OTHERWISE


MAY_ANSWER_OTHERWISE = {"reap"}  # a repeated one counts only what was left to reap
