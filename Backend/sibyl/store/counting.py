"""How long a prompt is, in the tokens of the model: only a worker knows, so the API asks one before it accepts.

The question rides on the workers' doorbell, the answer comes back on a list of its own. It is needed only for prompts
that may be too long, and nothing is lost with it: without an answer in time the task is accepted, and the worker that
claims it decides.
"""

import json
import secrets
from dataclasses import asdict

from sibyl.core.task import Message
from sibyl.store.connection import Store

KEPT_MS = 10_000  # a question or answer that nobody fetched is dropped after this


class PromptCounting:
    """Both sides of the question."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shard = store.shards[0]

    async def ask(self, messages: tuple[Message, ...], *, wait_s: float) -> int | None:
        """Return how many tokens some worker's model makes of the messages; None when none answers in time.

        Raises:
            StoreUnavailable: Redis is out of reach.
        """
        name = secrets.token_hex(8)
        prompt, answer = self._shard.prompt(name), self._shard.count(name)
        await self._store.command("SET", prompt, json.dumps([asdict(message) for message in messages]), "PX", KEPT_MS)
        await self._store.command("XADD", self._shard.bell, "MAXLEN", "~", 1000, "*", "count", name)
        counted = await self._store.wait_for_value(answer, wait_s=wait_s)
        await self._store.command("DEL", prompt, answer)
        return int(counted) if counted else None

    async def fetch(self, name: str) -> tuple[Message, ...] | None:
        """Return the messages of a question that was rung; None when it is too late."""
        prompt = await self._store.command("GET", self._shard.prompt(name))
        return None if prompt is None else tuple(Message(**message) for message in json.loads(prompt))

    async def answer(self, name: str, tokens: int | None) -> None:
        """Tell who asked; None says that it cannot be known."""
        key = self._shard.count(name)
        await self._store.command("LPUSH", key, "" if tokens is None else tokens)
        await self._store.command("PEXPIRE", key, KEPT_MS)
