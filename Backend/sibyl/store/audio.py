"""The audio of transcriptions, beside their tasks: written before the task is accepted, gone as soon as it ends.

It goes to Redis and back in parts, so that nobody who shares that Redis waits for a whole file. What was written and
then not accepted is dropped by Redis itself. How much unfinished transcriptions may hold is bounded by ``submit``.
"""

from sibyl.core.errors import RecogniserFailed
from sibyl.core.task import TaskId
from sibyl.store.connection import Store
from sibyl.store.keys import Shard, shard_of

PART_BYTES = 256 * 1024
UNACCEPTED_MS = 300_000  # audio without a task is dropped after this


class AudioGone(RecogniserFailed):
    """The recording is not stored any more. Send it again."""


class AudioFiles:
    """Stored audio files."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _shard(self, task_id: TaskId) -> Shard:
        return self._store.shards[shard_of(task_id, len(self._store.shards))]

    async def put(self, task_id: TaskId, audio: bytes | bytearray) -> None:
        """Store a file for a task that is about to be submitted; ``submit`` makes it last.

        Raises:
            StoreUnavailable: Redis is out of reach.
        """
        key = self._shard(task_id).audio(task_id)
        await self._store.command("SET", key, "", "PX", UNACCEPTED_MS)
        with memoryview(audio) as whole:
            for start in range(0, len(whole), PART_BYTES):
                # Where it goes is said, and not "at the end": so it may be repeated after a lost reply.
                await self._store.write_bytes(key, start, bytes(whole[start : start + PART_BYTES]))

    async def drop(self, task_id: TaskId) -> None:
        """Drop a file whose task was not accepted. Raises StoreUnavailable."""
        await self._store.command("UNLINK", self._shard(task_id).audio(task_id))

    async def get(self, task_id: TaskId, size: int) -> bytes:
        """Return a task's file.

        Args:
            size: of the file; known from the task's spec.

        Raises:
            AudioGone: the task has ended, or was erased.
            StoreUnavailable: Redis is out of reach.
        """
        key = self._shard(task_id).audio(task_id)
        whole = bytearray()
        while len(whole) < size:
            part = await self._store.read_bytes(key, len(whole), PART_BYTES)
            if not part:
                raise AudioGone()
            whole += part
        return bytes(whole)
