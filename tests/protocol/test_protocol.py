"""The protocol holds in every state within the bounds, and each decision in it is there for a reason."""

import pytest

from tests.protocol.__main__ import check
from tests.protocol.checker import Checker, Model, Move, Part, Property, Rule
from tests.protocol.model import Protocol
from tests.protocol.mutants import FURTHER, NAMED
from tests.protocol.worlds import LIMITS, WORLDS

GREAT = ("late", "deaths", "torn", "twice")  # a million states and more: by `make protocol`, which CI runs as well


@pytest.mark.timeout(120)
@pytest.mark.parametrize("world", sorted(WORLDS.keys() - GREAT))
def test_the_protocol_holds_within_the_bounds(world: str) -> None:
    """Every state is looked at; nothing is wrong, stuck, or goes round for ever."""
    verdict = check(Protocol(), WORLDS[world], loops=True)

    assert verdict.violation is None, str(verdict.violation)
    assert verdict.exhausted
    assert verdict.resting > 0  # else nothing was asked of the states at rest
    assert verdict.fair_runs_end


@pytest.mark.parametrize("mutant", [*NAMED, *FURTHER], ids=lambda mutant: mutant.__name__)
def test_each_decision_is_needed(mutant: type[Protocol]) -> None:
    """Without it something goes wrong, with it nothing does within the same bounds."""
    refuted = check(mutant(), mutant.bounds)
    real = check(Protocol(), mutant.bounds)

    assert refuted.violation is not None
    assert len(refuted.violation.trace) >= 3
    assert real.violation is None
    assert real.exhausted


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.__name__)
def test_where_the_promises_end_is_known(limit: type[Protocol]) -> None:
    """What the protocol does not withstand is written down, and still so."""
    assert check(limit(), limit.bounds).violation is not None


# ---- the checker itself, on a puzzle whose answers are known


def _pour(small: int, large: int) -> list[Move]:
    """Two jugs, of 3 and of 5."""
    to_large, to_small = min(small, 5 - large), min(large, 3 - small)
    return [
        ("fill the small", (3, large)),
        ("fill the large", (small, 5)),
        ("empty the small", (0, large)),
        ("empty the large", (small, 0)),
        ("pour into the large", (small - to_large, large + to_large)),
        ("pour into the small", (small + to_small, large - to_small)),
    ]


def _jugs(*, wanted: int) -> Model:
    jugs = ("small", "large")
    return Model(
        parts=[Part(name=name, initial=0) for name in jugs],
        rules=[Rule(name="pour", reads=jugs, writes=jugs, moves=_pour)],
        always=[
            Property(name="not that much", parts=("large",), wrong=lambda large: "it is" if large == wanted else "")
        ],
        at_rest=[],
    )


def test_the_way_to_a_wrong_state_is_the_shortest() -> None:
    """Four litres in the large jug take six steps."""
    verdict = Checker(_jugs(wanted=4)).run()

    assert verdict.violation is not None
    assert verdict.violation.trace == [
        "fill the large",
        "pour into the small",
        "empty the small",
        "pour into the small",
        "fill the large",
        "pour into the small",
    ]


def test_all_that_can_be_reached_is_looked_at() -> None:
    """Of the 24 levels 16 can be reached, those where one jug is full or empty; and it goes round for ever."""
    verdict = Checker(_jugs(wanted=9)).run(loops=True)

    assert (verdict.states, verdict.exhausted, verdict.violation) == (16, True, None)
    assert verdict.fair_runs_end is False


def _walkers(*, alike: bool) -> Model:
    """Two that take two steps each, of which one may be taken from a common budget."""
    names = ("one", "two")

    def step(place: int) -> list[Move]:
        return [("steps", (place + 1,))] if place < 2 else []

    rules = [Rule(name="step", reads=(name,), writes=(name,), moves=step) for name in names]
    rules += [
        Rule(name="leap", reads=(name,), writes=(name,), moves=lambda place: [("leaps", (place + 3,))], costs="leaps")
        for name in names
    ]
    return Model(
        parts=[*(Part(name=name, initial=0) for name in names), Part(name="leaps", initial=1, budget=True)],
        rules=rules,
        always=[],
        at_rest=[Property(name="together", parts=names, wrong=lambda one, two: "" if min(one, two) >= 2 else "apart")],
        alike=[names] if alike else [],
    )


def test_states_that_differ_only_in_who_is_who_are_one() -> None:
    """9 places of two without a leap are 6; with one leap behind them 18 are 9. All come to rest together."""
    told_apart, alike = Checker(_walkers(alike=False)).run(loops=True), Checker(_walkers(alike=True)).run(loops=True)

    assert (told_apart.states, alike.states) == (9 + 18, 6 + 9)
    assert told_apart.violation is None
    assert alike.violation is None
    assert alike.fair_runs_end


def test_a_rule_that_is_no_fault_must_not_leave_anybody_behind() -> None:
    """Without the steps, only a fault could go on, and faults need never happen."""
    walkers = _walkers(alike=True)
    stuck = Model(parts=walkers.parts, rules=walkers.rules[2:], always=[], at_rest=walkers.at_rest, alike=walkers.alike)
    faults = [
        Rule(name=rule.name, reads=rule.reads, writes=rule.writes, moves=rule.moves, costs=rule.costs, fair=False)
        for rule in stuck.rules
    ]
    verdict = Checker(Model(parts=stuck.parts, rules=faults, always=[], at_rest=stuck.at_rest, alike=stuck.alike)).run()

    assert verdict.violation is not None
    assert verdict.violation.trace == []
