"""Which place holds which tokens, and where a newcomer finds the beginning of its prompt already computed. Pure.

A sequence that ended leaves its tokens behind in its place, until somebody else needs the place. A newcomer that begins
with the same tokens takes them over, from an idle place or from one in use; what is not shared is computed. Places of
low numbers are used first, because llama.cpp computes neighbours together; tokens left behind that are worth keeping
move out of the way to an idle place of a higher number.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from sibyl.engines.kv_pool import KvPool
from sibyl.engines.sequence import Sequence

SHARED_LEAST_TOKENS = 32  # less is computed as soon as it is copied or waited for


@dataclass(frozen=True, slots=True)
class Copy:
    """Have ``target`` hold the first ``tokens`` of ``source``, and nothing else."""

    source: int
    target: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Trim:
    """Keep only the first ``tokens`` of a place."""

    place: int
    tokens: int


Move = Copy | Trim


@dataclass(slots=True, eq=False)
class Place:
    """One place: a sequence, or what the last one left."""

    number: int
    holder: Sequence | None = None
    left: list[int] = field(default_factory=list)  #: tokens of nobody that are still there
    used: int = 0  #: when it was left; larger is later
    stamp: int = 0  #: changes with whose tokens are here

    @property
    def known(self) -> list[int]:
        """Tokens that are here, and those that its sequence will still bring."""
        return self.left if self.holder is None else self.holder.token_ids

    @property
    def held(self) -> int:
        """Tokens that are here."""
        return len(self.left) if self.holder is None else self.holder.seen


@dataclass(frozen=True, slots=True)
class Donor:
    """A place whose first ``tokens`` are a newcomer's too, and how many will be in a while."""

    place: Place
    tokens: int
    later_tokens: int


class Places:
    """All places, and the moves that are still to be made in the model's memory."""

    def __init__(self, count: int, *, pool: KvPool | None, reuses: bool) -> None:
        """Begin with all of them empty.

        Args:
            pool: the room that they share; None when each has its own.
            reuses: whether tokens left behind can be used by others.
        """
        self._places = [Place(number) for number in range(count)]
        self._pool = pool
        self._reuses = reuses
        self._moves: list[Move] = []
        self._clock = 0
        self._commons: dict[tuple[int, int], int] = {}

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places)

    def __getitem__(self, number: int) -> Place:
        return self._places[number]

    @property
    def holders(self) -> list[Sequence]:
        """The sequences that have a place, by its number."""
        return [place.holder for place in self._places if place.holder is not None]

    @property
    def idle(self) -> list[Place]:
        """Places without a sequence."""
        return [place for place in self._places if place.holder is None]

    def take_moves(self) -> list[Move]:
        """Return what has to be done in the model's memory before the next computation, in this order."""
        moves, self._moves = self._moves, []
        return moves

    def donor(self, newcomer: Sequence) -> Donor | None:
        """Return the place that shares most with a newcomer, and will share most if it is waited for."""
        if not self._reuses:
            return None
        best: tuple[int, int, Place] | None = None
        later = 0
        for place in self._places:
            common = self._common(newcomer, place)
            now = min(common, place.held)
            if now and (best is None or (now, place.used) > best[:2]):
                best = (now, place.used, place)
            if place.holder is not None and not place.holder.resting:
                later = max(later, common)
        if best is None:
            return Donor(self._places[0], 0, later) if later else None
        return Donor(best[2], best[0], max(later, best[0]))

    def _common(self, newcomer: Sequence, place: Place) -> int:
        theirs = place.known
        key = (newcomer.order, place.stamp)
        common = self._commons.get(key)
        if common is None or common == len(theirs):
            ours = newcomer.token_ids
            common = common_prefix(ours, theirs, len(ours) - 1)  # one token at least gives the first scores
            if common < len(theirs):
                self._commons[key] = common
        return common

    def settle(self, newcomer: Sequence, donor: Donor | None) -> None:
        """Give the newcomer a place, with what the donor has for it. One must be idle."""
        shared = 0 if donor is None or donor.tokens < SHARED_LEAST_TOKENS else donor.tokens
        source = donor.place if donor is not None and shared else None
        target = self._target(source, shared)
        if target is source:
            if 2 * shared < len(target.left):
                self._evacuate(target, None)
            self._trim(target, shared)
        else:
            self._evacuate(target, source)
            if source is not None:
                self._copy(source, target, shared)
            else:
                self._trim(target, 0)
        target.left = []
        target.holder = newcomer
        target.stamp = self._tick()
        newcomer.place, newcomer.seen, newcomer.reused = target.number, shared, shared
        self._commons = {key: value for key, value in self._commons.items() if key[0] != newcomer.order}

    def _target(self, source: Place | None, shared: int) -> Place:
        idle = self.idle
        if self._pool is None:
            return idle[0]
        if source is not None and source.holder is None and (2 * shared >= len(source.left) or len(idle) == 1):
            return source
        return min((place for place in idle if place is not source), key=_worth)

    def _evacuate(self, place: Place, source: Place | None) -> None:
        """Move what was left in a place to one whose own is worth less."""
        others = [other for other in self.idle if other is not place and other is not source]
        if len(place.left) < SHARED_LEAST_TOKENS or not others:
            return
        refuge = min(others, key=_worth)
        if _worth(refuge) < _worth(place):
            self._copy(place, refuge, len(place.left))
            refuge.left, refuge.used, refuge.stamp = place.left, place.used, self._tick()

    def leave(self, place: Place, *, clean: bool = True) -> None:
        """Take the place from its sequence. Its tokens stay, unless the place is not ``clean``."""
        sequence = place.holder
        if sequence is None:
            return
        place.left = sequence.token_ids[: sequence.seen] if clean and self._reuses else []
        place.holder = None
        place.used = place.stamp = self._tick()
        sequence.place, sequence.seen = None, 0
        if not place.left:
            self._trim(place, 0)

    def evict(self, spared: Place | None = None) -> bool:
        """Empty the idle place that was left longest ago; return whether there was one with tokens."""
        full = [place for place in self.idle if place.left and place is not spared]
        if not full:
            return False
        place = min(full, key=_worth)
        place.left, place.stamp = [], self._tick()
        self._trim(place, 0)
        return True

    def _trim(self, place: Place, tokens: int) -> None:
        if self._pool is not None:
            self._pool.trim(place.number, tokens)
        self._moves.append(Trim(place.number, tokens))

    def _copy(self, source: Place, target: Place, tokens: int) -> None:
        if self._pool is not None:
            self._pool.copy(source.number, target.number, tokens)
        self._moves.append(Copy(source.number, target.number, tokens))

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _worth(place: Place) -> tuple[bool, int]:
    return (bool(place.left), place.used)


def common_prefix(ours: list[int], theirs: list[int], most: int) -> int:
    """Return how many tokens, at most ``most``, both begin with."""
    low, high = 0, max(0, min(most, len(theirs)))
    if ours[:high] == theirs[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if ours[low:middle] == theirs[low:middle]:
            low = middle
        else:
            high = middle
    return low
