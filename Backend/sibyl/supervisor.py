"""What ``sibyl serve`` starts and watches: an embedded Redis, one API process, one worker process.

A child that dies is started again, with a growing pause while it keeps dying; Redis comes back with its data, and the
others find it again by themselves. The listening socket belongs to the supervisor and outlives the API process, so a
client that connects while the API restarts waits a moment instead of being refused. A child that says that it *cannot*
start (exit code 2: a wrong setting, a broken model) ends everything, with its own words as the reason.

The end, on SIGTERM or Ctrl-C, is in named steps with a limit each: the worker finishes or gives back its answers, the
API cuts its streams and finishes its requests, Redis writes its last and ends. A second signal skips the waiting.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from sibyl.api.listening import bind
from sibyl.config import Settings, child_environment
from sibyl.core.errors import ProcessError, StoreUnavailable
from sibyl.core.policy import backoff_s
from sibyl.engines.library import HUB_PREFIX, resolve_model
from sibyl.store.connection import Store, because
from sibyl.store.embedded import EmbeddedRedis
from sibyl.store.parent_death import ending_with_parent
from sibyl.store.redis_settings import Fsync
from sibyl.telemetry import start_logging

logger = logging.getLogger(__name__)

CANNOT_START = 2  # a child's exit code when starting it again is futile
STEADY_S = 10.0  # a child that lived so long has no failures behind it
API_END_S = 10.0
REDIS_START_S = 5.0
REDIS_END_S = 10.0
KILL_S = 5.0
_LOOK_S = 0.05

WELCOME = """
  Sibyl is ready: {url}

  Ask in a browser     {url}
  in a terminal        {command} ask{where} "Should I change my job this year?"
  from any program     curl -i -X POST {url}api/questions -H 'content-type: application/json' \\
                         -d '{{"question": "Should I change my job this year?"}}'
                       curl -N {url}api/tasks/<task_id>/events
  Documentation        {url}docs
  Data is kept in      {data}
  Stop with Ctrl-C
"""


def serve(settings: Settings) -> None:
    """Run everything until SIGTERM or Ctrl-C.

    Raises:
        SibylError: it cannot start; the message says what to do.
    """
    _open_standard_streams()
    start_logging("serve", level=settings.log_level, form=settings.log_format)
    if settings.engine == "llama" and not (settings.model or "").startswith(HUB_PREFIX):
        resolve_model(settings.model)  # said at once, not by a child; a download is the worker's business
    with bind(settings.host, settings.port) as listening:
        listening.listen()
        asyncio.run(Supervisor(settings, listening).run())


def _open_standard_streams() -> None:
    """Fill closed descriptors 0 to 2, or the next socket gets such a number and a child loses it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


class Child:
    """One process that is started again when it dies."""

    def __init__(
        self, name: str, command: Sequence[str], environment: dict[str, str], *, fds: Sequence[int] = ()
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._fds = fds
        self._process: asyncio.subprocess.Process | None = None
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Keep it running until ``end``.

        Raises:
            ProcessError: it cannot start.
        """
        failures = 0
        while not self._ending.is_set():
            began = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                *ending_with_parent(sys.executable, "-P", "-m", "sibyl", *self._command),
                env=self._environment,
                pass_fds=self._fds,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is for the supervisor alone
            )
            if self._ending.is_set():
                self.signal(signal.SIGTERM)
            status = await self._process.wait()
            if self._ending.is_set():
                return
            if status == CANNOT_START:
                raise ProcessError(f"The {self.name} process cannot start; it said why above.")
            failures = 1 if time.monotonic() - began > STEADY_S else failures + 1
            pause_s = 0.0 if failures == 1 else backoff_s(failures - 1, first_s=0.2, most_s=10.0)
            facts = {"action": "child_died", "child": self.name, "status": status, "again_in_s": pause_s}
            logger.warning("The %s process died; starting it again", self.name, extra=facts)
            await asyncio.sleep(pause_s)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def end(self, limit_s: float, *, at_once: asyncio.Event) -> None:
        """Ask it to drain, kill it after the limit or when ``at_once`` is set."""
        self._ending.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.signal(signal.SIGTERM)
        ended = asyncio.create_task(process.wait())
        hurry = asyncio.create_task(at_once.wait())
        await asyncio.wait({ended, hurry}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not ended.done():
            facts = {"action": "child_killed", "child": self.name}
            logger.warning("The %s process did not end in time", self.name, extra=facts)
            self.signal(signal.SIGKILL)
            await ended


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
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup asked to ignore it
                loop.add_signal_handler(number, self._end)
        redis = None
        settings = self._settings
        if settings.redis_url is None:
            fsync: Fsync = "everysec" if settings.durability == "fast" else "always"
            redis = EmbeddedRedis(settings.data_dir, fsync=fsync, on_loading=_tell_loading)
            await redis.start()
        else:
            await _require_redis(settings.redis_url.get_secret_value())
        try:
            url = redis.url if redis else settings.redis_url.get_secret_value() if settings.redis_url else ""
            environment = child_environment(settings) | {"SIBYL_REDIS_URL": url}
            api = Child(
                "api", ("api", "--fd", str(self._listening.fileno())), environment, fds=[self._listening.fileno()]
            )
            # One name for every incarnation: a new one takes over at once what the dead one held. The data folder's
            # lock, or the listening socket, lets no second supervisor use the same name on the same Redis.
            worker = Child("worker", ("worker", "--name", self._worker_name()), environment)
            await self._watch(redis, api, worker)
        finally:
            if redis is not None:
                logger.info("Ending: Redis", extra={"action": "end_redis"})
                await redis.stop(REDIS_END_S)
            logger.info("Ended", extra={"action": "ended"})

    async def _watch(self, redis: EmbeddedRedis | None, api: Child, worker: Child) -> None:
        running = [
            asyncio.create_task(api.run(), name="api"),
            asyncio.create_task(worker.run(), name="worker"),
        ]
        if redis is not None:
            running.append(asyncio.create_task(_keep(redis), name="redis"))
        telling = asyncio.create_task(self._tell_ready(), name="ready")
        ending = asyncio.create_task(self._asked_to_end(), name="ending")
        try:
            done, _ = await asyncio.wait({*running, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            telling.cancel()
            ending.cancel()
        logger.info("Ending: worker", extra={"action": "end_worker", "limit_s": self._settings.drain_s})
        await worker.end(self._settings.drain_s + self._settings.lease_s + KILL_S, at_once=self._at_once)
        logger.info("Ending: API", extra={"action": "end_api", "limit_s": API_END_S})
        self._listening.close()
        await api.end(API_END_S, at_once=self._at_once)
        for watching in running:
            watching.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for watching in done.difference({ending}):
            watching.result()  # raises why it ended by itself

    def _worker_name(self) -> str:
        address, port = self._listening.getsockname()[:2]
        return f"serve-{socket.gethostname()}-{address}-{port}"

    async def _asked_to_end(self) -> None:
        await self._ending.wait()

    def _end(self) -> None:
        if self._ending.is_set():
            self._at_once.set()
        self._ending.set()

    async def _tell_ready(self) -> None:
        """Say what to do next once a question would be answered."""
        host, port = self._listening.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        async with httpx.AsyncClient(base_url=url, timeout=5, trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get("readyz")).status_code == 200:
                        break
                await asyncio.sleep(_LOOK_S)
        logger.info("Ready", extra={"action": "ready", "url": url})
        where = "" if url == "http://127.0.0.1:8000/" else f" --url {url}"
        data = self._settings.data_dir if self._settings.redis_url is None else "the Redis of --redis-url"
        sys.stderr.write(WELCOME.format(url=url, command=_command(), where=where, data=data))
        sys.stderr.flush()


def _command() -> str:
    """How a user in another terminal calls us: by name if that is on PATH, else by where it is."""
    if shutil.which("sibyl"):
        return "sibyl"
    path = Path(sys.executable).parent / "sibyl"
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


async def _require_redis(url: str) -> None:
    store = Store(url)
    try:
        await store.patient(REDIS_START_S).check()
    except StoreUnavailable as error:
        why = f"Redis did not answer within {REDIS_START_S:.0f} s{because(error)}. Check --redis-url."
        raise StoreUnavailable(why) from None
    finally:
        await store.close()


async def _keep(redis: EmbeddedRedis) -> None:
    """Start Redis again whenever it dies."""
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


def _tell_loading(percent: float) -> None:
    logger.info("Redis loads its data: %.0f %%", percent, extra={"action": "redis_loading"})
