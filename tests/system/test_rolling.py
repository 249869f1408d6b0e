"""Workers and API nodes as on several machines, restarted one after the other while readers follow."""

from pathlib import Path

import pytest

from tests.load.rolling import roll
from tests.redis_nodes import single


@pytest.mark.timeout(120)
def test_a_rolling_restart_under_load_loses_nothing_and_breaks_no_reader_for_more_than_a_reconnect(
    tmp_path: Path,
) -> None:
    """Three workers, two API nodes, each ended by SIGTERM with a drain limit shorter than an answer."""
    with single(tmp_path / "redis") as redis:
        figures = roll(tmp_path, redis.url, readers=6, rounds=1)

    assert all(figures["promises"].values()), figures
