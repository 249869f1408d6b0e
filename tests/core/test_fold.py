"""What a log says: the fold against a small model of Redis that loses its newest writes, which workers refill."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sibyl.core.cursor import START, Cursor
from sibyl.core.event import Cancelled, Completed, Entry, Event, Expired, Failed, Output, Queued, Started, Terminal
from sibyl.core.fold import Fold, outputs_of
from sibyl.core.task import Usage

QUEUED = Entry(Cursor(0, 1), Queued())
USAGE = Usage(prompt_tokens=1, completion_tokens=2)


@dataclass(frozen=True)
class Redis:
    """What Redis holds of one task: its hash, its log, and the answer as a human would write it down."""

    log: tuple[Entry, ...] = (QUEUED,)
    epoch: int = 0
    owner: int | None = None
    answer: tuple[Output, ...] = ()
    over: bool = False
    torn: bool = False  #: the log holds an output that the hash does not know of

    def add(self, cursor: Cursor, event: Event) -> "Redis":
        """XADD, which refuses an id that is not above the newest."""
        assert cursor > self.log[-1].cursor
        return replace(self, log=(*self.log, Entry(cursor, event)))


@dataclass
class World:
    """Redis, the workers that ever claimed the task with what they remember, and a reader."""

    redis: Redis = field(default_factory=Redis)
    past: list[Redis] = field(default_factory=list)
    clock: int = 10
    memory: dict[int, list[Output]] = field(default_factory=dict)  #: each owner's outputs, also those that Redis lost
    reader: Fold = field(default_factory=Fold)

    def write(self, redis: Redis) -> None:
        """Keep what Redis may fall back to."""
        self.past.append(self.redis)
        self.redis = redis

    def claim(self) -> None:
        """A worker takes the task; it goes on after what is stored."""
        now = self.redis
        if now.over:
            return
        self.clock += 1
        epoch = max(now.epoch + 1, self.clock)
        kept = len(now.answer)
        started = Started(attempt=1, model="m", kept=kept, previous=now.log[-1].cursor)
        self.memory[epoch] = list(now.answer)
        self.write(replace(now.add(Cursor(epoch, kept), started), epoch=epoch, owner=epoch, torn=False))

    def append(self) -> None:
        """The owner appends one output: first those that Redis lost, from memory, then a new one."""
        now = self.redis
        if now.over or now.owner is None:
            return
        number = len(now.answer) + 1
        memory = self.memory[now.owner]
        if len(memory) < number:
            memory.append(Output(text=f"<{now.epoch}.{number}>", token_ids=(now.epoch, number)))
        cursor = Cursor(now.epoch, number)
        if cursor <= now.log[-1].cursor:  # torn: refused until somebody claims the task
            return
        output = memory[number - 1]
        self.write(replace(now.add(cursor, output), answer=(*now.answer, output)))

    def tear(self) -> None:
        """Half of an append survives: the entry without the hash."""
        now = self.redis
        self.append()
        if len(self.redis.answer) > len(now.answer):
            self.redis = replace(self.redis, answer=now.answer, torn=True)

    def settle(self) -> None:
        """The owner ends the task."""
        now = self.redis
        if now.over or now.owner is None or now.torn:
            return
        kept = len(now.answer)
        end = Completed(text_length=0, usage=USAGE, finish_reason="stop", kept=kept)
        self.write(replace(now.add(Cursor(now.epoch, kept + 1), end), over=True))

    def end_unheld(self, end: Terminal) -> None:
        """Cancel, deadline or too many attempts, when nobody holds the task."""
        now = self.redis
        if now.over:
            return
        self.clock += 1
        epoch = max(now.epoch + 1, self.clock)
        kept = len(now.answer)
        event = replace(end, kept=kept, previous=now.log[-1].cursor)
        self.write(replace(now.add(Cursor(epoch, kept + 1), event), epoch=epoch, over=True, torn=False))

    def lose(self, writes: int) -> None:
        """Redis comes back without its newest writes."""
        for _ in range(min(writes, len(self.past))):
            self.redis = self.past.pop()

    def read(self) -> None:
        """The reader takes what XREAD gives after its last id; what cannot follow makes it read the whole log."""
        for place, entry in enumerate(self.redis.log):
            if entry.cursor <= self.reader.last:
                continue
            if not self.reader.append(entry):
                self.reader = Fold(self.redis.log)
                return
            fresh = Fold(self.redis.log[: place + 1])
            assert self.reader.entries == fresh.entries
            assert (self.reader.outputs, self.reader.epoch) == (fresh.outputs, fresh.epoch)
            assert (self.reader.last, self.reader.terminal) == (fresh.last, fresh.terminal)


ENDS: list[Terminal] = [Cancelled(), Expired(), Failed(code="worker_lost", message="Lost.")]
STEPS = st.one_of(
    st.just(("claim", 0)),
    st.just(("append", 0)),
    st.just(("append", 0)),
    st.just(("append", 0)),
    st.just(("tear", 0)),
    st.just(("settle", 0)),
    st.tuples(st.just("end"), st.integers(0, len(ENDS) - 1)),
    st.tuples(st.just("lose"), st.integers(1, 6)),
    st.just(("read", 0)),
    st.just(("read", 0)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_every_reader_sees_what_redis_holds(steps: list[tuple[str, int]]) -> None:
    """Through claims, lost tails, refilled tails and torn writes: the fold is the answer, and growing it by entries
    that ``follows`` accepts never differs from folding the log anew.
    """
    world = World()
    for step, number in steps:
        match step:
            case "claim":
                world.claim()
            case "append":
                world.append()
            case "tear":
                world.tear()
            case "settle":
                world.settle()
            case "end":
                world.end_unheld(ENDS[number])
            case "lose":
                world.lose(number)
            case _:
                world.read()
        fold = Fold(world.redis.log)
        assert fold.terminal == world.redis.over
        assert len([entry for entry in fold.entries if isinstance(entry.event, Terminal)]) == int(world.redis.over)
        assert fold.outputs == len(fold.answer())
        assert fold.last == world.redis.log[-1].cursor
        if not world.redis.torn:
            assert fold.answer() == world.redis.answer
            assert fold.text() == "".join(output.text for output in world.redis.answer)


def output(epoch: int, number: int) -> Entry:
    """An output in its place."""
    return Entry(Cursor(epoch, number), Output(text=f"{epoch}.{number} "))


def started(epoch: int, kept: int, previous: Cursor) -> Entry:
    """A claim in its place."""
    return Entry(Cursor(epoch, kept), Started(attempt=1, model="m", kept=kept, previous=previous))


def test_an_empty_fold_says_nothing() -> None:
    """It stands before every event."""
    fold = Fold()

    assert (fold.entries, fold.outputs, fold.last, fold.terminal, fold.text()) == ([], 0, START, False, "")


def test_a_takeover_voids_what_its_claim_does_not_keep() -> None:
    """Outputs above ``kept`` leave the answer, and stay in the log."""
    log = [QUEUED, started(5, 0, QUEUED.cursor), output(5, 1), output(5, 2), started(9, 1, Cursor(5, 2)), output(9, 2)]

    assert Fold(log).text() == "5.1 9.2 "


def test_a_stray_output_is_skipped() -> None:
    """An output whose number does not follow came from a torn write; the answer goes on without it."""
    log = [QUEUED, started(5, 0, QUEUED.cursor), output(5, 1), output(5, 3)]
    fold = Fold(log)

    assert fold.text() == "5.1 "
    assert fold.last == Cursor(5, 3)


def test_a_takeover_after_a_torn_end_takes_the_end_back() -> None:
    """Half of a settle survived, then the task was claimed again: the log has one end, the last one."""
    end = Completed(text_length=4, usage=USAGE, finish_reason="stop", kept=1)
    log = [QUEUED, started(5, 0, QUEUED.cursor), output(5, 1), Entry(Cursor(5, 2), end)]
    again = Fold([*log, started(9, 1, Cursor(5, 2)), output(9, 2)])

    assert Fold(log).terminal
    assert not again.terminal
    assert not any(isinstance(entry.event, Terminal) for entry in again.entries)
    assert again.text() == "5.1 9.2 "


@pytest.mark.parametrize(
    "entry",
    [
        output(5, 1),
        output(5, 3),
        output(6, 2),
        output(4, 2),
        started(9, 0, Cursor(5, 1)),
        started(9, 1, Cursor(5, 0)),
        started(4, 1, Cursor(5, 1)),
        Entry(Cursor(5, 2), Queued()),
        Entry(Cursor(5, 3), Cancelled(kept=2)),
        Entry(Cursor(6, 2), Cancelled(kept=1)),
        Entry(Cursor(5, 2), Cancelled(kept=0)),
        Entry(Cursor(9, 2), Cancelled(kept=1, previous=Cursor(4, 1))),
    ],
    ids=lambda entry: f"{type(entry.event).__name__} {entry.cursor}",
)
def test_what_cannot_follow_is_refused_and_changes_nothing(entry: Entry) -> None:
    """Another owner's, a gap, a repeat, or an end that takes something back: the log must be read anew."""
    log = [QUEUED, started(5, 0, QUEUED.cursor), output(5, 1)]
    fold = Fold(log)

    assert not fold.append(entry)
    assert fold.entries == log
    assert (fold.outputs, fold.last, fold.terminal) == (1, Cursor(5, 1), False)


def test_nothing_follows_an_end() -> None:
    """Not even what would follow otherwise."""
    fold = Fold([QUEUED, Entry(Cursor(7, 1), Cancelled(previous=QUEUED.cursor))])

    assert fold.terminal
    assert not fold.follows(started(9, 0, Cursor(7, 1)))


def test_outputs_are_picked_from_entries() -> None:
    """In order, and nothing else."""
    entries = [QUEUED, started(5, 0, QUEUED.cursor), output(5, 1), output(5, 2)]

    assert [one.text for one in outputs_of(entries)] == ["5.1 ", "5.2 "]
