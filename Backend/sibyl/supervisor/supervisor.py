"""What ``sibyl serve`` runs: an embedded Redis, one API process, worker processes.

A child that dies is started again, with a growing pause while it keeps dying; Redis comes back with its data, and the
others find it again by themselves. What a dead worker held is given back before its successor is started, so that
another worker goes on with it at once. The listening socket belongs to the supervisor and outlives the API process, so
a client that connects while the API restarts waits a moment instead of being refused. A child that says that it
*cannot* start (exit code 2: a wrong setting, a broken model) ends everything, with its own words as the reason.

The end, on SIGTERM or Ctrl-C, is in named steps with a limit each: the workers finish or give back their answers, the
API cuts its streams and finishes its requests, Redis writes its last and ends. A second signal skips the waiting.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from sibyl.config import Settings, child_environment
from sibyl.core.errors import SibylError
from sibyl.store.connection import Store
from sibyl.store.embedded import EmbeddedRedis
from sibyl.store.queue import TaskQueue
from sibyl.store.workers import WorkerRegistry
from sibyl.supervisor.child import Child
from sibyl.supervisor.embedded import embedded_redis, keep, mend, require_redis
from sibyl.supervisor.watch import API_SILENT_S, WORKER_SILENT_S, announcements, answers, watch
from sibyl.supervisor.welcome import address, tell_ready

logger = logging.getLogger(__name__)

API_END_S = 15.0
REDIS_END_S = 10.0
KILL_S = 5.0
RELEASE_S = 2.0  # Redis may be away; then the leases run out, or the successor gives them back


class Supervisor:
    """Everything that one ``sibyl serve`` runs."""

    def __init__(self, settings: Settings, listening: socket.socket) -> None:
        self._settings = settings
        self._listening = listening
        self._ending = asyncio.Event()
        self._at_once = asyncio.Event()

    async def run(self) -> None:
        """Start everything, watch it, and end it in order.

        Raises:
            ProcessError: a part cannot start.
            StoreUnavailable, StoreUnsuitable: the Redis that was named cannot be used.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup asked to ignore it
                loop.add_signal_handler(number, self._end)
        async with self._redis() as (redis, url):
            store = Store(url, shards=self._settings.shards, durability=self._settings.durability)
            try:
                if redis is None:
                    await require_redis(store)
                await self._keep(redis, url, store)
            finally:
                await store.close()

    @asynccontextmanager
    async def _redis(self) -> AsyncIterator[tuple[EmbeddedRedis | None, str]]:
        """Yield our Redis, None if it is somebody else's, and its URL."""
        if self._settings.redis_url is not None:
            yield None, self._settings.redis_url.get_secret_value()
        else:
            redis = embedded_redis(self._settings)
            await redis.start()
            try:
                yield redis, redis.url
            finally:
                logger.info("Ending: Redis", extra={"action": "end_redis"})
                await redis.stop(REDIS_END_S)
        logger.info("Ended", extra={"action": "ended"})

    async def _keep(self, redis: EmbeddedRedis | None, url: str, store: Store) -> None:
        """Run API and workers until one cannot start or the end is asked for; then end them."""
        api, workers = self._children(url, store)
        running = [asyncio.create_task(child.run(), name=child.name) for child in (api, *workers.values())]
        if redis is not None:
            running.append(asyncio.create_task(keep(redis), name="redis"))
        async with httpx.AsyncClient(base_url=address(self._listening), timeout=5, trust_env=False) as client:
            registry = WorkerRegistry(store)
            data = str(self._settings.data_dir) if redis is not None else "the Redis of --redis-url"
            beside = [
                asyncio.create_task(tell_ready(client, address(self._listening), data=data), name="ready"),
                asyncio.create_task(watch(api, answers(client, api), limit_s=API_SILENT_S), name="watch api"),
                *(
                    asyncio.create_task(
                        watch(worker, announcements(registry, name, worker), limit_s=WORKER_SILENT_S),
                        name=f"watch {name}",
                    )
                    for name, worker in workers.items()
                ),
            ]
            if redis is not None and self._settings.durability == "fast":
                beside.append(asyncio.create_task(mend(redis), name="mend redis"))
            for watching in beside:
                watching.add_done_callback(_log_failure)
            asked = asyncio.create_task(self._ending.wait(), name="ending")
            try:
                done, _ = await asyncio.wait({*running, asked}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                asked.cancel()
                for watching in beside:
                    watching.cancel()
                await asyncio.gather(*beside, asked, return_exceptions=True)
        await self._end_children(api, [*workers.values()])
        for ending in running:
            ending.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for ended in done.intersection(running):
            ended.result()  # raises why it ended by itself

    async def _end_children(self, api: Child, workers: list[Child]) -> None:
        settings = self._settings
        logger.info("Ending: workers", extra={"action": "end_workers", "limit_s": settings.drain_s})
        limit_s = settings.drain_s + settings.lease_s + KILL_S
        await asyncio.gather(*(worker.end(limit_s, at_once=self._at_once) for worker in workers))
        logger.info("Ending: API", extra={"action": "end_api", "limit_s": API_END_S})
        self._listening.close()
        await api.end(API_END_S, at_once=self._at_once)

    def _children(self, url: str, store: Store) -> tuple[Child, dict[str, Child]]:
        """Return the API and, by their names in Redis, the workers."""
        environment = child_environment(self._settings) | {"SIBYL_REDIS_URL": url}
        fd = self._listening.fileno()
        api = Child("api", ("api", "--fd", str(fd)), environment, fds=[fd])
        if self._settings.threads is None and self._settings.workers > 1:
            environment = environment | {"SIBYL_THREADS": str(self._threads_of_one())}
        # One name for every incarnation: a new one takes over at once what the dead one held. The data folder's lock,
        # or the listening socket, lets no second supervisor use the same names on the same Redis.
        host, port = self._listening.getsockname()[:2]
        names = [f"serve-{socket.gethostname()}-{host}-{port}-{n}" for n in range(1, self._settings.workers + 1)]
        workers = {
            name: _worker(f"worker {number}", name, environment, TaskQueue(store))
            for number, name in enumerate(names, start=1)
        }
        return api, workers

    def _threads_of_one(self) -> int:
        """The threads of one slot, when all slots of all workers share the cores and one is left to the rest."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, (cores - 1) // (self._settings.slots * self._settings.workers))

    def _end(self) -> None:
        if self._ending.is_set():
            self._at_once.set()
        self._ending.set()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("%s failed", task.get_name(), exc_info=task.exception(), extra={"action": "failed"})


def _worker(name: str, worker: str, environment: dict[str, str], queue: TaskQueue) -> Child:
    """Return a worker's child, which gives back at once what a dead incarnation held."""

    async def give_back() -> None:
        try:
            async with asyncio.timeout(RELEASE_S):
                released = await queue.release_all_of(worker)
        except (SibylError, TimeoutError) as error:
            logger.warning("Cannot give back: %s", error, extra={"action": "give_back_failed", "worker": worker})
        else:
            facts = {"action": "gave_back", "worker": worker, "tasks": released}
            logger.info("Gave back what the worker held", extra=facts)

    return Child(name, ("worker", "--name", worker), environment, on_death=give_back)
