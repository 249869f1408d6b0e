"""A computation that does not come back is noticed once; one that does never is."""

import threading

from sibyl.engines.watchdog import Watchdog


def test_a_block_that_takes_too_long_is_told() -> None:
    """While it still runs."""
    stuck = threading.Event()
    watchdog = Watchdog(0.05, stuck.set)
    with watchdog.watching():
        assert stuck.wait(10)
    watchdog.close()


def test_many_short_blocks_are_fine() -> None:
    """Together they take longer than the limit."""
    stuck = threading.Event()
    watchdog = Watchdog(0.2, stuck.set)
    for _ in range(8):
        with watchdog.watching():
            assert not stuck.wait(0.05)
    watchdog.close()
    assert not stuck.is_set()
