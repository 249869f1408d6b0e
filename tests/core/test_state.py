"""The table of states: what may follow what."""

import pytest

from sibyl.core.state import TRANSITIONS, State

TERMINAL = {State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED}


def test_every_state_has_a_row() -> None:
    """A state without a row would make a move from it an exception instead of a decision."""
    assert set(TRANSITIONS) == set(State)


def test_nothing_follows_a_terminal_state() -> None:
    """The rows of the four ends are empty, those of the others are not."""
    assert {state for state in State if not TRANSITIONS[state]} == TERMINAL
    assert {state for state in State if state.terminal} == TERMINAL


def test_every_state_can_be_reached_from_queued() -> None:
    """A task begins queued; a state that no path leads to would be dead code in two languages."""
    reached = {State.QUEUED}
    while further := {after for state in reached for after in TRANSITIONS[state]} - reached:
        reached |= further

    assert reached == set(State)


@pytest.mark.parametrize("state", [state for state in State if state not in TERMINAL])
def test_every_unfinished_task_can_end_by_cancel_deadline_and_failure(state: State) -> None:
    """Whatever a task waits for, the client, the clock and the last attempt can end it."""
    assert {State.CANCELLED, State.EXPIRED, State.FAILED} <= TRANSITIONS[state]


def test_only_a_running_task_completes_and_only_it_is_claimed_again() -> None:
    """An answer comes from an attempt, and a takeover is a move from running to running."""
    assert [state for state in State if State.COMPLETED in TRANSITIONS[state]] == [State.RUNNING]
    assert State.RUNNING in TRANSITIONS[State.RUNNING]
    assert not any(State.QUEUED in after for after in TRANSITIONS.values())
