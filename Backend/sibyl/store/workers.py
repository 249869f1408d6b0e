"""The workers that are alive, as they announce themselves."""

import json
import os
from dataclasses import dataclass

from sibyl.core.task import WorkerInfo
from sibyl.store.connection import Store
from sibyl.store.scripts import Script

_STALE_S = 5.0  # a worker that has not announced itself for so long is not alive
_FORGET_S = 300.0  # and is forgotten after this; until then it can be told from one that retired
_ANNOUNCED = ("model", "slots", "context_tokens", "max_piece_bytes", "counters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """When a worker last announced itself, and which process that was."""

    seen_ms: int  #: by Redis' clock
    pid: int  #: on the worker's machine


class WorkerRegistry:
    """Who is there to answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = store.shards[0].workers

    async def announce(self, worker: WorkerInfo) -> None:
        """Say that a worker, of this process, is alive; it must be said again within seconds."""
        announcement = {
            "model": worker.model,
            "slots": worker.slots,
            "context_tokens": worker.context_tokens,
            "max_piece_bytes": worker.max_piece_bytes,
            "counters": dict(worker.counters),
            "pid": os.getpid(),
        }
        await self._announce(worker.name, json.dumps(announcement))

    async def alive(self) -> list[WorkerInfo]:
        """Return the workers that are alive."""
        flat = await self._announce("", "")
        return [
            _decode(name, int(seen_ms), announcement)
            for name, seen_ms, announcement in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]

    async def sighting(self, name: str) -> Sighting | None:
        """Return the last sign of life of a worker, alive or silent; None when it retired or never gave one.

        Raises:
            StoreUnavailable: Redis is out of reach.
        """
        known = await self._store.command("HGET", self._key, name)
        if known is None:
            return None
        seen_ms, _, announcement = str(known).partition(" ")
        return Sighting(seen_ms=int(seen_ms), pid=int(json.loads(announcement).get("pid", 0)))

    async def retire(self, name: str) -> None:
        """Take back a worker's announcement: it is not silent, it has nothing to say any more."""
        await self._store.command("HDEL", self._key, name)

    async def _announce(self, name: str, announcement: str) -> list[str]:
        reply: list[str] = await self._store.run(
            Script.ANNOUNCE, [self._key], name, announcement, round(_STALE_S * 1000), round(_FORGET_S * 1000)
        )
        return reply


def _decode(name: str, seen_ms: int, announcement: str) -> WorkerInfo:
    said = json.loads(announcement)
    known = {key: value for key, value in said.items() if key in _ANNOUNCED}  # a newer worker may say more
    return WorkerInfo(name=name, seen_at=seen_ms / 1000, **known)
