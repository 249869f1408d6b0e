"""The supervisor's own connection to its Redis: is it loaded, repair its file, end it.

It alone may do what the app's user may not. It repeats no command, and knows no process and no data.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from enum import Enum
from pathlib import Path
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from sibyl.core.errors import ProcessError
from sibyl.store.redis_settings import SUPERVISOR

POLL_S = 0.01
REPLY_LIMIT_S = 10.0  # for one command


class Answer(Enum):
    """What a server says to PING."""

    NOTHING = "nothing"
    LOADING = "loading"
    READY = "ready"


class RedisAdmin:
    """Commands of the user that may do everything."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, socket: Path, password: str) -> AsyncIterator[Self]:
        """A client of the server on ``socket``, which need not exist yet."""
        client = Redis(
            unix_socket_path=str(socket),
            username=SUPERVISOR,
            password=password,
            retry=Retry(NoBackoff(), 0),
            # No limit here but around each call: redis-py 8.1 sends under asyncio.wait_for when it has one, and on
            # Python 3.11 that swallows a cancellation that comes while a command is being sent.
            socket_timeout=None,
            protocol=2,
        )
        try:
            yield cls(client)
        finally:
            await asyncio.shield(client.aclose())  # a cancellation here would leave the connection open

    async def ping(self) -> Answer:
        """Return at once what the server says, or NOTHING after ``REPLY_LIMIT_S`` seconds."""
        try:
            async with asyncio.timeout(REPLY_LIMIT_S):
                await self._client.ping()
        except BusyLoadingError:
            return Answer.LOADING
        except (RedisConnectionError, TimeoutError):
            return Answer.NOTHING
        return Answer.READY

    async def loaded_percent(self) -> float | None:
        """Return how much of the data is loaded; None when the server does not say."""
        try:
            async with asyncio.timeout(REPLY_LIMIT_S):
                return float((await self._client.info("persistence"))["loading_loaded_perc"])
        except (RedisError, TimeoutError, KeyError):
            return None

    async def rewrite(self) -> None:
        """Have the append-only file written anew; return when the new one has taken its place.

        Raises ProcessError with Redis' reason when it could not.
        """
        try:
            async with asyncio.timeout(REPLY_LIMIT_S):
                await self._client.bgrewriteaof()
            while True:
                async with asyncio.timeout(REPLY_LIMIT_S):
                    state = await self._client.info("persistence")
                if not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]:
                    break
                await asyncio.sleep(POLL_S)
        except (RedisError, TimeoutError) as error:
            raise ProcessError(f"the rewrite failed ({str(error) or 'no reply'})") from error
        if state["aof_last_bgrewrite_status"] != "ok" or state["aof_last_rewrite_time_sec"] < 0:
            raise ProcessError("the rewrite failed")

    async def shutdown(self) -> None:
        """Ask the server to end; do nothing when it is out of reach or refuses. The data are in the file
        already."""
        with contextlib.suppress(RedisError, TimeoutError):
            async with asyncio.timeout(REPLY_LIMIT_S):
                await self._client.shutdown(nosave=True)
