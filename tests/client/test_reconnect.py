"""When to try again, and when to give up."""

from hypothesis import given
from hypothesis import strategies as st

from sibyl.client.reconnect import FIRST_WAIT_S, MOST_RETRY_AFTER_S, MOST_WAIT_S, Reconnect


def test_waits_double_up_to_a_bound() -> None:
    """A quarter of a second first, fifteen at most."""
    value, waits = Reconnect(give_up_s=None), []
    for _ in range(9):
        following = value.failed(0.0, jitter=1.0)
        assert following is not None
        value = following
        waits.append(value.wait_s)

    assert waits == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]


@given(st.floats(0, 1), st.integers(0, 1000))
def test_a_wait_is_never_none_at_all(jitter: float, failures: int) -> None:
    """Whatever chance says, many readers spread out, and none hurries."""
    following = Reconnect(give_up_s=None, failures=failures).failed(0.0, jitter=jitter)

    assert following is not None
    assert FIRST_WAIT_S / 2 <= following.wait_s <= MOST_WAIT_S


def test_success_starts_the_row_anew() -> None:
    """After a sign of life the next wait is the first one, and the patience is whole again."""
    value = Reconnect(give_up_s=10.0, failures=7, failing_since=0.0).succeeded()

    following = value.failed(1000.0, jitter=1.0)

    assert following == Reconnect(give_up_s=10.0, failures=1, failing_since=1000.0, wait_s=FIRST_WAIT_S)


def test_the_last_try_comes_at_the_very_end_of_the_patience() -> None:
    """The wait is shortened to it, and the failure after it is the last."""
    value = Reconnect(give_up_s=10.0, failures=7, failing_since=100.0)

    last = value.failed(109.0, jitter=1.0)

    assert last is not None and last.wait_s == 1.0
    assert last.failed(110.0, jitter=1.0) is None


def test_no_patience_is_one_try() -> None:
    """0 seconds: the first failure is the last."""
    assert Reconnect(give_up_s=0).failed(5.0, jitter=0.5) is None


def test_what_the_server_asks_is_obeyed_up_to_a_bound() -> None:
    """Retry-After is never shortened by chance, and an absurd one is cut."""
    value = Reconnect(give_up_s=None)
    asked, absurd = value.failed(0.0, jitter=0.0, asked_s=7), value.failed(0.0, jitter=0.0, asked_s=10**9)

    assert asked is not None and asked.wait_s == 7
    assert absurd is not None and absurd.wait_s == MOST_RETRY_AFTER_S


def test_who_is_asked_to_wait_longer_than_the_patience_gives_up_at_once() -> None:
    """Coming back earlier would be refused again."""
    assert Reconnect(give_up_s=3.0).failed(0.0, jitter=0.0, asked_s=5) is None
