"""The campaign's Redis and what befalls it. Everything here blocks: it runs in one thread that outlives the server.

``fsync always`` is what the embedded Redis uses, and it makes a plain kill exact: what Redis acknowledged is in the
file, whatever the disk was doing. A power loss is then a kill after which the end of the file is cut off, and the
bytes that were cut say which tasks it concerned.
"""

import contextlib
import random
import re
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from sibyl.core.task import TaskId
from sibyl.store.keys import Shard
from tests.chaos.history import Leftover, Log
from tests.processes import until
from tests.redis_nodes import RedisNode, Sentinels

FLAGS = ("appendfsync always", "maxmemory-policy noeviction", "loglevel notice")
HA_FLAGS = ("min-replicas-to-write 1", "min-replicas-max-lag 10")
LOSS_BYTES = (200, 40_000)
_TORN = "Truncating the AOF"
_TASK = re.compile(rb"\d{1,2}\.[0-9a-f]{32}")
_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
_QUEUES = ("waiting", "running", "deadlines", "open")
_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a power loss took."""

    bytes: int
    tasks: tuple[str, ...]
    within_multi: bool


class Server:
    """One Redis, or the primary among sentinels."""

    def __init__(self, nodes: Sequence[RedisNode], sentinels: Sentinels | None = None) -> None:
        """``nodes``: the one that counts first."""
        self.node = nodes[0]
        self._sentinels = sentinels
        self._whole_bytes = 0  # of a file that begins with a snapshot, what is no tail

    # ---- one server alone

    def start(self) -> None:
        """Start it again. A torn end is repaired before anybody may write, as the embedded Redis does."""
        before = len(self.node.log())
        self.node.start()
        if _TORN in self.node.log()[before:]:
            self._rewrite()

    def power_off(self) -> None:
        """Kill it."""
        if not self._several_files():
            try:
                self._whole_bytes = int(self.node.facts()["aof_base_size"])
            except (RedisError, OSError):
                self._whole_bytes = self._newest_file().stat().st_size
        self.node.kill()

    def cut_tail(self, draw: random.Random) -> Cut:
        """Take the newest writes of the dead server away."""
        path = self._newest_file()
        size = path.stat().st_size
        wanted = min(max(0, size - self._whole_bytes), round(draw.uniform(*LOSS_BYTES)))
        with path.open("rb+") as file:
            start = max(0, size - wanted - (1 << 16))
            file.seek(start)
            data = file.read()
            place = size - wanted - start
            if draw.random() < 0.5 and (multi := data.find(_MULTI, place)) >= 0:
                end = data.find(_EXEC, multi)
                place = draw.randint(multi + 1, end if end > multi else len(data))  # somewhere within a script's writes
            # A script that is torn does not count at all, so all of it is lost.
            began = data.rfind(_MULTI, 0, place)
            within = began >= 0 and data.find(_EXEC, began, place) < 0
            lost = data[began if within else max(0, data.rfind(b"\r\n*", 0, place)) :]
            file.truncate(start + place)
        found = {match.decode() for match in _TASK.findall(lost)}
        return Cut(bytes=len(data) - place, tasks=tuple(sorted(found)), within_multi=within)

    def fill_disk(self, *, refuse: bool) -> None:
        """Leave no room for the append-only file. Redis then refuses writes, or ends, which is what always means."""
        with contextlib.suppress(RedisError, OSError):
            if refuse:
                self.node.ask("CONFIG", "SET", "appendfsync", "no")
            self._limit(self._newest_file().stat().st_size + 1000)

    def empty_disk(self) -> bool:
        """Make room again; start it again if it ended. Return whether it had."""
        if self.node.running:
            self._limit(resource.RLIM_INFINITY)
            with contextlib.suppress(RedisError, OSError):
                self._await_writes()
                # Redis 7.0 takes a short write back, but goes on behind it: the hole of zeros is a file that no start
                # can read, unless it is written anew first. The supervisor does so as well; see supervisor/embedded.py.
                self._rewrite()
                self.node.ask("CONFIG", "SET", "appendfsync", "always")
                return False
        self.node.kill()
        self.start()
        return True

    def _await_writes(self) -> None:
        def writes() -> bool:
            return bool(self.node.facts()["aof_last_write_status"] == "ok")

        until(writes, limit_s=10, what="Redis writes again")

    def _limit(self, bytes_: int) -> None:
        # SIGXFSZ is ignored in it: the Python that became the server had it so, and ignored signals stay ignored.
        resource.prlimit(self.node.pid, resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY))

    def _newest_file(self) -> Path:
        several = self._several_files()
        return several[-1] if several else self.node.directory / "appendonly.aof"

    def _several_files(self) -> list[Path]:
        """The files that hold what came after a snapshot, oldest first; none before Redis 7, which has one for all."""
        found = (self.node.directory / "appendonlydir").glob("*.incr.aof")
        return sorted(found, key=lambda path: int(path.name.split(".")[-3]))

    def _rewrite(self) -> None:
        self.node.ask("BGREWRITEAOF")

        def rewritten() -> bool:
            facts = self.node.facts()
            return not facts["aof_rewrite_in_progress"] and not facts["aof_rewrite_scheduled"]

        until(rewritten, limit_s=30, what="the append-only file is rewritten")

    # ---- under sentinels

    def fail_over(self, how: str, pause_s: float) -> None:
        """Have a replica take over; the old primary comes back as a replica after ``pause_s``."""
        group = self._sentinels
        assert group is not None
        old = group.primary()
        if how == "kill":
            self.node = group.fail_over("kill")
        elif how == "freeze":
            self.node = group.fail_over("pause")
        else:
            self.node = group.fail_over("ask")
        time.sleep(pause_s)  # not a wait: how long the fault lasts
        if how == "kill":
            old.start()
        elif how == "freeze":
            old.resume()
        group.settle()

    # ---- what it holds at the end

    def dump(self, tasks: Sequence[str], write: Callable[[Log], None]) -> None:
        """Write each task's log and state as they lie there."""
        if self._sentinels is not None:
            self.node = self._sentinels.primary()
        with self.node.admin() as admin:
            for start in range(0, len(tasks), _BATCH):
                part = tasks[start : start + _BATCH]
                with admin.pipeline(transaction=False) as pipe:
                    for task in part:
                        shard = Shard(int(task.partition(".")[0]))
                        pipe.hmget(shard.task(TaskId(task)), ["state", "offset"])
                        pipe.xrange(shard.log(TaskId(task)))
                    replies: list[Any] = pipe.execute()
                for task, (state, offset), entries in zip(part, replies[::2], replies[1::2], strict=True):
                    write(Log(task=task, state=state, offset=int(offset or 0), entries=entries))

    def leftovers(self) -> list[Leftover]:
        """Return how much is left in the keys that hold unfinished tasks only."""
        left = []
        shard = Shard(0)
        for name in _QUEUES:
            key = getattr(shard, name)
            members = self.node.ask("HLEN" if name == "open" else "ZCARD", key)
            left.append(Leftover(key=key, members=int(members)))
        return left
