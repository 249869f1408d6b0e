"""The queue as it ought to be: the whole protocol in plain values. No Redis, no clock, no reply that gets lost.

Time is told: a lease ends when ``lapse`` says so, a deadline passes with ``pass_deadline``, retention with ``forget``.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count

ENDED = ("completed", "failed", "cancelled", "expired")
Entry = str | tuple[object, ...]  # the text of an output, or what happened


@dataclass(kw_only=True)
class PureTask:
    """A task."""

    id: str
    owner: str
    band: int
    start: int
    state: str = "queued"
    epoch: int = 0
    nonce: str = ""  #: of the holder; empty when it was given back
    released: str = ""
    attempt: int = 0
    tries: int = 0
    claimed_at: int = 0  #: outputs that were stored when it was claimed
    ended_lease: int | None = None  #: the number of its lease's end; None while it lasts, or before it is claimable
    cancel: bool = False
    overdue: bool = False
    outputs: list[str] = field(default_factory=list)
    log: list[Entry] = field(default_factory=lambda: [("queued",)])

    @property
    def held(self) -> bool:
        """Whether a worker may write to it."""
        return self.state == "running" and self.nonce != "" and self.ended_lease is None


@dataclass(frozen=True)
class PureLease:
    """The right to write to a task."""

    task_id: str
    epoch: int
    nonce: str


class PureQueue:
    """All tasks, and who is next."""

    def __init__(self, *, queue_tasks: int, owner_tasks: int, most_tries: int) -> None:
        self.limits = (queue_tasks, owner_tasks, most_tries)
        self.tasks: dict[str, PureTask] = {}
        self.gone: set[str] = set()  #: finished, erased or forgotten
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}  #: (owner, key) -> (task, request)
        self.dead: list[str] = []
        self.mine: dict[str, set[str]] = {}
        self.clock = 0
        self.finish: dict[str, int] = {}
        self._ends = 1
        self._epochs = count(1)  # goes by time, and so on and on also when writes are lost

    # ---- what is

    def waiting(self) -> list[PureTask]:
        """Who waits, next first. Redis orders equals by id."""
        return sorted((t for t in self.tasks.values() if t.state == "queued"), key=lambda t: (t.band, t.start, t.id))

    def abandoned(self) -> list[PureTask]:
        """Whose lease has ended, longest ago first."""
        found = ((t.ended_lease, t) for t in self.tasks.values() if t.state == "running" and t.ended_lease is not None)
        return [task for _, task in sorted(found, key=lambda pair: pair[0])]

    def open(self) -> dict[str, int]:
        """Unfinished tasks of each owner who has any."""
        counts: dict[str, int] = {}
        for task in self.unfinished():
            counts[task.owner] = counts.get(task.owner, 0) + 1
        return counts

    def unfinished(self) -> Iterator[PureTask]:
        """Tasks that something still has to happen to."""
        return (task for task in self.tasks.values() if task.state not in ENDED)

    def missing(self, task_id: str) -> str:
        """What is wrong with an id that no task has."""
        return "TaskForgotten" if task_id in self.gone else "UnknownTask"

    def holds(self, lease: PureLease) -> PureTask | None:
        """The task that may be written to with this lease."""
        task = self.tasks.get(lease.task_id)
        mine = task is not None and (task.state, task.epoch, task.nonce) == ("running", lease.epoch, lease.nonce)
        return task if mine else None

    # ---- the client's side

    def submit(self, task_id: str, owner: str, priority: int, key: str | None, request: str) -> str:
        """Return the id of the task, or the name of the refusal."""
        queue_tasks, owner_tasks, _ = self.limits
        if key is not None and (owner, key) in self.keys:
            known_id, known_request = self.keys[owner, key]
            return known_id if request == known_request else "IdempotencyMismatch"
        if len(self.waiting()) >= queue_tasks:
            return "QueueFull"
        if self.open().get(owner, 0) >= owner_tasks:
            return "TooManyTasks"
        start = max(self.clock, self.finish.get(owner, 0))
        self.finish[owner] = start + 1
        self.tasks[task_id] = PureTask(id=task_id, owner=owner, band=9 - priority, start=start)
        self.mine.setdefault(owner, set()).add(task_id)
        if key is not None:
            self.keys[owner, key] = (task_id, request)
        return task_id

    def cancel(self, task_id: str) -> str:
        """Return the state after it, or what is wrong with the id."""
        if task_id not in self.tasks:
            return self.missing(task_id)
        task = self.tasks[task_id]
        if task.state not in ENDED:
            task.cancel = True
            if not task.held:
                self._end_unheld(task, "cancelled")
        return task.state

    def erase(self, task_id: str) -> str:
        """Return "ok", or what is wrong with the id."""
        if task_id not in self.tasks:
            return self.missing(task_id)
        task = self.tasks.pop(task_id)
        self.mine[task.owner].discard(task_id)
        self.dead = [dead for dead in self.dead if dead != task_id]
        self.gone.add(task_id)
        if task.state not in ENDED:
            self._close(task.owner)
        return "ok"

    # ---- the worker's side

    def claim(self, nonce: str) -> PureTask | None:
        """Return the task that is next, after ending what must not run."""
        for task in (*self.abandoned(), *self.waiting()):
            if self.claim_one(task.id, nonce) == "ok":
                return task
        return None

    def claim_one(self, task_id: str, nonce: str) -> str:
        """Return "ok", "ended", "busy" or "gone"."""
        task = self.tasks.get(task_id)
        if task is None or task.state in ENDED:
            return "gone"
        if task.state == "running" and task.nonce == nonce:
            return "ok"
        if task.state == "running" and task.ended_lease is None:
            return "busy"
        stored = len(task.outputs)
        tries = 0 if stored > task.claimed_at else task.tries
        if task.cancel:
            self._end_unheld(task, "cancelled")
        elif task.overdue:
            self._end_unheld(task, "expired")
        elif tries >= self.limits[2]:
            self.dead.append(task.id)
            self._end_unheld(task, "failed")
        if task.state in ENDED:
            return "ended"
        task.state, task.nonce, task.ended_lease = "running", nonce, None
        task.epoch = next(self._epochs)
        task.attempt += 1
        task.tries, task.claimed_at = tries + 1, stored
        task.log.append(("started", task.attempt, stored))
        if task.start > self.clock:
            self.clock = task.start
            self.finish = {owner: finish for owner, finish in self.finish.items() if finish > self.clock}
        return "ok"

    def append(self, lease: PureLease, first: int, texts: list[str]) -> tuple[object, ...]:
        """Return ("stored", number, cancelled), ("gap", number) or ("LeaseLost",)."""
        task = self.holds(lease)
        if task is None:
            return ("LeaseLost",)
        stored = len(task.outputs)
        if first > stored + 1:
            return ("gap", stored)
        new = texts[stored + 1 - first :]
        task.outputs += new
        task.log += new
        task.ended_lease = None
        return ("stored", len(task.outputs), task.cancel)

    def settle(self, lease: PureLease, stored: int, end: str) -> tuple[object, ...]:
        """Return ("ok",), ("gap", number) or ("LeaseLost",)."""
        known = self.tasks.get(lease.task_id)
        if known is not None and (known.state, known.epoch, known.nonce) == (end, lease.epoch, lease.nonce):
            return ("ok",)
        task = self.holds(lease)
        if task is None:
            return ("LeaseLost",)
        if stored != len(task.outputs):
            return ("gap", len(task.outputs))
        self._end(task, end)
        return ("ok",)

    def release(self, task_id: str, nonce: str, *, at_once: bool, unharmed: bool) -> bool:
        """Return whether it is given back."""
        task = self.tasks.get(task_id)
        if task is None or task.state != "running" or task.nonce != nonce:
            return task is not None and task.released == nonce
        task.nonce, task.released, task.ended_lease = "", nonce, None
        task.tries -= unharmed
        if at_once:
            self.lapse(task_id)
        return True

    def reap(self) -> int:
        """Return how many were ended."""
        found = [t for t in self.unfinished() if not t.held and (t.overdue or (t.cancel and t in self.abandoned()))]
        for task in found:
            self._end_unheld(task, "cancelled" if task.cancel else "expired")
        return len(found)

    def copy(self) -> "PureQueue":
        """What a Redis that will lose its newest writes goes back to."""
        other = deepcopy(self, {id(self._epochs): self._epochs})
        return other

    # ---- time

    def lapse(self, task_id: str) -> int:
        """The lease ends. Return its place among all that ended."""
        self.tasks[task_id].ended_lease = self._ends
        self._ends += 1
        return self._ends - 1

    def pass_deadline(self, task_id: str) -> None:
        """The task's time is over."""
        self.tasks[task_id].overdue = True

    def forget(self, task_id: str) -> None:
        """The retention of a finished task is over."""
        assert self.tasks.pop(task_id).state in ENDED

    # ---- ends

    def _end_unheld(self, task: PureTask, state: str) -> None:
        task.epoch = next(self._epochs)
        task.nonce = ""
        self._end(task, state)

    def _end(self, task: PureTask, state: str) -> None:
        task.state, task.ended_lease = state, None
        task.log.append((state, len(task.outputs)))
        self.gone.add(task.id)
        self._close(task.owner)

    def _close(self, owner: str) -> None:
        opened = self.open()
        if not opened:
            self.clock, self.finish = 0, {}
        elif owner not in opened and owner in self.finish:
            self.finish[owner] = min(self.finish[owner], self.clock + 1)
