"""The faults of a campaign: which there are, and which of them a seed draws, when, on whom and for how long."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

Lane = Literal["worker", "api", "worker-link", "api-link", "redis"]
Topology = Literal["single", "sentinel"]

LEASE_S: Final = 1.5
HEARTBEAT_S: Final = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault. Its duration is drawn between two bounds."""

    lane: Lane  #: what it happens to; of two faults on one lane the second waits
    weight: int  #: cards in the deck
    least_s: float
    most_s: float
    says: str
    takes_s: float = 0.0  #: how long it takes besides, for the next one on its lane
    topologies: tuple[Topology, ...] = ("single", "sentinel")


FAIL_OVER_S: Final = 12.0  # until the sentinels know everybody again
_SINGLE: Final[tuple[Topology, ...]] = ("single",)
_SENTINEL: Final[tuple[Topology, ...]] = ("sentinel",)

KINDS: Final[Mapping[str, Kind]] = {
    "kill-worker": Kind(lane="worker", weight=4, least_s=0.1, most_s=1.5, says="kill -9; started again after a pause"),
    "drain-worker": Kind(lane="worker", weight=2, least_s=0.1, most_s=0.5, says="SIGTERM: it finishes or hands over"),
    "freeze-worker": Kind(
        lane="worker", weight=3, least_s=LEASE_S * 1.2, most_s=LEASE_S * 3, says="SIGSTOP beyond the lease: a zombie"
    ),
    "kill-api": Kind(lane="api", weight=2, least_s=0.1, most_s=1.0, says="kill -9; started again after a pause"),
    "drain-api": Kind(lane="api", weight=1, least_s=0.1, most_s=0.5, says="SIGTERM: streams are cut, requests finish"),
    "freeze-api": Kind(lane="api", weight=1, least_s=0.5, most_s=4.0, says="SIGSTOP; clients go to the other one"),
    "partition-worker": Kind(
        lane="worker-link",
        weight=2,
        least_s=LEASE_S * 1.2,
        most_s=LEASE_S * 3,
        says="nothing passes between it and Redis; then all that waited, or nothing of it",
        topologies=_SINGLE,
    ),
    "partition-api": Kind(
        lane="api-link", weight=1, least_s=0.5, most_s=4.0, says="the same for an API", topologies=_SINGLE
    ),
    "lose-replies": Kind(
        lane="worker-link",
        weight=2,
        least_s=1.0,
        most_s=3.0,
        says="requests reach Redis, some replies are lost with their connection",
        topologies=_SINGLE,
    ),
    "lose-api-replies": Kind(
        lane="api-link", weight=1, least_s=1.0, most_s=3.0, says="the same for an API", topologies=_SINGLE
    ),
    "delay": Kind(
        lane="worker-link", weight=1, least_s=1.0, most_s=3.0, says="20 to 300 ms more each way", topologies=_SINGLE
    ),
    "delay-api": Kind(lane="api-link", weight=1, least_s=1.0, most_s=3.0, says="the same", topologies=_SINGLE),
    "half-close": Kind(
        lane="worker-link",
        weight=1,
        least_s=0.2,
        most_s=1.5,
        says="one direction of each connection ends, the other stays",
        topologies=_SINGLE,
    ),
    "half-close-api": Kind(lane="api-link", weight=1, least_s=0.2, most_s=1.5, says="the same", topologies=_SINGLE),
    "kill-redis": Kind(
        lane="redis",
        weight=2,
        least_s=0.0,
        most_s=1.0,
        says="kill -9; what it acknowledged is there",
        topologies=_SINGLE,
    ),
    "power-loss": Kind(
        lane="redis",
        weight=3,
        least_s=0.0,
        most_s=1.0,
        says="kill -9, and 0.2 to 40 KB of the newest writes are gone, also within a MULTI; repaired, started again",
        topologies=_SINGLE,
    ),
    "freeze-redis": Kind(lane="redis", weight=1, least_s=0.3, most_s=2.5, says="SIGSTOP, SIGCONT", topologies=_SINGLE),
    "full-disk": Kind(
        lane="redis",
        weight=1,
        least_s=0.5,
        most_s=2.0,
        says="no room for the append-only file: it refuses writes, or ends; then there is room again",
        topologies=_SINGLE,
    ),
    "fail-over-kill": Kind(
        lane="redis",
        weight=2,
        takes_s=FAIL_OVER_S,
        least_s=0.0,
        most_s=1.0,
        says="the primary is killed, a replica takes over",
        topologies=_SENTINEL,
    ),
    "fail-over-freeze": Kind(
        lane="redis",
        weight=2,
        takes_s=FAIL_OVER_S,
        least_s=0.5,
        most_s=2.0,
        says="the primary stops, a replica takes over, it comes back",
        topologies=_SENTINEL,
    ),
    "fail-over-ask": Kind(
        lane="redis",
        weight=1,
        takes_s=FAIL_OVER_S,
        least_s=0.0,
        most_s=0.5,
        says="the sentinels are asked to change the primary",
        topologies=_SENTINEL,
    ),
}

GAP_S: Final = (0.4, 2.2)  # between the beginnings of two faults
REST_S: Final = {"redis": 1.5}  # on a lane, after a fault
QUIET_S: Final = 1.0  # at the beginning and at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A fault to come."""

    at_s: float
    kind: str
    target: int  #: which worker or API; 0 for Redis
    lasts_s: float
    seed: int  #: for what is drawn while it happens

    @property
    def lane(self) -> str:
        """Whom it happens to: ``worker-2``, ``api-0-link``, ``redis``."""
        lane = KINDS[self.kind].lane
        if lane == "redis":
            return lane
        name, _, link = lane.partition("-")
        return f"{name}-{self.target}" + (f"-{link}" if link else "")


def plan(
    seed: int, seconds: float, *, kinds: Sequence[str], topology: Topology, workers: int, apis: int
) -> tuple[Planned, ...]:
    """Return the faults of a campaign, in order. The same arguments give the same faults.

    Kinds are drawn from a deck that holds each as often as it weighs, and that is shuffled again when it is empty: so
    a short campaign meets every kind about as often as a long one does.
    """
    draw = random.Random(f"plan {seed}")
    fitting = [name for name in KINDS if name in kinds and topology in KINDS[name].topologies]
    if not fitting:
        return ()
    deck: list[str] = []
    free: dict[str, float] = {}
    planned: list[Planned] = []
    at_s = QUIET_S
    while at_s < seconds - QUIET_S:
        if not deck:
            deck = [name for name in fitting for _ in range(KINDS[name].weight)]
            draw.shuffle(deck)
        name = deck.pop()
        kind = KINDS[name]
        targets = {"w": workers, "a": apis}.get(kind.lane[0], 1)
        lasts_s = round(draw.uniform(kind.least_s, kind.most_s), 3)
        fault = Planned(
            at_s=at_s, kind=name, target=draw.randrange(targets), lasts_s=lasts_s, seed=draw.getrandbits(32)
        )
        begins_s = round(max(at_s, free.get(fault.lane, 0.0)), 3)
        at_s += draw.uniform(*GAP_S)
        if begins_s + lasts_s + kind.takes_s > seconds - QUIET_S:
            continue
        free[fault.lane] = begins_s + lasts_s + kind.takes_s + REST_S.get(fault.lane, 0.01)
        planned.append(replace(fault, at_s=begins_s))
    return tuple(sorted(planned, key=lambda fault: fault.at_s))
