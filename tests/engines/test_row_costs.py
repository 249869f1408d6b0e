"""Batches of rows cost no more than the plain way, and the plain way stays where the gain is small."""

import math

from hypothesis import given
from hypothesis import strategies as st

from sibyl.engines.row_costs import WORTHWHILE, RowCosts

COSTS = st.lists(st.floats(0.1, 10), min_size=1, max_size=12).map(lambda found: dict(enumerate(found, start=1)))


def test_two_rows_that_cost_more_than_twice_one_are_computed_apart() -> None:
    """As with q8_0 on some processors."""
    costs = RowCosts({1: 4.0, 2: 17.0, 3: 21.0, 4: 24.9})

    assert costs.split(2, 0) == ((1, 0), (1, 0))
    assert costs.split(4, 0) == ((1, 0),) * 4


def test_rows_are_padded_to_a_cheaper_number() -> None:
    """Fifteen to sixteen, if there is a place for the sixteenth."""
    costs = RowCosts({rows: float(rows) for rows in range(1, 15)} | {15: 20.0, 16: 13.7})

    assert costs.split(15, 1) == ((15, 1),)
    assert costs.split(16, 0) == ((16, 0),)
    assert sum(costs.seconds[rows + padding] for rows, padding in costs.split(15, 0)) == 15.0


def test_a_small_gain_changes_nothing() -> None:
    """A measurement has its noise."""
    assert RowCosts({1: 1.0, 2: 2.1}).split(2, 0) == ((2, 0),)


def test_without_a_measurement_all_rows_go_together() -> None:
    """Nothing is guessed."""
    assert RowCosts({}).split(7, 3) == ((7, 0),)
    assert RowCosts({1: 1.0}).split(7, 3) == ((7, 0),)
    assert RowCosts({1: 1.0}).split(0, 3) == ()


@given(COSTS, st.integers(1, 12), st.integers(0, 4))
def test_what_is_chosen_computes_all_rows_and_costs_no_more(seconds: dict[int, float], rows: int, spare: int) -> None:
    """And it is left only for a gain that is worth it."""
    batches = RowCosts(seconds).split(rows, spare)

    assert sum(size for size, _ in batches) == rows
    assert all(padding <= spare for _, padding in batches)
    plain = seconds.get(rows, math.inf)
    if batches != ((rows, 0),):
        assert sum(seconds[size + padding] for size, padding in batches) < WORTHWHILE * plain
