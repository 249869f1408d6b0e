"""Memory of followers that wait: what the API process grows by for each, with what the kernel holds left out."""

import tempfile
import time
from pathlib import Path
from typing import Any

from tests.load.crowd import gathered
from tests.load.rig import desk, own_redis, spec, start_api, wait_logged
from tests.load.usage import pss_bytes
from tests.processes import free_port

FOLLOWERS = 2000
FIRST = 200  # before the first look, so that what is needed once is there
SETTLE_S = 1.0
GOAL_KIB = 40.0
CANCELLED = '"type":"cancelled"'


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return what a waiting follower costs in memory."""
    followers = max(300, round(FOLLOWERS * scale))
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as name:
        folder = Path(name)
        with own_redis(folder / "redis") as redis, desk(redis.url) as clerk:
            port = free_port()
            api = start_api(folder, redis.url, port)
            try:
                wait_logged(api, "api_ready")
                task_id = clerk.submit(spec("Nobody answers.", 1))
                path = f"/api/tasks/{task_id}/events"
                with gathered(port, path, FIRST, end=CANCELLED) as first:
                    time.sleep(SETTLE_S)
                    before = pss_bytes(api.pid)
                    with gathered(port, path, followers, end=CANCELLED) as second:
                        time.sleep(SETTLE_S)
                        after = pss_bytes(api.pid)
                        clerk.cancel(task_id)
                        crowds = first.leave(), second.leave()
            finally:
                api.end()
    whole = sum(crowd.whole for crowd in crowds)
    each_kib = (after - before) / followers / 1024
    return {
        "what": f"{followers} followers of a task that waits, one API process, beside {FIRST} that were there before",
        "before_mib": before / (1 << 20),
        "with all_mib": after / (1 << 20),
        "a follower_kib": each_kib,
        "saw the end": whole,
        "goal": f"{GOAL_KIB:g} KiB or less",
        "goal reached": each_kib <= GOAL_KIB,
        "promises": {"all of them saw the end": whole == followers + FIRST},
    }
