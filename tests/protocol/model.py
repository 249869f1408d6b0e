"""One task, its workers, its readers, a clock and a Redis that forgets: the protocol as a model to check.

Each worker and each reader goes on whenever it likes, or does not for as long as it likes, so a paused zombie that
comes back is among the runs without a rule of its own. A lost reply and a late request are one fault: a copy of a
request runs at any later time, and the worker, that has heard nothing, sends it again. What Redis comes back with after
a fault is what it held at any one moment before, also in the middle of a script.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from tests.protocol.checker import Model, Move, Part, Property, Rule
from tests.protocol.reading import Reader, Reading
from tests.protocol.scripts import Reply, Request, Scripts
from tests.protocol.task import Answer, Task, Token, spell, splice_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much there is of everything, and how often each fault may happen. Within it, all is explored."""

    workers: int = 2
    readers: int = 1
    tokens: int = 2  #: of the whole answer
    crashes: int = 0  #: a worker dies, and a new one begins
    pauses: int = 0  #: a lease runs out although its holder lives
    copies: int = 0  #: requests whose reply is lost, and that run late
    rollbacks: int = 0  #: Redis loses its newest writes
    torn: bool = False  #: also in the middle of a script
    drains: int = 0  #: a worker gives its task back
    cancels: int = 0  #: the client asks to stop
    cuts: int = 0  #: a reader loses its connection
    clock_steps: int = 0  #: Redis' clock goes back, to a moment that was before


FAULTS = ("crashes", "pauses", "copies", "rollbacks", "drains", "cancels", "cuts", "clock_steps")


class Worker(NamedTuple):
    """A worker's slot."""

    phase: str = "idle"  #: idle, successor (of one that died), claiming (again), reading (the log), running, settling
    floor: int = 0
    epoch: int = 0
    nonce: int = 0
    outputs: Answer = ()
    stored: int = 0  #: of them, as far as it knows
    stopping: bool = False  #: it has heard of the cancel

    @property
    def writes(self) -> bool:
        """Whether it has a lease, for all it knows, and the answer so far."""
        return self.phase in ("running", "settling")

    def __str__(self) -> str:
        if not self.writes:
            return self.phase
        return f"{self.phase} {self.epoch}, nonce {self.nonce}, {spell(self.outputs)}, {self.stored} stored"


class Clock(NamedTuple):
    """Times and nonces, as small numbers."""

    now: int = 1
    nonces: int = 0  #: used so far


class Protocol(Scripts, Reading):
    """What is checked; ``mutants`` have one decision taken away each."""

    bounds: ClassVar[Bounds]  #: of a mutant: within which it is refuted

    def stored_outputs(self, task: Task) -> Answer:
        """What a worker takes for the outputs of earlier attempts."""
        return self.counted(task.log).answer


class World:
    """A protocol within bounds, as a model."""

    def __init__(self, protocol: Protocol, bounds: Bounds) -> None:
        self.protocol = protocol
        self.bounds = bounds
        self._counts_floors = bounds.clock_steps > 0  # else the clock is above every floor, and floors only cost states

    def model(self) -> Model:
        """Return the parts, the rules and the properties."""
        workers = tuple(f"worker {number}" for number in range(1, self.bounds.workers + 1))
        readers = tuple(f"reader {number}" for number in range(1, self.bounds.readers + 1))
        return Model(
            parts=[
                Part(name="task", initial=Task(), bits=18),
                Part(name="saved", initial=None, bits=18),
                Part(name="clock", initial=Clock(), bits=8),
                Part(name="late", initial=None, bits=12),
                *(Part(name=name, initial=Worker(), bits=14) for name in workers),
                *(Part(name=name, initial=Reader(), bits=18) for name in readers),
                *(Part(name=fault, initial=getattr(self.bounds, fault), budget=True) for fault in FAULTS),
            ],
            rules=list(self._rules(workers, readers)),
            always=[
                Property(name="only the holder writes", parts=("task",), wrong=self.foreign),
                Property(name="one answer", parts=("task",), wrong=self.spliced),
                Property(name="one end", parts=("task",), wrong=self.ends),
                *(Property(name="no spliced view", parts=(name,), wrong=self.spliced_view) for name in readers),
                *(Property(name="ids rise", parts=(name,), wrong=self.went_back) for name in readers),
                *(Property(name="no silent lie", parts=("task", name), wrong=self.silently_wrong) for name in readers),
            ],
            at_rest=[
                Property(name="nothing stuck", parts=("task", *workers), wrong=self.unfinished),
                *(Property(name="no reader stuck", parts=(name,), wrong=self.reader_stuck) for name in readers),
            ],
            alike=(workers, readers),
            show=self.show,
        )

    def _rules(self, workers: tuple[str, ...], readers: tuple[str, ...]) -> Iterator[Rule]:
        table: list[_Row] = [
            # moves           reads                   writes                    costs          only if
            (self.arrive_late, "task clock late", "task clock late", "", ("late", bool)),
            (self.lapse, "task WORKERS", "task", "", ("task", _leased)),
            (self.pause, "task", "task", "pauses", ("task", _leased)),
            (self.persist, "task", "saved", "-", ("rollbacks saved", _nothing_saved)),
            (self.roll_back, "saved rollbacks", "task saved", "rollbacks", ("saved", bool)),
            (self.resurrect, "task", "task", "-", ("task", _dangles)),
            (self.cancel, "task clock", "task clock", "cancels", ("task", _unfinished)),
            (self.step_clock, "clock", "clock", "clock_steps", ("", bool)),
            (self.work, "task clock WORKER", "task clock WORKER", "", ("", bool)),
            (self.tear, "task clock WORKER", "task clock WORKER saved", "-", ("rollbacks saved", _nothing_saved)),
            (self.leave_copy, "task clock WORKER", "clock WORKER late", "copies", ("late", _nothing_late)),
            (self.crash, "WORKER", "WORKER", "crashes", ("", bool)),
            (self.drain, "task WORKER", "task WORKER", "drains", ("", bool)),
            (self.read, "task READER", "READER", "", ("", bool)),
            (self.deliver, "READER", "READER", "", ("", bool)),
            (self.reread, "task READER", "READER", "-", ("", bool)),
            (self.cut, "READER", "READER", "cuts", ("", bool)),
        ]
        idle: list[Callable[..., Iterator[Move]]] = []  # without which nothing is missed within these bounds
        idle += [self.arrive_late] if not self.bounds.copies else []
        idle += [self.persist, self.roll_back] if not self.bounds.rollbacks else []
        idle += [self.tear, self.resurrect] if not self.bounds.torn else []
        for moves, reads, writes, costs, (given, when) in table:
            if moves in idle:
                continue
            words = reads.split()
            for who in workers if "WORKER" in words else readers if "READER" in words else ("",):
                places = {"WORKER": (who,), "READER": (who,), "WORKERS": workers}
                yield Rule(
                    name=moves.__name__,
                    reads=_parts(reads, places),
                    writes=_parts(writes, places),
                    moves=_Named(who, moves) if who else moves,
                    costs=costs.strip("-"),
                    fair=not costs,
                    given=tuple(given.split()),
                    when=when,
                )

    def show(self, values: Mapping[str, Hashable]) -> str:
        """Return a state in words: what is not as it always is."""
        shown = [str(values["task"])]
        shown += [f"{name}: {value}" for name, value in values.items() if isinstance(value, Worker | Reader)]
        shown += [f"{name}: {values[name]}" for name in ("late", "saved") if values[name] is not None]
        return "\n      ".join(shown)

    # ---- workers

    def request(self, worker: Worker, clock: Clock) -> tuple[Request | None, Worker]:
        """What the worker sends next, and what it is while it waits for the reply."""
        match worker.phase:
            case "successor":
                return Request("release", worker.nonce), worker
            case "idle":
                worker = worker._replace(phase="claiming", nonce=clock.nonces + 1)
                return Request("claim", worker.nonce, floor=worker.floor), worker
            case "claiming":
                return Request("claim", worker.nonce, floor=worker.floor), worker
            case "reading":
                return None, worker
        written, lease = len(worker.outputs), (worker.nonce, worker.epoch)
        if worker.stored == written and (worker.stopping or written == self.bounds.tokens):
            end = "cancelled" if worker.stopping else "completed"
            return Request("settle", *lease, total=written, end=end), worker._replace(phase="settling")
        if worker.stored == written:
            before = worker.outputs[-1].attempt if worker.outputs else 0
            token = Token(written + 1, worker.nonce, before)
            worker = worker._replace(outputs=(*worker.outputs, token))
        first = worker.stored + 1
        return Request("append", *lease, first, worker.outputs[first - 1 :]), worker

    def heard(self, worker: Worker, request: Request, reply: Reply) -> Worker:
        """What the worker makes of a reply."""
        idle = Worker(floor=worker.floor)
        match request.script, reply.word:
            case "claim", "ok":
                floor = max(worker.floor, reply.epoch) if self._counts_floors else 0
                return Worker("reading", floor, reply.epoch, worker.nonce)
            case "append", "ok" if worker.phase == "settling" and reply.cancel:
                return idle  # gives up; the next claim ends the task
            case "append", "ok":
                return worker._replace(stored=len(worker.outputs), stopping=worker.stopping or reply.cancel)
            case "append" | "settle", "gap":
                return worker._replace(stored=reply.stored)
            case _:
                return idle  # settled; fenced; refused by Redis, and so given up; nothing to claim

    def work(self, task: Task, clock: Clock, worker: Worker) -> Iterator[Move]:
        """A worker sends its next request and hears the reply."""
        if worker.phase == "reading":
            outputs = self.protocol.stored_outputs(task)
            after = worker._replace(phase="running", outputs=outputs, stored=len(outputs))
            yield f"reads the log: {spell(outputs)}", (task, clock, after)
            return
        if worker.phase == "idle" and not self._offered(task):
            return
        for request, waiting in self._requests(worker, clock):
            ran = self.protocol.run(request, task, clock.now)
            after = self.heard(waiting, request, ran.reply)
            used = clock._replace(now=ran.clock, nonces=max(clock.nonces, waiting.nonce))
            yield f"{request}: {ran.reply}", (ran.task, used, after)

    def _requests(self, worker: Worker, clock: Clock) -> Iterator[tuple[Request, Worker]]:
        request, waiting = self.request(worker, clock)
        if request is not None:
            yield request, waiting
        if worker.phase == "running":  # the heartbeat
            first = len(worker.outputs) + 1
            if request is None or request.script != "append" or worker.stored == len(worker.outputs):
                yield Request("append", worker.nonce, worker.epoch, first), worker

    def tear(self, task: Task, clock: Clock, worker: Worker) -> Iterator[Move]:
        """A worker's script runs, of which a Redis would come back with the first writes only."""
        if worker.phase == "reading" or (worker.phase == "idle" and not self._offered(task)):
            return
        for request, waiting in self._requests(worker, clock):
            ran = self.protocol.run(request, task, clock.now)
            after = self.heard(waiting, request, ran.reply)
            used = clock._replace(now=ran.clock, nonces=max(clock.nonces, waiting.nonce))
            for half in ran.torn:
                yield f"{request}: {ran.reply}; only its first writes are on disk", (ran.task, used, after, half)

    def leave_copy(self, task: Task, clock: Clock, worker: Worker) -> Iterator[Move]:
        """A request gets stuck in the network; the worker hears nothing and will send it again."""
        if worker.phase == "reading" or (worker.phase == "idle" and not self._offered(task)):
            return
        request, waiting = self.request(worker, clock)
        assert request is not None
        used = clock._replace(nonces=max(clock.nonces, waiting.nonce))
        yield f"{request}, which is slow to arrive", (used, waiting, request)

    def crash(self, worker: Worker) -> Iterator[Move]:
        """A worker dies. A new one begins, which gives back what the dead one held if it knows of it."""
        if worker.phase not in ("idle", "successor"):
            yield "dies; a new one begins", (Worker(),)
            yield "dies; its successor begins", (Worker("successor", nonce=worker.nonce),)

    def drain(self, task: Task, worker: Worker) -> Iterator[Move]:
        """A worker gives its task back, unfinished."""
        if worker.phase == "running" and worker.stored == len(worker.outputs):
            request = Request("release", worker.nonce)
            ran = self.protocol.run(request, task, 0)
            yield f"drains, {request}: {ran.reply}", (ran.task, Worker(floor=worker.floor))

    # ---- the network, time, and Redis

    def arrive_late(self, task: Task, clock: Clock, late: Request) -> Iterator[Move]:
        """A copy of a request arrives; nobody hears the reply."""
        ran = self.protocol.run(late, task, clock.now)
        yield f"late, {late} arrives: {ran.reply}", (ran.task, clock._replace(now=ran.clock), None)

    def lapse(self, task: Task, *workers: Worker) -> Iterator[Move]:
        """A lease runs out that nobody renews."""
        held = {(worker.epoch, worker.nonce) for worker in workers if worker.phase == "reading" or worker.writes}
        if (task.epoch, task.nonce) not in held:
            yield "the lease runs out", (task._replace(leased=False),)

    def pause(self, task: Task) -> Iterator[Move]:
        """A lease runs out because its holder is stopped, or cut off, for long."""
        yield "the lease runs out, its holder being away", (task._replace(leased=False),)

    def persist(self, task: Task) -> Iterator[Move]:
        """What Redis holds at this moment is what it will come back with."""
        yield "this is on disk; nothing later is", (task,)

    def roll_back(self, saved: Task, rollbacks: int) -> Iterator[Move]:
        """Redis loses what came after."""
        yield "REDIS LOSES ITS NEWEST WRITES", (saved, saved if rollbacks > 1 else None)  # it may lose them again

    def resurrect(self, task: Task) -> Iterator[Move]:
        """Redis is restarted once more after a torn script, see ``Scripts.resurrected``."""
        yield "REDIS RESTARTS AND RUNS HALF OF THE LOST SCRIPT", (self.protocol.resurrected(task),)

    def cancel(self, task: Task, clock: Clock) -> Iterator[Move]:
        """The client asks to stop."""
        ran = self.protocol.cancel(task, clock.now)
        yield f"cancel: {ran.reply}", (ran.task, clock._replace(now=ran.clock))

    def step_clock(self, clock: Clock) -> Iterator[Move]:
        """Redis' clock is set back, or a replica takes over whose clock is behind."""
        for now in range(1, clock.now):
            yield f"the clock goes back from {clock.now} to {now}", (clock._replace(now=now),)

    @staticmethod
    def _offered(task: Task) -> bool:
        """due.lua: whether workers are told of it."""
        return task.listed and (task.state != "running" or not task.leased)

    # ---- readers

    def read(self, task: Task, reader: Reader) -> Iterator[Move]:
        """It connects; or the tail gets what is new; or it looks whether its last entry is still there."""
        protocol = self.protocol
        if reader.done:
            return
        if not reader.feed:
            words, after = protocol.connect(reader, task.log)
            yield words, (after,)
        elif not protocol.counted(reader.feed).terminal:
            for words, after in (protocol.poll(reader, task.log), protocol.check(reader, task.log)):
                yield words, (after,)

    def deliver(self, reader: Reader) -> Iterator[Move]:
        """The client gets one frame more."""
        if reader.feed:
            words, after = self.protocol.deliver(reader)
            yield words, (after,)

    def reread(self, task: Task, reader: Reader) -> Iterator[Move]:
        """The tail lost its connection to Redis, and reads the whole log."""
        if reader.feed and not self.protocol.counted(reader.feed).terminal:
            yield "reads the log anew", (reader._replace(feed=task.log),)

    def cut(self, reader: Reader) -> Iterator[Move]:
        """The client's connection breaks."""
        if reader.feed:
            yield "loses its connection", (Reader(cursor=reader.cursor, shown=reader.shown),)

    # ---- what must hold

    def foreign(self, task: Task) -> str:
        """A worker that lost its lease is refused on every write."""
        return "a write was accepted from one who does not hold the lease" if task.foreign else ""

    def spliced(self, task: Task) -> str:
        """The stored answer is the beginning of one model's answer, and all of it once it is completed."""
        answer = self.protocol.counted(task.log).answer
        if task.state == "completed" and len(answer) != self.bounds.tokens:
            return f"it is completed, and the answer is {spell(answer)}"
        return splice_in(answer)

    def ends(self, task: Task) -> str:
        """Of a task that is over, exactly one terminal entry counts, the last."""
        kinds = [entry.kind for entry in self.protocol.counted(task.log).entries]
        ends = [kind for kind in kinds if kind in ("completed", "cancelled")]
        if task.over and (ends != [task.state] or kinds[-1] != task.state):
            return f"it is {task.state}, and these ends count: {ends}"
        return f"{len(ends)} ends count" if len(ends) > 1 else ""

    def spliced_view(self, reader: Reader) -> str:
        """What a reader shows is the beginning of one model's answer."""
        return splice_in(reader.shown)

    def went_back(self, reader: Reader) -> str:
        """A reader's ids rise, or a reset tells it otherwise."""
        return f"its ids went back to {reader.cursor}" if reader.went_back else ""

    def silently_wrong(self, task: Task, reader: Reader) -> str:
        """A reader that has all and can notice nothing, neither by reading on nor by looking, shows what is stored."""
        entries, answer, _ = self.protocol.counted(task.log)
        if reader.done:
            # Its end may have been lost by Redis after it left; that it cannot know.
            current = bool(entries) and entries[-1].id == reader.cursor
        else:
            current = bool(reader.feed) and reader.feed[-1].id == task.last
            current = current and reader.seen == self.protocol.counted(reader.feed).entries
        if current and reader.shown != answer:
            return f"it shows {spell(reader.shown)}, and stored is {spell(answer)}"
        return ""

    def unfinished(self, task: Task, *workers: Worker) -> str:
        """A task is finished if there is a worker."""
        if not task.over:
            return f"it stays {task.state} for ever"
        busy = [worker for worker in workers if worker.phase != "idle"]
        return f"a worker stays {busy[0]} for ever" if busy else ""

    def reader_stuck(self, reader: Reader) -> str:
        """Every stream ends."""
        return "" if reader.done else f"a reader waits for ever: {reader}"


_Row = tuple[Callable[..., Iterator[Move]], str, str, str, tuple[str, Callable[..., bool]]]


def _parts(names: str, places: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(part for name in names.split() for part in places.get(name, (name,)))


def _leased(task: Task) -> bool:
    return task.state == "running" and task.leased


def _dangles(task: Task) -> bool:
    return task.dangling is not None


def _unfinished(task: Task) -> bool:
    return not task.over


def _nothing_saved(rollbacks: int, saved: Task | None) -> bool:
    return rollbacks > 0 and saved is None


def _nothing_late(late: Request | None) -> bool:
    return late is None


class _Named:
    """Moves whose words begin with who does it."""

    def __init__(self, who: str, moves: Callable[..., Iterator[Move]]) -> None:
        self._who = who
        self._moves = moves

    def __call__(self, *values: Hashable) -> Iterator[Move]:
        for words, after in self._moves(*values):
            yield f"{self._who} {words}", after
