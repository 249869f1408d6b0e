"""Sides of a comparison, asked in turn within one run, so that what else the machine does befalls all of them alike."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.load.peers.environments import Unavailable
from tests.load.peers.peer import Asked, Peer, Running, Seat, settle


@dataclass(slots=True)
class Sides:
    """The sides that could be had, all running; only one of them is asked at a time."""

    running: list[Running]
    skipped: dict[str, str]  #: why others could not be had
    idle_share: list[float] = field(default_factory=list)

    def alternate(self, rounds: int, ask: Callable[[Running, int], Asked], *, first: int = 0) -> dict[str, list[Asked]]:
        """Ask each side once a round, each time beginning with another one; return what came, by side."""
        found: dict[str, list[Asked]] = {side.name: [] for side in self.running}
        for number in range(first, first + rounds):
            for place in range(len(self.running)):
                side = self.running[(number + place) % len(self.running)]
                others = [other for other in self.running if other is not side]
                settle()
                before = sum(other.cpu_s() for other in others)
                asked = ask(side, number)
                self.idle_share.append((sum(other.cpu_s() for other in others) - before) / asked.took_s)
                found[side.name].append(asked)
        return found

    @property
    def notes(self) -> dict[str, object]:
        """What a reader of the figures should know of the sides."""
        notes: dict[str, object] = {"skipped": self.skipped} if self.skipped else {}
        if self.idle_share:
            notes["idle sides, share of a core"] = statistics.median(self.idle_share)
        return notes


@contextmanager
def sides(peers: Sequence[Peer], seat: Seat, folder: Path) -> Iterator[Sides]:
    """Run every peer that can be had while the block runs."""
    with ExitStack() as stack:
        running, skipped = [], {}
        for peer in peers:
            try:
                running.append(stack.enter_context(peer.start(seat, folder)))
            except Unavailable as reason:
                print(f"  without {peer.name}: {reason}", flush=True)
                skipped[peer.name] = str(reason)
        yield Sides(running, skipped)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of each round."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))
