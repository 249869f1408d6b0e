"""Redis, as the supervisor sees it: its own, started again whenever it dies, or one that must answer at the start."""

import asyncio
import logging

from sibyl.config import Settings
from sibyl.core.errors import ProcessError, StoreUnavailable
from sibyl.core.policy import backoff_s
from sibyl.store.connection import Store, because
from sibyl.store.embedded import EmbeddedRedis
from sibyl.store.redis_settings import Fsync

logger = logging.getLogger(__name__)

REDIS_START_S = 5.0
MEND_LOOK_S = 1.0


def embedded_redis(settings: Settings) -> EmbeddedRedis:
    """Return the Redis of the data folder, not started yet."""
    fsync: Fsync = "everysec" if settings.durability == "fast" else "always"
    return EmbeddedRedis(settings.data_dir, fsync=fsync, on_loading=_tell_loading)


async def keep(redis: EmbeddedRedis) -> None:
    """Start Redis again whenever it dies, until cancelled."""
    while True:
        status = await redis.exited()
        logger.warning("Redis died; starting it again", extra={"action": "redis_died", "status": status})
        failures = 0
        while not redis.running:
            try:
                await redis.start()
            except ProcessError as error:
                # A full disk may have room again in a moment; until then the API answers 503 and nothing is lost.
                failures += 1
                pause_s = backoff_s(failures, first_s=0.5, most_s=10.0)
                facts = {"action": "redis_cannot_start", "again_in_s": pause_s}
                logger.error("Redis cannot start: %s", error.message, extra=facts)
                await asyncio.sleep(pause_s)


async def mend(redis: EmbeddedRedis) -> None:
    """Have Redis write its file anew whenever it wrote on after a full disk, until cancelled.

    With durability ``fast`` it does so. With ``safe`` it ends instead, and its next start repairs the end of the file.
    """
    while True:
        await asyncio.sleep(MEND_LOOK_S)
        try:
            if await redis.mend():
                logger.warning("Redis can write again; its file is mended", extra={"action": "redis_mended"})
        except ProcessError as error:
            logger.error("Redis cannot mend its file: %s", error.message, extra={"action": "redis_not_mended"})


async def require_redis(store: Store) -> None:
    """Return when Redis has answered.

    Raises:
        StoreUnavailable: it did not within five seconds.
        StoreUnsuitable: it must not be used.
    """
    try:
        await store.patient(REDIS_START_S).check()
    except StoreUnavailable as error:
        why = f"Redis did not answer within {REDIS_START_S:.0f} s{because(error)}. Check --redis-url."
        raise StoreUnavailable(why) from None


def _tell_loading(percent: float) -> None:
    logger.info("Redis loads its data: %.0f %%", percent, extra={"action": "redis_loading"})
