"""The plan: a pure function of the seed."""

from itertools import pairwise

from tests.chaos.plan import KINDS, plan


def test_a_seed_gives_the_same_faults_again() -> None:
    """A campaign can be run again."""
    one = plan(7, 60, kinds=list(KINDS), topology="single", workers=3, apis=2)

    assert one == plan(7, 60, kinds=sorted(KINDS), topology="single", workers=3, apis=2)
    assert one != plan(8, 60, kinds=list(KINDS), topology="single", workers=3, apis=2)


def test_a_minute_meets_nearly_every_kind_and_an_hour_every_kind() -> None:
    """Kinds come from a deck, so none is left to luck for long."""
    fitting = {name for name, kind in KINDS.items() if "single" in kind.topologies}

    for seed in range(20):
        minute = {fault.kind for fault in plan(seed, 60, kinds=list(KINDS), topology="single", workers=3, apis=2)}
        hour = {fault.kind for fault in plan(seed, 3600, kinds=list(KINDS), topology="single", workers=3, apis=2)}
        assert len(minute) >= len(fitting) - 3 and hour == fitting


def test_faults_of_one_lane_do_not_overlap_and_all_end_in_time() -> None:
    """Nothing is killed while it is frozen, and the end of a campaign is quiet."""
    for topology in ("single", "sentinel"):
        faults = plan(3, 300, kinds=list(KINDS), topology=topology, workers=3, apis=2)
        for lane in {fault.lane for fault in faults}:
            own = [fault for fault in faults if fault.lane == lane]
            assert all(before.at_s + before.lasts_s <= after.at_s for before, after in pairwise(own))
        assert all(fault.at_s + fault.lasts_s <= 299 for fault in faults)
        assert all(topology in KINDS[fault.kind].topologies for fault in faults)
        for fault in faults:
            assert KINDS[fault.kind].least_s <= fault.lasts_s <= KINDS[fault.kind].most_s


def test_only_the_kinds_that_were_asked_for_are_planned() -> None:
    """--faults means what it says, also when nothing fits."""
    only = plan(1, 60, kinds=["kill-worker"], topology="sentinel", workers=3, apis=2)

    assert {fault.kind for fault in only} == {"kill-worker"} and len(only) > 10
    assert plan(1, 60, kinds=["power-loss"], topology="sentinel", workers=3, apis=2) == ()
