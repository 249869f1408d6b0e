"""The model is of the code: what happens at random in the model is done with the real scripts, tail and follower.

After each step both hold the same: state, epoch by its rank, nonce, offset, lease, cancel, lists, every entry of the
log; and every reply, and what the reader shows, is the same.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping
from contextlib import ExitStack
from typing import cast

import pytest

from sibyl.core.cursor import START, Cursor
from sibyl.core.event import Entry as LogEntry
from sibyl.core.event import Output, Queued
from sibyl.store.feed import Feed
from sibyl.store.follow import Batch, Reset, at_end, follow
from sibyl.store.scripts import Script
from sibyl.store.tail import Tail
from sibyl.wire import record
from tests.protocol.checker import Move, Rule
from tests.protocol.model import Bounds, Protocol, World
from tests.protocol.mutants import BlindSettle, LengthsOnly, NoClaimEntry, NoGap, NoNonce, SharedNonce
from tests.protocol.reading import NOWHERE, Reader
from tests.protocol.scripts import Ran, Reply, Request
from tests.protocol.task import Entry, Task, real
from tests.store.desk import Desk, Snapshot

BOUNDS = Bounds(tokens=2, crashes=2, pauses=3, copies=3, rollbacks=2, drains=2, cancels=1, cuts=3)
WALKS = 100
FAULTS = ("crashes", "pauses", "copies", "rollbacks", "drains", "cancels", "cuts")
LEASE_MS, MOST_TRIES = 600_000, 1_000


class Recorded(Protocol):
    """The protocol, and what ran last."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: tuple[Request | None, Reply] | None = None

    def run(self, request: Request, task: Task, clock: int) -> Ran:
        ran = super().run(request, task, clock)
        self.ran = request, ran.reply
        return ran

    def cancel(self, task: Task, clock: int) -> Ran:
        ran = super().cancel(task, clock)
        self.ran = None, ran.reply
        return ran


class Walk:
    """A random run of the model."""

    def __init__(self, seed: int, protocol: Recorded) -> None:
        self.dice = random.Random(seed)
        self.protocol = protocol
        self.model = World(self.protocol, BOUNDS).model()
        self.values: dict[str, Hashable] = {part.name: part.initial for part in self.model.parts}
        self.told: list[str] = []
        self.cursor_before = NOWHERE  #: of the reader, before the last step

    @property
    def task(self) -> Task:
        """What Redis must hold."""
        return cast(Task, self.values["task"])

    @property
    def reader(self) -> Reader:
        """What the reader must show."""
        return cast(Reader, self.values["reader 1"])

    def step(self) -> tuple[Rule, tuple[Request | None, Reply] | None] | None:
        """Go one step; return the rule, and the script that ran with its reply. None: nothing can happen any more."""
        # Each kind of thing is as likely as any other, however many ways there are to it, but faults are rarer.
        by_rule = [found for rule in self.model.rules if (found := list(self._moves(rule)))]
        if not by_rule:
            return None
        weights = [10 if found[0][1].fair else 1 if found[0][1].name == "cancel" else 3 for found in by_rule]
        (words, after), rule, ran = self.dice.choice(self.dice.choices(by_rule, weights)[0])
        self.cursor_before = self.reader.cursor
        self.values.update(zip(rule.writes, after, strict=True))
        if rule.costs:
            self.values[rule.costs] = cast(int, self.values[rule.costs]) - 1
        self.told.append(words)
        return rule, ran

    def catch_up(self) -> int:
        """Send the client all that there is, as the real follower does at once; return the number of frames."""
        frames = 0
        while self.reader.feed:
            words, after = self.protocol.deliver(self.reader)
            if after == self.reader:
                break
            frames += bool(words)
            self.values["reader 1"] = after
        return frames

    def _moves(self, rule: Rule) -> Iterator[tuple[Move, Rule, tuple[Request | None, Reply] | None]]:
        if rule.costs and self.values[rule.costs] == 0:
            return
        if rule.given and not rule.when(*(self.values[name] for name in rule.given)):
            return
        self.protocol.ran = None
        for move in rule.moves(*(self.values[name] for name in rule.reads)):
            ran, self.protocol.ran = self.protocol.ran, None
            if move[1] != tuple(self.values[name] for name in rule.writes) or rule.costs:
                yield move, rule, ran


class Twin:
    """The same with a real Redis."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._store = desk.store
        self._tail = Tail(desk.store)
        self._epochs: dict[int, int] = {0: 0}  # the model's, and ours
        self._snapshot: Snapshot | None = None
        self._stack = ExitStack()
        self._feed: Feed | None = None
        self._batches: AsyncIterator[Batch] | None = None
        self._begun: asyncio.Future[Batch] | None = None  # the follower's first batch, until it was taken
        self.shown: list[str] = []

    async def begin(self) -> None:
        """Submit the task."""
        self._id = await self._desk.submit()
        self._shard = self._desk.shard(self._id)

    async def follow_suit(self, walk: Walk, rule: Rule, ran: tuple[Request | None, Reply] | None) -> None:
        """Do what the model did, and compare."""
        if ran is not None:
            await self._run(*ran)
        match rule.name:
            case "lapse" | "pause":
                await self._desk.lapse(self._id)
            case "persist":
                self._snapshot = await Snapshot.take(self._desk, self._id)
            case "roll_back":
                assert self._snapshot is not None
                await self._snapshot.restore()
            case "read" | "reread" | "deliver" | "cut":
                await self._read(walk, rule.name)
            case _:
                pass
        await self._compare(walk.task)

    # ---- scripts

    async def _run(self, request: Request | None, expected: Reply) -> None:
        if request is None:
            reply = await self._store.run(Script.CANCEL, self._shard.whole(self._id), self._id)
            assert reply[0] == "ok"  # with the state, which is compared below
            return
        nonce, epoch = f"worker:{request.nonce}", self._epochs.get(request.epoch, 0)
        keys = self._shard.whole(self._id)
        match request.script:
            case "claim":
                await self._later()
                args = (self._id, nonce, LEASE_MS, MOST_TRIES, 0, "oracle")
                reply = await self._store.run(Script.CLAIM, keys, *args)
                if reply[0] == "ok":
                    self._epochs.setdefault(expected.epoch, int(reply[1]))
                    assert (int(reply[1]), int(reply[2])) == (self._epochs[expected.epoch], expected.stored)
            case "append":
                keys = [self._shard.running, self._shard.task(self._id), self._shard.log(self._id)]
                pairs = [word for token in request.outputs for word in (str(token), " ".join(map(str, token)))]
                task: list[str | int] = [self._id, epoch, nonce, "", request.first, len(request.outputs)]
                reply = str(await self._store.run(Script.APPEND, keys, LEASE_MS, *task, *pairs)).split()
                if reply[0] != "fenced":
                    assert int(reply[1]) == expected.stored
                cancel = reply[0] == "cancel"
                assert cancel == (expected.word == "ok" and expected.cancel)
                reply[0] = "ok" if cancel else reply[0]
            case "settle":
                event = real(Entry(request.epoch, request.total + 1, request.end, None, request.total)).event
                flat = [word for field in record.encode_event(event).items() for word in field]
                settle: list[str | int] = [self._id, epoch, nonce, request.end, request.total, *flat]
                reply = await self._store.run(Script.SETTLE, keys, *settle)
                if reply[0] == "gap":
                    assert int(reply[1]) == expected.stored
            case _:
                reply = await self._store.run(Script.RELEASE, keys, self._id, nonce, 0, "1")
                # To one who asks twice it says ok; the model, which has forgotten, says fenced; nobody minds.
                assert reply[0] == expected.word or (reply[0], expected.word) == ("ok", "fenced")
                return
        assert reply[0] == expected.word

    async def _later(self) -> None:
        """Wait for a millisecond in which nothing was claimed: the one thing that the protocol asks of the clock."""
        newest = max(self._epochs.values())
        while await self._now_ms() <= newest:
            pass

    async def _now_ms(self) -> int:
        seconds, micros = await self._store.command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def _compare(self, task: Task) -> None:
        key = self._shard.task(self._id)
        fields = ("state", "epoch", "nonce", "offset", "cancel", "lease_ms")
        state, epoch, nonce, offset, cancel, lease_ms = await self._store.command("HMGET", key, *fields)
        leased = state == "running" and int(lease_ms) >= await self._now_ms()
        # An ending without a claim takes an epoch of its own, which the model learns from the log.
        log = await self._desk.log.read(self._id)
        assert len(log) == len(task.log)
        for theirs, ours in zip(task.log, log, strict=True):
            self._epochs.setdefault(theirs.epoch, ours.cursor.epoch)
            assert self._translated(theirs) == _facts(ours)
        assert (state, int(epoch)) == (task.state, self._epochs[task.epoch])
        assert nonce == (f"worker:{task.nonce}" if task.nonce else "")
        assert int(offset) == task.offset
        assert (cancel == "1") == task.cancel
        if not task.over:
            assert leased == (task.leased and task.state == "running")
            assert await self._listed() == task.listed
        ranks = [self._epochs[epoch] for epoch in sorted(self._epochs)]
        assert ranks == sorted(set(ranks))

    async def _listed(self) -> bool:
        scores = [
            await self._store.command("ZSCORE", key, self._id) for key in (self._shard.waiting, self._shard.running)
        ]
        return any(score is not None for score in scores)

    def _translated(self, entry: Entry) -> tuple[object, ...]:
        theirs = real(entry)
        return _facts(theirs, self._epochs)

    # ---- the reader

    async def _read(self, walk: Walk, rule: str) -> None:
        words = walk.told[-1]
        if rule == "cut":
            await self.leave()
        elif "connects" in words:
            await self._connect(walk)
        elif self._feed is not None:
            match rule:
                case "deliver":
                    await self._take((words != "reader 1 ") + walk.catch_up())
                case "reread":
                    await self._tail._reread(self._feed)
                case _ if words.endswith("gone and reads anew"):
                    await self._tail._look([self._feed])
                case _:
                    raw = await self._tail._range(self._feed, f"({self._feed.fold.last}")
                    await self._tail._deliver(self._feed, raw)
            if self._begun is not None:
                await self._take(walk.catch_up())  # who waits is woken by the first change
        if walk.reader.done:
            await self.leave()
        if self._feed is not None:
            counted = walk.protocol.counted(walk.reader.feed).entries
            assert [_facts(entry) for entry in self._feed.fold.entries] == [
                self._translated(entry) for entry in counted
            ]
        assert self.shown == [str(token) for token in walk.reader.shown]

    async def _connect(self, walk: Walk) -> None:
        cursor = START
        if walk.cursor_before != NOWHERE:
            cursor = Cursor(self._epochs[walk.cursor_before[0]], walk.cursor_before[1])
        self._feed = self._stack.enter_context(self._tail.feed(self._id))
        await self._tail.load(self._feed)
        assert at_end(self._feed, cursor) == walk.reader.done
        if walk.reader.done:
            return
        self._batches = follow(self._feed, cursor)
        self._begun = asyncio.ensure_future(self._next())
        # It sends what there is when it begins, and so does the model here.
        await self._take(("is reset" in walk.told[-1]) + walk.catch_up())
        await asyncio.sleep(0)  # with nothing to send it waits now

    async def _take(self, frames: int) -> None:
        """Let the client have as many frames as the model's has got."""
        while frames > 0:
            async with asyncio.timeout(5):
                batch = await (self._begun or self._next())
            self._begun = None
            for part in batch:
                if isinstance(part, Reset):
                    self.shown = self.shown[: part.outputs]
                    assert part.text == "".join(self.shown)
                elif isinstance(part, LogEntry) and isinstance(part.event, Output):
                    self.shown.append(part.event.text)
                frames -= isinstance(part, Reset | LogEntry)
        assert frames == 0

    async def _next(self) -> Batch:
        assert self._batches is not None
        return await anext(self._batches)

    async def leave(self) -> None:
        """Stop reading."""
        if self._begun is not None:
            self._begun.cancel()
            await asyncio.wait([self._begun])
        self._stack.close()
        self._feed = self._batches = self._begun = None


def _facts(entry: LogEntry, epochs: Mapping[int, int] | None = None) -> tuple[object, ...]:
    """What model and code both know of an entry; ``epochs`` translates."""

    def place(cursor: Cursor) -> tuple[int, int]:
        return (cursor.epoch if epochs is None else epochs[cursor.epoch]), cursor.offset

    event = entry.event
    facts: tuple[object, ...] = (place(entry.cursor), type(event))
    if isinstance(event, Output):
        return *facts, event.text, event.token_ids
    return facts if isinstance(event, Queued) else (*facts, event.kept, place(event.previous))


async def walked(desk: Desk, protocol: type[Recorded], walks: int) -> tuple[Counter[str], set[tuple[str, str]]]:
    """Walk, and return how often each rule was taken, and which script said what."""
    rules: Counter[str] = Counter()
    heard: set[tuple[str, str]] = set()
    for seed in range(walks):
        walk, twin = Walk(seed, protocol()), Twin(desk)
        await twin.begin()
        try:
            while stepped := walk.step():
                rule, ran = stepped
                await twin.follow_suit(walk, rule, ran)
                rules[rule.name] += 1
                if ran is not None and ran[0] is not None:
                    heard.add((ran[0].script, ran[1].word))
        except AssertionError as error:
            raise AssertionError(f"walk {seed}, after: {'; '.join(walk.told)}") from error
        finally:
            await twin.leave()
    return rules, heard


async def test_whatever_happens_in_the_model_happens_in_redis_just_so(desk: Desk) -> None:
    """Random runs with every fault, to their end; each rule was taken often, and each reply that there is was heard."""
    rules, heard = await walked(desk, Recorded, WALKS)

    possible = {rule.name for rule in World(Protocol(), BOUNDS).model().rules if not rule.costs or rule.costs in FAULTS}
    assert set(rules) == possible
    assert min(rules.values()) > 20, rules
    assert heard >= {
        *(("claim", word) for word in ("ok", "busy", "gone", "ended")),
        *(("append", word) for word in ("ok", "gap", "fenced")),
        *(("settle", word) for word in ("ok", "gap", "fenced")),
        *(("release", word) for word in ("ok", "fenced")),
    }


@pytest.mark.parametrize("mutant", [NoNonce, NoGap, BlindSettle, SharedNonce, NoClaimEntry, LengthsOnly])
async def test_a_model_of_something_else_is_found_out(desk: Desk, mutant: type[Protocol]) -> None:
    """The walks tell the real scripts and the real reader from each of these."""
    with pytest.raises((AssertionError, KeyError)):
        await walked(desk, type("Mutant", (Recorded, mutant), {}), WALKS)
