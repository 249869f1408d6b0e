"""What befalls the campaign's Redis: a lost tail is lost whole, names its tasks, and leaves nothing half done."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from tests.chaos.server import FLAGS, Server
from tests.redis_nodes import single

SCRIPT = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('SET', KEYS[2], ARGV[1])"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server."""
    with single(tmp_path, *FLAGS) as alone:
        yield Server([alone.node])


def fill(server: Server, tasks: int) -> None:
    """Write two keys for each task, in one script."""
    for number in range(tasks):
        task = f"0.{number:032x}"
        server.node.ask("EVAL", SCRIPT, 2, f"one:{task}", f"two:{task}", "x" * 200)


@pytest.mark.parametrize("seed", range(4))
def test_what_a_power_loss_takes_is_exactly_what_it_names(server: Server, seed: int) -> None:
    """After two restarts each task is there whole or not at all, and missing are those that were named."""
    fill(server, 300)

    server.power_off()
    cut = server.cut_tail(random.Random(seed))
    for _ in range(2):
        server.start()
        server.node.ask("SET", "written", "after")
        server.node.kill()
    server.start()

    assert cut.bytes > 0 and 0 < len(cut.tasks) < 300
    assert server.node.ask("GET", "written") == "after"
    for number in range(300):
        task = f"0.{number:032x}"
        there = [server.node.ask("EXISTS", f"{name}:{task}") for name in ("one", "two")]
        assert there == ([0, 0] if task in cut.tasks else [1, 1]), task


@pytest.mark.parametrize("refuse", [True, False])
def test_a_full_disk_ends_writes_until_there_is_room(server: Server, refuse: bool) -> None:
    """It refuses writes, or it ends, as its setting says; afterwards what it had acknowledged is there."""
    fill(server, 5)
    server.fill_disk(refuse=refuse)

    acknowledged = -1
    with pytest.raises((RedisError, OSError)):
        for number in range(100):
            server.node.ask("SET", f"more:{number}", "y" * 500)
            acknowledged = number
    ended = server.empty_disk()

    assert ended is not refuse
    assert server.node.ask("GET", f"more:{acknowledged}") == "y" * 500
    assert server.node.ask("SET", "room", "again") == "OK"
