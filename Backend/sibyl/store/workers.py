"""The workers that are alive, as they announce themselves."""

import json

from sibyl.core.task import WorkerInfo
from sibyl.store.connection import Store
from sibyl.store.scripts import Script

_STALE_S = 5.0  # a worker that has not announced itself for so long is not alive


class WorkerRegistry:
    """Who is there to answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = store.shards[0].workers

    async def announce(self, worker: WorkerInfo) -> None:
        """Say that a worker is alive; it must be said again within seconds."""
        announcement = {
            "model": worker.model,
            "slots": worker.slots,
            "context_tokens": worker.context_tokens,
            "max_piece_bytes": worker.max_piece_bytes,
        }
        await self._announce(worker.name, json.dumps(announcement))

    async def alive(self) -> list[WorkerInfo]:
        """Return the workers that are alive."""
        flat = await self._announce("", "")
        return [
            WorkerInfo(name=name, seen_at=int(seen_ms) / 1000, **json.loads(announcement))
            for name, seen_ms, announcement in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]

    async def retire(self, name: str) -> None:
        """Take back a worker's announcement."""
        await self._store.command("HDEL", self._key, name)

    async def _announce(self, name: str, announcement: str) -> list[str]:
        reply: list[str] = await self._store.run(
            Script.ANNOUNCE, [self._key], name, announcement, round(_STALE_S * 1000)
        )
        return reply
