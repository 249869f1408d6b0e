"""The real scripts on a real Redis against the pure queue, step by step, while the replies of scripts get lost.

Every step runs its scripts one to six times, as ``Store.run`` does when a reply was lost zero to five times; the pure
queue makes the step once. After each step all that Redis holds must be what the pure queue says, key by key.

``SIBYL_TEST_EXAMPLES`` sets how many histories are tried; with ``SIBYL_TEST_SHRINK=0`` one that fails stays as it is.
"""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sibyl.core.cursor import START
from sibyl.core.errors import SibylError
from sibyl.core.event import Cancelled, Completed, Expired, Failed, Output, Queued, Started, Terminal
from sibyl.core.fold import Fold
from sibyl.core.task import Lease, Owner, TaskId, Usage
from sibyl.store import keys
from sibyl.store.connection import Store
from sibyl.store.log import Appended, Gap
from sibyl.store.queue import Limits
from sibyl.store.scripts import Script
from sibyl.wire import record
from tests import redis_nodes
from tests.store.desk import Desk, all_keys, outputs, redis_of, spec, wipe
from tests.store.pure_queue import ENDED, Entry, PureLease, PureQueue

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

LIMITS = Limits(queue_tasks=6, owner_tasks=4, deadline_s=600, retention_s=3600)
MOST_OPEN = 8  # so that one look at the queue shows it whole, and a claim's order is the pure queue's
MOST_TRIES = 2
ENDS: dict[str, Terminal] = {
    "completed": Completed(text_length=0, usage=Usage(prompt_tokens=1, completion_tokens=1), finish_reason="stop"),
    "failed": Failed(code="engine_error", message="No."),
    "cancelled": Cancelled(),
    "expired": Expired(),
}
OWNERS = st.sampled_from(["ann", "bob", "cy"])
LOST = st.sampled_from([0, 0, 0, 1, 1, 2, 5])
ANY = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 5, 9])  # picks one of what there is, mostly the newest


class RepeatingStore(Store):
    """Runs each script again as often as a reply is to be lost, and returns the last reply."""

    lost = 0

    async def run(self, script: Script, keys: Sequence[str], *args: str | int | float) -> Any:
        """Run it, again and again."""
        for _ in range(self.lost):
            await super().run(script, keys, *args)
        return await super().run(script, keys, *args)


class Draws:
    """Makes ids that are the same in each run: equals in the queue are in the order of their ids."""

    made = 0

    def task_id(self, shard: int, _digits: str) -> TaskId:
        """As that of ``keys``."""
        self.made += 1
        return TaskId(f"{shard}.{hashlib.md5(bytes([self.made]), usedforsecurity=False).hexdigest()}")


class QueueMachine(RuleBasedStateMachine):
    """One history: what clients, workers and time do, in any order."""

    def __init__(self, store: RepeatingStore, run: Run[Any], draws: "Draws") -> None:
        super().__init__()
        draws.made = 0
        self._store = store
        self._run = run
        self._desk = Desk(store)
        self._shard = store.shards[0]
        self._pure = PureQueue(queue_tasks=LIMITS.queue_tasks, owner_tasks=LIMITS.owner_tasks, most_tries=MOST_TRIES)
        self._ids: list[str] = []  # of every task that was ever accepted
        self._owner: dict[str, str] = {}
        self._leases: list[tuple[PureLease, Lease]] = []  # that were ever given, most of them lost by now
        self._nonces = 0
        self._floor = 0  # the highest epoch that anybody saw
        self._kept: tuple[PureQueue, list[tuple[str, int, bytes]]] | None = None
        self._do(wipe(store))

    def _do(self, action: Awaitable[T], lost: int = 0) -> T:
        async def acting() -> T:
            self._store.lost = lost
            try:
                return await action
            finally:
                self._store.lost = 0

        result: T = self._run(acting())
        return result

    def _try(self, action: Awaitable[T], lost: int) -> T | str:
        try:
            return self._do(action, lost)
        except SibylError as error:
            return type(error).__name__

    def _pick(self, number: int, among: Sequence[T]) -> T:
        return among[-1 - number % len(among)]

    def _nonce(self, worker: str) -> str:
        self._nonces += 1
        return f"{worker}:{self._nonces}"

    @initialize(owners=st.lists(OWNERS, min_size=2, max_size=5), claims=st.integers(0, 3))
    def begin(self, owners: list[str], claims: int) -> None:
        """Some tasks wait and some run, also in a history in which nobody asks any more."""
        for owner in owners:
            self.submit(owner, 5, None, "", 0)
        for _ in range(claims):
            self.claim("w", 0, 0)

    # ---- clients

    @precondition(lambda self: len(list(self._pure.unfinished())) < MOST_OPEN)
    @rule(
        owner=OWNERS,
        priority=st.integers(4, 6),
        key=st.sampled_from([None, None, None, "k", "l"]),
        request=st.sampled_from(["", "what", "why"]),
        lost=LOST,
    )
    def submit(self, owner: str, priority: int, key: str | None, request: str, lost: int) -> None:
        """A client asks, or asks again under the same Idempotency-Key."""
        asked = self._desk.queue.submit(
            spec(priority=priority),
            owner=Owner(owner),
            limits=LIMITS,
            idempotency_key=key,
            request=request,
        )
        real = self._try(asked, lost)
        fresh = real not in self._owner and not real[0].isalpha()
        task_id = real if fresh else "refused"
        assert self._pure.submit(task_id, owner, priority, key, request) == real
        if fresh:
            self._ids.append(real)
            self._owner[real] = owner

    @precondition(lambda self: self._ids)
    @rule(number=ANY, lost=LOST)
    def cancel(self, number: int, lost: int) -> None:
        """A client asks a task to stop."""
        task_id = self._pick(number, self._ids)
        real = self._try(self._desk.queue.request_cancel(TaskId(task_id), Owner(self._owner[task_id])), lost)
        assert real == self._pure.cancel(task_id)

    @precondition(lambda self: self._ids)
    @rule(number=ANY, lost=LOST)
    def erase(self, number: int, lost: int) -> None:
        """A client has a task erased."""
        task_id = self._pick(number, self._ids)
        real = self._try(self._desk.queue.erase(TaskId(task_id), Owner(self._owner[task_id])), lost)
        assert (real or "ok") == self._pure.erase(task_id)

    # ---- workers

    @precondition(lambda self: any(self._pure.unfinished()))
    @rule(worker=st.sampled_from(["w", "w2"]), ahead=st.sampled_from([0, 0, 10**9]), lost=LOST)
    def claim(self, worker: str, ahead: int, lost: int) -> None:
        """A worker takes the next task; it may have seen an epoch that is far ahead of the clock."""
        nonce, floor = self._nonce(worker), self._floor + ahead
        claim = self._do(self._desk.claim(nonce, max_attempts=MOST_TRIES, floor=floor), lost)
        task = self._pure.claim(nonce)
        if claim is None or task is None:
            assert claim is None and task is None
            return
        assert (claim.lease.task_id, claim.attempt, claim.stored) == (task.id, task.attempt, len(task.outputs))
        assert claim.lease.epoch > floor
        self._floor = claim.lease.epoch
        self._leases.append((PureLease(task.id, task.epoch, nonce), claim.lease))

    @precondition(lambda self: self._leases)
    @rule(number=ANY, lost=LOST)
    def claim_repeated(self, number: int, lost: int) -> None:
        """A claim from long ago arrives once more; whoever sent it takes the reply for that of its first."""
        lease, _ = self._pick(number, self._leases)
        script = Script.CLAIM, self._shard.whole(TaskId(lease.task_id))
        words = lease.task_id, lease.nonce, 60_000, MOST_TRIES, self._floor, "oracle"
        reply = self._do(self._store.run(*script, *words), lost)
        expected = self._pure.claim_one(lease.task_id, lease.nonce)
        assert reply[0] == ("gone" if expected == "ended" and lost else expected)  # "ended" is told once
        if expected == "ok":
            task = self._pure.tasks[lease.task_id]
            real = Lease(task_id=TaskId(task.id), epoch=int(reply[1]), nonce=lease.nonce)
            self._floor = max(self._floor, real.epoch)
            self._leases.append((PureLease(task.id, task.epoch, lease.nonce), real))

    @precondition(lambda self: self._leases)
    @rule(number=ANY, shift=st.sampled_from([0, 0, -1, -2, 1]), count=st.integers(0, 3), lost=LOST)
    def append(self, number: int, shift: int, count: int, lost: int) -> None:
        """Whoever ever held a lease appends, or only beats: what is next, what is stored already, or too far ahead."""
        self._append(*self._pick(number, self._leases), shift, count, lost)

    @precondition(lambda self: self._held())
    @rule(number=ANY, count=st.integers(1, 3), lost=LOST)
    def work(self, number: int, count: int, lost: int) -> None:
        """A holder appends what is next."""
        self._append(*self._pick(number, self._held()), 0, count, lost)

    def _held(self) -> list[tuple[PureLease, Lease]]:
        return [pair for pair in self._leases if self._pure.holds(pair[0])]

    def _append(self, lease: PureLease, real_lease: Lease, shift: int, count: int, lost: int) -> None:
        task = self._pure.tasks.get(lease.task_id)
        stored = task.outputs if task else []
        first = max(1, len(stored) + 1 + shift)
        # Whoever sends a number again sends the same text.
        texts = [*stored[first - 1 :], *(f"{lease.epoch}.{place} " for place in range(3))][:count]
        real = self._try(self._desk.log.append(real_lease, first, outputs(*texts), lease_s=60), lost)
        assert _plain(real) == self._pure.append(lease, first, texts)

    @precondition(lambda self: self._leases)
    @rule(number=ANY, shift=st.sampled_from([0, 0, 1]), end=st.sampled_from(list(ENDS)), lost=LOST)
    def settle(self, number: int, shift: int, end: str, lost: int) -> None:
        """Whoever ever held a lease ends the task."""
        lease, real_lease = self._pick(number, self._leases)
        task = self._pure.tasks.get(lease.task_id)
        stored = len(task.outputs) + shift if task else shift
        real = self._try(self._desk.queue.settle(real_lease, stored, ENDS[end]), lost)
        expected = self._pure.settle(lease, stored, end)
        assert real == {"ok": None, "LeaseLost": "LeaseLost"}.get(str(expected[0]), expected[-1])

    @precondition(lambda self: self._leases)
    @rule(number=ANY, at_once=st.booleans(), unharmed=st.booleans(), lost=LOST)
    def release(self, number: int, at_once: bool, unharmed: bool, lost: int) -> None:
        """Whoever ever held a lease gives the task back, for now or for later."""
        lease, real_lease = self._pick(number, self._leases)
        held = self._pure.tasks.get(lease.task_id)
        ours = held is not None and held.state == "running" and held.nonce == lease.nonce
        delay_s = 0.0 if at_once else 60.0
        real = self._do(self._desk.queue.release(real_lease, delay_s=delay_s, unharmed=unharmed), lost)
        assert real == self._pure.release(lease.task_id, lease.nonce, at_once=at_once, unharmed=unharmed)
        if ours and at_once:
            self._do(self._end_lease(lease.task_id))

    @precondition(lambda self: any(task.held for task in self._pure.tasks.values()))
    @rule(worker=st.sampled_from(["w", "w2"]), lost=LOST)
    def worker_dies(self, worker: str, lost: int) -> None:
        """Its successor gives back all that it held."""
        held = [task for task in self._pure.tasks.values() if task.state == "running" and task.nonce]
        theirs = [task for task in held if task.nonce.startswith(f"{worker}:")]
        assert self._do(self._desk.queue.release_all_of(worker), lost) == len(theirs)
        for task in theirs:
            assert self._pure.release(task.id, task.nonce, at_once=True, unharmed=False)
            self._do(self._end_lease(task.id))

    @precondition(lambda self: any(task.overdue or task.cancel for task in self._pure.unfinished()))
    @rule(lost=LOST)
    def reap(self, lost: int) -> None:
        """An API node ends what nobody holds."""
        assert self._do(self._desk.queue.reap(), lost) == self._pure.reap()

    # ---- time

    @precondition(lambda self: any(task.state == "running" for task in self._pure.tasks.values()))
    @rule(number=ANY)
    def lease_ends(self, number: int) -> None:
        """A worker was silent too long, or the pause after a release is over."""
        task = self._pick(number, [task for task in self._pure.tasks.values() if task.state == "running"])
        self._pure.lapse(task.id)
        self._do(self._end_lease(task.id))

    async def _end_lease(self, task_id: str) -> None:
        # Redis' clock cannot be set. The number of the end stands for its time, so that the order is known.
        number = self._pure.tasks[task_id].ended_lease
        assert number is not None
        await self._store.command("HSET", self._shard.task(TaskId(task_id)), "lease_ms", number)
        await self._store.command("ZADD", self._shard.running, number, task_id)

    @precondition(lambda self: any(self._pure.unfinished()))
    @rule(number=ANY)
    def deadline_passes(self, number: int) -> None:
        """A task's time is over."""
        task = self._pick(number, list(self._pure.unfinished()))
        self._pure.pass_deadline(task.id)
        self._do(self._desk.overdue(TaskId(task.id)))

    @precondition(lambda self: any(task.state in ENDED for task in self._pure.tasks.values()))
    @rule(number=ANY)
    def retention_ends(self, number: int) -> None:
        """Redis drops what has expired."""
        task = self._pick(number, [task for task in self._pure.tasks.values() if task.state in ENDED])
        self._pure.forget(task.id)
        keys = self._shard.task(TaskId(task.id)), self._shard.log(TaskId(task.id))
        self._do(self._store.command("DEL", *keys))

    # ---- a Redis that loses its newest writes: power loss, failover

    @precondition(lambda self: any(self._pure.unfinished()))
    @rule()
    def keep(self) -> None:
        """What is on the disk now."""
        self._kept = self._pure.copy(), self._do(self._dumped())

    @precondition(lambda self: self._kept)
    @rule()
    def lose(self) -> None:
        """It comes back with no more than that. Leases given since, and tasks accepted since, never were."""
        assert self._kept is not None
        pure, keys = self._kept
        self._pure = pure.copy()
        self._do(self._restored(keys))

    async def _dumped(self) -> list[tuple[str, int, bytes]]:
        redis = await redis_of(self._store, self._shard.waiting)
        return [
            (
                key,
                max(0, await redis.pttl(key)),
                await redis.execute_command("DUMP", key, NEVER_DECODE=True),  # type: ignore[no-untyped-call]
            )
            for key in await all_keys(self._store)
        ]

    async def _restored(self, keys: list[tuple[str, int, bytes]]) -> None:
        await wipe(self._store)
        redis = await redis_of(self._store, self._shard.waiting)
        for key, ttl_ms, raw in keys:
            await redis.restore(key, ttl_ms, raw)

    # ---- what must hold

    @invariant()
    def redis_holds_what_the_pure_queue_says(self) -> None:
        """Order and position, leases, deadlines, counts, shares, the dead, each task, each log; and no other key."""
        assert self._do(self._seen()) == self._expected()

    def teardown(self) -> None:
        """Nothing is stuck: a worker that goes on claiming brings every task to its end; each client sees it."""
        for task in list(self._pure.unfinished()):
            if task.state == "running":
                self._pure.lapse(task.id)
                self._do(self._end_lease(task.id))
        while (claim := self._do(self._desk.claim(nonce := self._nonce("w"), max_attempts=MOST_TRIES))) is not None:
            last = self._pure.claim(nonce)
            assert last is not None and claim.lease.task_id == last.id
            assert self._do(self._desk.queue.settle(claim.lease, claim.stored, ENDS["completed"])) is None
            self._pure.settle(PureLease(last.id, last.epoch, nonce), claim.stored, "completed")
        assert self._pure.claim("w:last") is None
        assert not list(self._pure.unfinished())
        self.redis_holds_what_the_pure_queue_says()
        for task_id, owner in self._owner.items():
            view = self._try(self._desk.views.task(TaskId(task_id), Owner(owner)), 0)
            if task_id not in self._pure.tasks:
                assert view == self._pure.missing(task_id)
            else:
                assert not isinstance(view, str)
                task = self._pure.tasks[task_id]
                assert (view.state, view.attempt, view.text) == (task.state, task.attempt, "".join(task.outputs))

    def _expected(self) -> dict[str, Any]:
        pure, shard = self._pure, self._shard
        shared = {
            shard.bell: bool(pure.mine),
            shard.waiting: bool(pure.waiting()),
            shard.running: any(task.state == "running" for task in pure.tasks.values()),
            shard.deadlines: any(pure.unfinished()),
            shard.open: bool(pure.open()),
            shard.ahead: bool(pure.finish),
            shard.clock: bool(pure.clock),
            shard.dead: bool(pure.dead),
            **{shard.mine(Owner(owner)): bool(ids) for owner, ids in pure.mine.items()},
        }
        return {
            "waiting": [task.id for task in pure.waiting()],
            "running": {task.id for task in pure.tasks.values() if task.state == "running"},
            "abandoned": [task.id for task in pure.abandoned()],
            "deadlines": {task.id for task in pure.unfinished()},
            "open": pure.open(),
            "fair": pure.finish,
            "clock": pure.clock,
            "dead": set(pure.dead),
            "mine": {owner: ids for owner, ids in pure.mine.items() if ids},
            "tasks": {
                task.id: {
                    "state": (task.state, task.nonce, task.attempt, task.tries, len(task.outputs), task.cancel),
                    "log": task.log,
                    "text": "".join(task.outputs),
                    "position": pure.waiting().index(task) if task.state == "queued" else None,
                    "expires": task.state in ENDED,
                }
                for task in pure.tasks.values()
            },
            "keys that stay": {key for key, there in shared.items() if there and ":mine:" not in key}
            | {name(TaskId(task.id)) for task in pure.unfinished() for name in (shard.task, shard.log)},
            "keys that expire": {key for key, there in shared.items() if there and ":mine:" in key}
            | {shard.idempotency(Owner(owner), key) for owner, key in pure.keys}
            | {shard.gone(TaskId(task_id)) for task_id in pure.gone}
            | {
                name(TaskId(task.id))
                for task in pure.tasks.values()
                if task.state in ENDED
                for name in (shard.task, shard.log)
            },
        }

    async def _seen(self) -> dict[str, Any]:
        shard, ids = self._shard, [TaskId(task_id) for task_id in self._pure.tasks]
        keys = await all_keys(self._store)
        owners = sorted(self._pure.mine)
        pipe = (await redis_of(self._store, shard.waiting)).pipeline(transaction=False)
        for key in (shard.waiting, shard.running, shard.deadlines, shard.ahead, shard.dead):
            pipe.zrange(key, 0, -1, withscores=True)
        pipe.hgetall(shard.open)
        pipe.get(shard.clock)
        for owner in owners:
            pipe.zrange(shard.mine(Owner(owner)), 0, -1)
        for task_id in ids:
            pipe.hgetall(shard.task(task_id))
            pipe.xrange(shard.log(task_id))
            pipe.zrank(shard.waiting, task_id)
        for key in keys:
            pipe.pttl(key)
        waiting, running, deadlines, fair, dead, opened, clock, *rest = await pipe.execute()
        mine, rest = rest[: len(owners)], rest[len(owners) :]
        tasks, ttls = rest[: 3 * len(ids)], rest[3 * len(ids) :]
        leases = {task_id: fields.get("lease_ms") for task_id, fields in zip(ids, tasks[::3], strict=True)}
        assert all(leases[task_id] == str(int(score)) for task_id, score in running), "hash and set agree"
        return {
            "waiting": [task_id for task_id, _ in waiting],
            "running": {task_id for task_id, _ in running},
            "abandoned": [task_id for task_id, score in running if score < 10**12],
            "deadlines": {task_id for task_id, _ in deadlines},
            "open": {owner: int(count) for owner, count in opened.items()},
            "fair": dict(fair),
            "clock": int(clock or 0),
            "dead": {task_id for task_id, _ in dead},
            "mine": {owner: set(listed) for owner, listed in zip(owners, mine, strict=True) if listed},
            "tasks": {
                task_id: _task_seen(fields, log, rank)
                for task_id, fields, log, rank in zip(ids, tasks[::3], tasks[1::3], tasks[2::3], strict=True)
            },
            "keys that stay": {key for key, ttl in zip(keys, ttls, strict=True) if ttl < 0},
            "keys that expire": {key for key, ttl in zip(keys, ttls, strict=True) if ttl >= 0},
        }


def _task_seen(fields: dict[str, str], raw: list[tuple[str, dict[str, str]]], rank: int | None) -> dict[str, Any]:
    entries = [record.decode_entry(*entry) for entry in raw]
    log: list[Entry] = []
    before = START
    for entry in entries:
        event = entry.event
        match event:
            case Queued():
                log.append(("queued",))
                place = 1
            case Started():
                log.append(("started", event.attempt, event.kept))
                place = event.kept
            case Output():
                log.append(event.text)
                place = before.offset + 1
            case _:
                log.append((type(event).__name__.lower(), event.kept))
                place = event.kept + 1
        assert entry.cursor.offset == place
        if entry.cursor.epoch != before.epoch:
            assert entry.cursor.epoch > before.epoch
            assert isinstance(event, Started | Terminal), "what begins a new epoch"
            assert event.previous == before, "and it names the entry before it"
        before = entry.cursor
    names = ("nonce", "attempt", "tries", "offset")
    nonce, attempt, tries, offset = (fields[name] for name in names)
    return {
        "state": (fields["state"], nonce, int(attempt), int(tries), int(offset), "cancel" in fields),
        "log": log,
        "text": Fold(entries).text(),
        "position": rank,
        "expires": "finished_ms" in fields,
    }


def _plain(reply: object) -> tuple[object, ...]:
    match reply:
        case Appended():
            return ("stored", reply.stored, reply.cancel)
        case Gap():
            return ("gap", reply.stored)
        case _:
            return (reply,)


@pytest.mark.timeout(3600)  # as many examples as one likes; a failing history is made short, which takes minutes
def test_the_scripts_do_what_the_pure_queue_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens in whatever order, with up to five replies of each script lost: the same answers to the callers,
    the same state in every key after every step, no key too many, and nothing stuck at the end.
    """
    examples = int(os.environ.get("SIBYL_TEST_EXAMPLES", "80"))
    shrink = os.environ.get("SIBYL_TEST_SHRINK", "1") == "1"
    draws = Draws()
    monkeypatch.setattr(keys, "task_id", draws.task_id)
    # A server of its own: an API node on the one that tests share would reap what is overdue here.
    with asyncio.Runner() as runner, redis_nodes.single(tmp_path) as node:
        store = RepeatingStore(node.url, patience_s=20)
        try:
            run_state_machine_as_test(
                cast(type[QueueMachine], lambda: QueueMachine(store, runner.run, draws)),  # any factory will do
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow],
                    phases=[phase for phase in Phase if shrink or phase not in (Phase.shrink, Phase.explain)],
                ),
            )
        finally:
            runner.run(store.close())
