"""Every key name, in one place.

Keys of one shard share the hash tag ``{q<shard>}``, so that each script's keys lie in one slot of a Redis Cluster.
A task id begins with its shard. One key is of no shard: ``sibyl:shards``, how many there are.

| key | type | holds |
|---|---|---|
| ``task:<id>`` | hash | the task: spec, state, lease, counters, times; see lua/submit.lua |
| ``log:<id>`` | stream | its events; the stream id ``<epoch>-<offset>`` is the cursor |
| ``waiting`` | zset | id -> score; lowest is next: priority band, then fair-queueing time |
| ``running`` | zset | id -> end of the lease, ms |
| ``deadlines`` | zset | id -> deadline, ms, of every unfinished task |
| ``open`` | hash | owner -> unfinished tasks |
| ``ahead`` | zset | owner -> virtual finish time of the last task, of those ahead of the clock (start-time fairness) |
| ``clock`` | string | virtual time: that of the task claimed last; none while there are no unfinished tasks |
| ``bell`` | stream | doorbell of the workers: ``work <id>``, ``cancel <id>``, ``count <name>``; about 1,000 newest |
| ``audio:<id>`` | string | the file of a transcription, until its task ends; before it is accepted, for minutes |
| ``audios`` | hash | id -> bytes of every stored file whose task was accepted |
| ``gone:<id>`` | string | a finished or deleted task was here, so "forgotten" can be told from "unknown" |
| ``dead`` | zset | id -> time, ms, of tasks that used up their attempts; the 1,000 newest |
| ``idem:<length>:<owner>:<key>`` | string | id and request of the task submitted under this Idempotency-Key |
| ``mine:<owner>`` | zset | id -> creation time, ms, of the owner's tasks; a submit drops those long forgotten |
| ``workers`` | hash | name -> announcement of a live worker; on shard 0 |
| ``prompt:<name>`` | string | messages whose length somebody asks for, JSON; for seconds |
| ``count:<name>`` | list | the answer, tokens; for seconds |
| ``tail:<name>`` | stream | doorbell of one API process's tail |
| ``marker`` | string | written after a read, so that WAIT tells whether a replica has what was read (durability ha) |
"""

import hashlib
from typing import Final

from sibyl.core.errors import UnknownTask
from sibyl.core.task import Owner, TaskId

SHARDS: Final = "sibyl:shards"
_ID_DIGITS: Final = 32


class Shard:
    """The keys of one shard."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._prefix = f"sibyl:{{q{number}}}:"
        self.waiting = self._prefix + "waiting"
        self.running = self._prefix + "running"
        self.deadlines = self._prefix + "deadlines"
        self.open = self._prefix + "open"
        self.ahead = self._prefix + "ahead"
        self.clock = self._prefix + "clock"
        self.bell = self._prefix + "bell"
        self.dead = self._prefix + "dead"
        self.audios = self._prefix + "audios"
        self.workers = self._prefix + "workers"
        self.marker = self._prefix + "marker"

    def task(self, task_id: TaskId) -> str:
        """The task's hash."""
        return f"{self._prefix}task:{task_id}"

    def log(self, task_id: TaskId) -> str:
        """The task's log."""
        return f"{self._prefix}log:{task_id}"

    def gone(self, task_id: TaskId) -> str:
        """The task's tombstone."""
        return f"{self._prefix}gone:{task_id}"

    def audio(self, task_id: TaskId) -> str:
        """The task's audio file."""
        return f"{self._prefix}audio:{task_id}"

    def mine(self, owner: Owner) -> str:
        """The owner's tasks."""
        return f"{self._prefix}mine:{owner}"

    def idempotency(self, owner: Owner, key: str) -> str:
        """What was submitted under the owner's Idempotency-Key."""
        return f"{self._prefix}idem:{len(owner)}:{owner}:{key}"  # the length, since both may hold colons

    def tail(self, name: str) -> str:
        """Doorbell of the tail of the API process ``name``."""
        return f"{self._prefix}tail:{name}"

    def prompt(self, name: str) -> str:
        """Messages whose length is asked for."""
        return f"{self._prefix}prompt:{name}"

    def count(self, name: str) -> str:
        """Their length in tokens."""
        return f"{self._prefix}count:{name}"

    def whole(self, task_id: TaskId) -> list[str]:
        """The keys of a script that may end a task, in the order that lua/prelude.lua names them."""
        return [
            self.task(task_id),
            self.log(task_id),
            self.waiting,
            self.running,
            self.deadlines,
            self.open,
            self.ahead,
            self.clock,
            self.bell,
            self.dead,
            self.gone(task_id),
            self.audio(task_id),
            self.audios,
        ]


def shard_of(task_id: str, shards: int) -> int:
    """Return the shard that a task id names.

    Raises:
        UnknownTask: the text cannot be the id of a task here; such a text must never become part of a key.
    """
    number, dot, digits = task_id.partition(".")
    plausible = dot and number.isdecimal() and number.isascii() and str(int(number[:4])) == number
    if not plausible or int(number) >= shards:
        raise UnknownTask()
    if len(digits) != _ID_DIGITS or not all(digit in "0123456789abcdef" for digit in digits):
        raise UnknownTask()
    return int(number)


def shard_of_idempotency_key(owner: Owner, key: str, shards: int) -> int:
    """Return the shard for an Idempotency-Key: the same for every retry."""
    digest = hashlib.sha256(f"{owner}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % shards


def task_id(shard: int, digits: str) -> TaskId:
    """Return the id of a task on ``shard`` from 32 random hex digits."""
    return TaskId(f"{shard}.{digits}")
