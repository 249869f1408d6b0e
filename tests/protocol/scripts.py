"""The Lua scripts of the queue as pure functions: a task before, a request, a reply, the task after.

Each decision that keeps the promises is a method of its own, for ``mutants`` to take away. What ``test_walks`` finds to
differ from the real scripts on a real Redis is wrong here.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tests.protocol.task import Answer, Dangling, Entry, Task


class Request(NamedTuple):
    """A script and its arguments, as a worker sends them."""

    script: str  #: claim, append, settle or release
    nonce: int
    epoch: int = 0
    first: int = 0  #: append: the number of the first output
    outputs: Answer = ()
    total: int = 0  #: settle
    end: str = "completed"  #: settle
    floor: int = 0  #: claim

    def __str__(self) -> str:
        match self.script:
            case "append" if self.outputs:
                return f"append({self.epoch}, {' '.join(map(str, self.outputs))})"
            case "append":
                return f"append({self.epoch}, nothing)"
            case "settle":
                return f"settle({self.epoch}, {self.end} after {self.total})"
            case _:
                return f"{self.script}(nonce {self.nonce})"


class Reply(NamedTuple):
    """What a script says."""

    word: str  #: ok, gap, fenced, busy, gone, ended, or error: Redis refused a command within it
    epoch: int = 0
    stored: int = 0
    cancel: bool = False

    def __str__(self) -> str:
        return self.word + (f" {self.stored}" if self.word == "gap" else "") + (" and cancel" if self.cancel else "")


class Ran(NamedTuple):
    """A script has run."""

    reply: Reply
    task: Task
    clock: int
    torn: Sequence[Task] = ()  #: what a Redis may come back with that kept only the script's first writes


class Scripts:
    """The scripts, at a given time."""

    # ---- the decisions

    def epoch_is_right(self, task: Task, epoch: int) -> bool:
        """Whether a write's epoch is the task's."""
        return task.epoch == epoch

    def nonce_is_right(self, task: Task, nonce: int) -> bool:
        """Whether a write's nonce is the holder's."""
        return task.nonce == nonce

    def next_epoch(self, task: Task, clock: int, floor: int) -> int:
        """The epoch of a claim."""
        return max(task.epoch + 1, clock, floor + 1, task.last[0] + 1)

    def leaves_gap(self, task: Task, first: int) -> bool:
        """Whether an append would leave out some numbers."""
        return first > task.offset + 1

    def total_is_right(self, task: Task, total: int) -> bool:
        """Whether all outputs are there that a settle speaks of."""
        return task.offset == total

    def same_claim(self, task: Task, nonce: int) -> bool:
        """Whether the claim was made and its reply lost."""
        return task.state == "running" and task.nonce == nonce

    def claim_entry(self, task: Task, epoch: int) -> Sequence[Entry]:
        """What a claim writes to the log."""
        return [Entry(epoch, task.offset, "started", None, task.offset, task.last)]

    def claim_torn(self, task: Task, held: Task) -> Sequence[Task]:
        """What may be left of a claim whose last writes are lost: those that say where workers look."""
        return [held]  # first among the running, then no more among the waiting

    def resurrected(self, task: Task) -> Task:
        """What a second restart makes of an AOF that ends within a script, when its tail was not rewritten in between.

        The first one drops the script and leaves its MULTI in the file; the second one runs what is there of it, at the
        place where it was, and so before all that was written since. Redis refuses what cannot come after it.
        """
        assert task.dangling is not None
        place, entry, offset = task.dangling
        later = tuple(other for other in task.log[place:] if other.id > entry.id)
        if any(self.writes_offset(other) for other in task.log[place:]):
            offset = task.offset
        return task._replace(log=(*task.log[:place], entry, *later), offset=offset, dangling=None)

    def writes_offset(self, entry: Entry) -> bool:
        """Whether the script that wrote an entry wrote the offset as well."""
        return entry.token is not None or entry.kind == "started"

    # ---- the scripts

    def run(self, request: Request, task: Task, clock: int) -> Ran:
        """Run the request's script."""
        match request.script:
            case "claim":
                return self.claim(request, task, clock)
            case "append":
                return self.append(request, task, clock)
            case "settle":
                return self.settle(request, task, clock)
            case _:
                return self.release(request, task, clock)

    def claim(self, request: Request, task: Task, clock: int) -> Ran:
        """claim.lua"""
        if task.over:
            return Ran(Reply("gone"), task._replace(listed=False), clock)
        if self.same_claim(task, request.nonce):
            return Ran(Reply("ok", task.epoch, task.offset), task, clock)
        if task.state == "running" and task.leased:
            return Ran(Reply("busy"), task, clock)
        if task.cancel:
            return self._finish_unheld(task, clock, request.floor)
        epoch = self.next_epoch(task, clock, request.floor)
        entered = _added(task, self.claim_entry(task, epoch))
        if entered is None:
            return Ran(Reply("error"), task, clock)
        held = entered._replace(state="running", epoch=epoch, nonce=request.nonce, leased=True, listed=True)
        torn = [entered, *self.claim_torn(task, held)]
        return Ran(Reply("ok", epoch, task.offset), held, max(clock, epoch) + 1, torn)

    def append(self, request: Request, task: Task, clock: int) -> Ran:
        """append.lua"""
        if not self._holds(request, task):
            return Ran(Reply("fenced"), task, clock)
        if self.leaves_gap(task, request.first):
            return Ran(Reply("gap", stored=task.offset), task, clock)
        after, offset, torn = task, task.offset, []
        for number, token in enumerate(request.outputs, request.first):
            if number > offset:
                entered = _added(after, [Entry(request.epoch, number, "output", token)])
                if entered is None:
                    return Ran(Reply("error"), after, clock)
                after, offset = entered, number
                torn.append(after)
        renewed = after._replace(offset=offset, leased=True, foreign=self._is_foreign(request, task))
        torn += _dangling(task, torn)
        return Ran(Reply("ok", stored=offset, cancel=task.cancel), renewed, clock, torn)

    def settle(self, request: Request, task: Task, clock: int) -> Ran:
        """settle.lua"""
        ours = self.epoch_is_right(task, request.epoch) and self.nonce_is_right(task, request.nonce)
        if task.state == request.end and ours:
            return Ran(Reply("ok"), task, clock)
        if not self._holds(request, task):
            return Ran(Reply("fenced"), task, clock)
        if not self.total_is_right(task, request.total):
            return Ran(Reply("gap", stored=task.offset), task, clock)
        entered = _added(task, [Entry(request.epoch, request.total + 1, request.end, None, request.total)])
        if entered is None:
            return Ran(Reply("error"), task, clock)
        over = entered._replace(state=request.end, foreign=self._is_foreign(request, task))
        return Ran(Reply("ok"), over._replace(listed=False), clock, [entered, over, *_dangling(task, [entered])])

    def release(self, request: Request, task: Task, clock: int) -> Ran:
        """release.lua; to its callers it is the same whether it says ok or fenced."""
        if task.state != "running" or task.nonce != request.nonce:
            return Ran(Reply("fenced"), task, clock)
        return Ran(Reply("ok"), task._replace(nonce=0, leased=False), clock)

    def cancel(self, task: Task, clock: int) -> Ran:
        """cancel.lua"""
        if task.over:
            return Ran(Reply("ok"), task, clock)
        asked = task._replace(cancel=True)
        if task.state == "queued" or task.nonce == 0 or not task.leased:
            ran = self._finish_unheld(asked, clock, 0)
            return ran._replace(torn=[asked, *ran.torn])
        return Ran(Reply("ok"), asked, clock)

    def _finish_unheld(self, task: Task, clock: int, floor: int) -> Ran:
        """prelude.lua: the end of a task that nobody may write to now."""
        epoch = self.next_epoch(task, clock, floor)
        raised = task._replace(epoch=epoch, nonce=0)
        entry = Entry(epoch, task.offset + 1, "cancelled", None, task.offset, task.last)
        entered = _added(raised, [entry])
        if entered is None:
            return Ran(Reply("error"), raised, clock)
        over = entered._replace(state="cancelled")
        clock = max(clock, epoch) + 1
        return Ran(Reply("ended"), over._replace(listed=False), clock, [raised, entered, over])

    def _holds(self, request: Request, task: Task) -> bool:
        """The fence: whether the request comes from who holds the lease."""
        return (
            task.state == "running"
            and self.epoch_is_right(task, request.epoch)
            and self.nonce_is_right(task, request.nonce)
        )

    @staticmethod
    def _is_foreign(request: Request, task: Task) -> bool:
        return task.foreign or (request.epoch, request.nonce) != (task.epoch, task.nonce)


def _dangling(task: Task, torn: Sequence[Task]) -> list[Task]:
    """The task without the script, whose first entry may come back, alone or with the offset."""
    lost = [half.log[len(task.log)] for half in torn[:1]]
    came_back = {(entry, offset) for entry in lost for offset in (task.offset, task.offset + bool(entry.token))}
    return [task._replace(dangling=Dangling(len(task.log), *writes)) for writes in sorted(came_back)]


def _added(task: Task, entries: Sequence[Entry]) -> Task | None:
    """XADD: None when Redis refuses it, since the log's newest id is not smaller."""
    for entry in entries:
        if entry.id <= task.last:
            return None
        task = task._replace(log=(*task.log, entry))
    return task
