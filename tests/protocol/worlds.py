"""Within which bounds the protocol is explored, each exhaustively; and what it is known not to withstand."""

from collections.abc import Mapping, Sequence

from tests.protocol.model import Bounds, Protocol
from tests.protocol.task import Dangling, Entry, Task

WORLDS: Mapping[str, Bounds] = {
    # The great one: zombies, replies that are lost or requests that come late, a Redis that forgets, a reader.
    "late": Bounds(pauses=1, copies=1, rollbacks=1),
    "deaths": Bounds(crashes=1, pauses=1, rollbacks=1),
    "torn": Bounds(pauses=1, rollbacks=1, torn=True, cuts=1),
    "twice": Bounds(pauses=1, rollbacks=2),
    "cancel": Bounds(pauses=1, rollbacks=1, cancels=1),
    "drain": Bounds(readers=0, crashes=1, copies=1, rollbacks=1, drains=1),
    "longer": Bounds(readers=0, tokens=3, pauses=1, crashes=1, rollbacks=1, torn=True),
    "three workers": Bounds(workers=3, readers=0, crashes=1, pauses=2, rollbacks=1),
    "two readers": Bounds(workers=1, readers=2, rollbacks=1, cuts=1),
    "clock": Bounds(workers=1, rollbacks=1, clock_steps=1, cuts=1),
}


class SameMillisecond(Protocol):
    """Redis loses a claim, and its clock, set back, gives another worker's claim the very same millisecond.

    Epochs are unique because two claims of one task with a fault of Redis between them are never in the same
    millisecond. A worker's own floor covers its own claims only.
    """

    bounds = Bounds(rollbacks=1, clock_steps=1)


class ClaimComesBack(Protocol):
    """A claim that was torn comes back at a second restart, before what the earlier owner wrote since.

    Redis, loading, then refuses the owner's entries and takes the rest. Only rewriting the AOF after an unclean start
    helps, which the embedded Redis does.
    """

    bounds = Bounds(readers=0, rollbacks=1, torn=True, pauses=1)

    def claim_torn(self, task: Task, held: Task) -> Sequence[Task]:
        entry = Entry(held.epoch, task.offset, "started", None, task.offset, task.last)
        return [held, task._replace(dangling=Dangling(len(task.log), entry, task.offset))]


LIMITS: tuple[type[Protocol], ...] = (SameMillisecond, ClaimComesBack)
"""Where the promises end. Should one of these hold one day, say so and take it out."""
