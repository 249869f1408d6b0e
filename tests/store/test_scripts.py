"""The Lua scripts: each atomic, each safe to repeat when its reply was lost."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from sibyl.core.errors import SibylError
from sibyl.core.event import Cancelled
from sibyl.core.state import TRANSITIONS
from sibyl.core.task import LOCAL_OWNER, Lease, TaskId, WorkerInfo
from sibyl.store import connection
from sibyl.store.connection import Store
from sibyl.store.scripts import Script
from sibyl.store.workers import WorkerRegistry
from sibyl.wire.record import FIELDS
from tests.faults import proxy
from tests.store.desk import LIMITS, Desk, dump, masked, wipe
from tests.topology import redis_with

WORKER = WorkerInfo(name="w", model="oracle", slots=2, context_tokens=None, max_piece_bytes=16, seen_at=0)


@pytest.mark.parametrize("script", Script, ids=lambda script: script.value)
def test_redis_knows_a_script_by_the_digest_that_we_compute(redis_url: str, script: Script) -> None:
    """It compiles, and EVALSHA will find it."""
    with redis_with(redis_url, "any") as client:
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
    with redis_with(redis_url, "any") as client, pytest.raises(ResponseError, match=r"global|readonly"):
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
        for _, prepare, act in SCENARIOS.values():
            await wipe(store)
            await outcome(act(Desk(store), await prepare(Desk(store))))
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


async def taken_over(desk: Desk) -> Held:
    """Another worker has it, and this one does not know."""
    task_id, lease = await abandoned(desk)
    await desk.claimed()
    return task_id, lease


async def overdue_and_held(desk: Desk) -> Held:
    """It runs, and its time is over."""
    task_id, lease = await running(desk)
    await desk.overdue(task_id)
    return task_id, lease


def held(lease: Lease | None) -> Lease:
    """The lease of a task that runs."""
    assert lease is not None
    return lease


async def outcome(action: Awaitable[object]) -> str:
    """What the caller gets: a value or an error of ours, without what differs from run to run."""
    try:
        return masked(await action)
    except SibylError as error:
        return type(error).__name__


NONE_LEFT = replace(LIMITS, queue_tasks=0)
SCENARIOS: dict[str, tuple[Script, Prepare, Act]] = {
    "submit": (Script.SUBMIT, nothing, lambda desk, _: desk.submit()),
    "submit with a key": (Script.SUBMIT, nothing, lambda desk, _: desk.submit(key="k")),
    "submit with a known key": (Script.SUBMIT, queued, lambda desk, _: desk.submit(key="known")),
    "submit with another's key": (Script.SUBMIT, queued, lambda desk, _: desk.submit("What?", key="known")),
    "submit to a full queue": (Script.SUBMIT, queued, lambda desk, _: desk.submit(limits=NONE_LEFT)),
    "look what is due": (Script.DUE, queued, lambda desk, _: desk.claim("w:nonce")),
    "claim": (Script.CLAIM, queued, lambda desk, _: desk.claim("w:nonce")),
    "take over": (Script.CLAIM, abandoned, lambda desk, _: desk.claim("w:nonce")),
    "claim the worn out": (Script.CLAIM, worn_out, lambda desk, _: desk.claim("w:nonce")),
    "claim the overdue": (Script.CLAIM, overdue, lambda desk, _: desk.claim("w:nonce")),
    "append": (Script.APPEND, running, lambda desk, task: desk.say(held(task[1]), "three ", "four", first=3)),
    "append what is stored and more": (
        Script.APPEND,
        running,
        lambda desk, task: desk.say(held(task[1]), "two ", "three", first=2),
    ),
    "append after a gap": (Script.APPEND, running, lambda desk, task: desk.say(held(task[1]), "four", first=4)),
    "append too late": (Script.APPEND, taken_over, lambda desk, task: desk.say(held(task[1]), "three", first=3)),
    "heartbeat": (Script.APPEND, running, lambda desk, task: desk.say(held(task[1]), first=3)),
    "settle": (Script.SETTLE, running, lambda desk, task: desk.complete(held(task[1]), 2)),
    "settle cancelled": (
        Script.SETTLE,
        running,
        lambda desk, task: desk.queue.settle(held(task[1]), 2, Cancelled(kept=2)),
    ),
    "settle after a gap": (Script.SETTLE, running, lambda desk, task: desk.complete(held(task[1]), 3)),
    "settle too late": (Script.SETTLE, taken_over, lambda desk, task: desk.complete(held(task[1]), 2)),
    "release": (Script.RELEASE, running, lambda desk, task: desk.queue.release(held(task[1]))),
    "release unharmed": (
        Script.RELEASE,
        running,
        lambda desk, task: desk.queue.release(held(task[1]), unharmed=True),
    ),
    "release for later": (Script.RELEASE, running, lambda desk, task: desk.queue.release(held(task[1]), delay_s=60)),
    "release too late": (Script.RELEASE, taken_over, lambda desk, task: desk.queue.release(held(task[1]))),
    "release all of a dead worker": (Script.RELEASE, running, lambda desk, _: desk.queue.release_all_of("worker")),
    "cancel the queued": (Script.CANCEL, queued, lambda desk, task: desk.queue.request_cancel(task[0], LOCAL_OWNER)),
    "cancel the running": (Script.CANCEL, running, lambda desk, task: desk.queue.request_cancel(task[0], LOCAL_OWNER)),
    "cancel the abandoned": (
        Script.CANCEL,
        abandoned,
        lambda desk, task: desk.queue.request_cancel(task[0], LOCAL_OWNER),
    ),
    "erase": (Script.ERASE, running, lambda desk, task: desk.queue.erase(task[0], LOCAL_OWNER)),
    "erase the queued": (Script.ERASE, queued, lambda desk, task: desk.queue.erase(task[0], LOCAL_OWNER)),
    "reap": (Script.REAP, overdue, lambda desk, _: desk.queue.reap()),
    "reap what runs": (Script.REAP, overdue_and_held, lambda desk, _: desk.queue.reap()),
    "announce": (Script.ANNOUNCE, nothing, lambda desk, _: WorkerRegistry(desk.store).announce(WORKER)),
}


def test_a_reply_of_every_script_is_lost() -> None:
    """A new script needs a scenario."""
    assert {script for script, _, _ in SCENARIOS.values()} == set(Script)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_lost_reply_changes_nothing(
    name: str,
    store: Store,
    open_store: Callable[..., Store],
    redis_url: str,
    admin: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reply of each script lost one to five times: the same state in every key as without any fault, and the same
    answer to the caller.
    """
    script, prepare, act = SCENARIOS[name]
    monkeypatch.setattr(connection, "backoff_s", lambda *_, **__: 0.001)
    for known in Script:
        admin.script_load(known.source.text)
    right = await outcome(act(Desk(store), await prepare(Desk(store))))
    undisturbed = await dump(store)
    async with proxy(redis_url, tmp_path) as network:
        faulty = open_store(network.url, patience_s=5)
        for times in range(1, 6):
            admin.flushall()
            before = await prepare(Desk(store))
            network.drop(script.source.sha1.encode(), times)
            answer = await outcome(act(Desk(faulty), before))

            assert network.dropped == times
            assert await dump(store) == undisturbed
            assert answer == right
