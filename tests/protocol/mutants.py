"""The protocol with one decision taken away: each of these must be refuted, or the model is too weak to trust.

The docstring says what is missing; the bounds are the smallest that show what it was for.
"""

from collections.abc import Sequence

from sibyl.core.fold import Fold
from tests.protocol.model import Bounds, Protocol
from tests.protocol.task import Entry, Log, Task


class NoEpochCheck(Protocol):
    """append and settle look at the nonce alone."""

    bounds = Bounds(readers=0, pauses=1, copies=1, rollbacks=1)

    def epoch_is_right(self, task: Task, epoch: int) -> bool:
        return True


class NoNonce(Protocol):
    """append and settle look at the epoch alone."""

    bounds = Bounds(readers=0, copies=1, drains=1)

    def nonce_is_right(self, task: Task, nonce: int) -> bool:
        return True


class SharedNonce(Protocol):
    """All claims come with the same nonce, so a second one is taken for the first, repeated."""

    bounds = Bounds(readers=0, pauses=1)

    def nonce_is_right(self, task: Task, nonce: int) -> bool:
        return True

    def same_claim(self, task: Task, nonce: int) -> bool:
        return task.state == "running"


class NoClaimEntry(Protocol):
    """A claim writes nothing to the log."""

    bounds = Bounds(readers=0, rollbacks=1, torn=True)

    def claim_entry(self, task: Task, epoch: int) -> Sequence[Entry]:
        return ()


class CounterEpoch(Protocol):
    """The epoch is counted, not taken from the time: what Redis forgets, it gives out again."""

    bounds = Bounds(pauses=1, rollbacks=1)

    def next_epoch(self, task: Task, clock: int, floor: int) -> int:
        return max(task.epoch + 1, floor + 1, task.last[0] + 1)


class NoGap(Protocol):
    """An append leaves out what Redis lost, and nobody sends it again."""

    bounds = Bounds(readers=0, rollbacks=1)

    def leaves_gap(self, task: Task, first: int) -> bool:
        return False


class LengthsOnly(Protocol):
    """A reader compares how many outputs it has, and not whose they are."""

    bounds = Bounds(pauses=1, rollbacks=1)

    def known(self, feed: Log, entry: Entry) -> bool:
        return entry.token is not None and entry.offset <= self.folded(feed).outputs

    def follows(self, feed: Log, entry: Entry) -> bool:
        return entry.token is None or entry.offset == self.folded(feed).outputs + 1

    def vanished(self, feed: Log, log: Log) -> bool:
        return self.folded(log).outputs < self.folded(feed).outputs


class NoIdleCheck(Protocol):
    """A reader to whom nothing comes does not look whether it is still where the log is."""

    bounds = Bounds(pauses=1, rollbacks=1)

    def vanished(self, feed: Log, log: Log) -> bool:
        return False


class NoFloor(Protocol):
    """A claim does not say which epochs the worker has seen; Redis' clock may have been set back."""

    bounds = Bounds(workers=1, rollbacks=1, clock_steps=1)

    def next_epoch(self, task: Task, clock: int, floor: int) -> int:
        return super().next_epoch(task, clock, 0)


class BlindSettle(Protocol):
    """settle does not look whether all outputs are there."""

    bounds = Bounds(readers=0, rollbacks=1)

    def total_is_right(self, task: Task, total: int) -> bool:
        return True


class _Keeping(Fold):
    def _rewind(self, kept: int) -> None:
        super()._rewind(self.outputs)


class NoKept(Protocol):
    """The fold leaves in what a later claim voided."""

    bounds = Bounds(readers=0, rollbacks=1, torn=True)
    fold = _Keeping


class ResetWithoutPlace(Protocol):
    """After a reset the client still names the event that it had before."""

    bounds = Bounds(rollbacks=1, cuts=1)

    def cursor_after_reset(self, kept: Log, cursor: tuple[int, int]) -> tuple[int, int]:
        return cursor


class SilentStepBack(Protocol):
    """A mark without text that a reader saw is lost, and what comes before it is sent without a word."""

    bounds = Bounds(pauses=1, rollbacks=1)

    def goes_back(self, rest: Log, cursor: tuple[int, int]) -> bool:
        return False


class UnlistedFirst(Protocol):
    """A claim takes the task from those that wait before it puts it among those that run."""

    bounds = Bounds(readers=0, rollbacks=1, torn=True)

    def claim_torn(self, task: Task, held: Task) -> Sequence[Task]:
        return [held, held._replace(listed=task.state == "running")]


class ClaimLeavesOffset(Protocol):
    """A claim does not write the offset, so one that comes back from a lost script stays."""

    bounds = Bounds(readers=0, rollbacks=1, torn=True)

    def writes_offset(self, entry: Entry) -> bool:
        return entry.token is not None


NAMED: tuple[type[Protocol], ...] = (NoEpochCheck, NoNonce, NoClaimEntry, CounterEpoch, NoGap, LengthsOnly)
"""The six that the plan names."""

FURTHER: tuple[type[Protocol], ...] = (
    SharedNonce,
    NoIdleCheck,
    NoFloor,
    BlindSettle,
    NoKept,
    ResetWithoutPlace,
    SilentStepBack,
    UnlistedFirst,
    ClaimLeavesOffset,
)

MUTANTS = {mutant.__name__: mutant for mutant in (*NAMED, *FURTHER)}
