"""One private Redis, started, watched and ended by the process that needs it.

It promises: data in ``<data_dir>/redis`` that only this user may read; every acknowledged write on disk
(appendfsync always, unless told otherwise); at most one server per data directory; a server that ends with
its parent; and a socket that appears only when the data are loaded and a torn end has been repaired. It
refuses to know what is stored, and when to restart: ``exited`` tells that the server died, ``start`` starts
it again at the same address.

On macOS nothing ends a server whose parent was killed with -9. The next start finds it by its lock and
shuts it down.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from sibyl.core.errors import ProcessError
from sibyl.store.instance_lock import InstanceLock, LockHolder
from sibyl.store.redis_admin import Answer, RedisAdmin
from sibyl.store.redis_binary import MINIMUM_VERSION, RedisBinary, find_redis_binary
from sibyl.store.redis_process import RedisProcess
from sibyl.store.redis_settings import SUPERVISOR, Fsync, redis_configuration, start_failure, torn_tail, written_on
from sibyl.store.socket_place import SocketPlace

POLL_S = 0.01
PROGRESS_S = 1.0  # a load that takes longer than this says how far it is, this often
SILENCE_LIMIT_S = 30.0  # a server that says nothing for so long while starting is given up
ORPHAN_GRACE_S = 1.0  # a server whose parent has just died may need this long to end by itself
ORPHAN_LIMIT_S = 5.0
STOP_LIMIT_S = 10.0
MIN_FREE_BYTES = 32 * 1024 * 1024  # with appendfsync always a full disk ends Redis, so do not begin on one

logger = logging.getLogger(__name__)


class EmbeddedRedis:
    """The supervisor of one private server, in one event loop, in a thread that outlives the server.

    ``binary``: the server program; None means the first usable one (see ``redis_binary``).
    ``on_loading``: called once a second with the percentage loaded, while the data take longer than that.
    ``settings``: further redis.conf directives of one argument, such as ``{"maxmemory": "512mb"}``.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        fsync: Fsync = "always",
        binary: Path | None = None,
        on_loading: Callable[[float], None] | None = None,
        settings: Mapping[str, str] | None = None,
        min_free_bytes: int = MIN_FREE_BYTES,
    ) -> None:
        self._directory = data_dir.absolute() / "redis"
        self._fsync: Fsync = fsync
        self._wanted_binary = binary
        self._on_loading = on_loading
        self._settings = dict(settings or {})
        self._min_free_bytes = min_free_bytes
        self._lock = InstanceLock(self._directory / "lock")
        self._changing = asyncio.Lock()  # start and stop, one at a time
        self._sockets: SocketPlace | None = None
        self._password = secrets.token_hex(32)
        self._process: RedisProcess | None = None
        self._mended_process: RedisProcess | None = None
        self._mended_bytes = 0  # of its log
        self._binary: RedisBinary | None = None

    @property
    def url(self) -> str:
        """What ``Redis.from_url`` takes, without a secret. The same for every restart until ``stop``.

        Raises RuntimeError before the first start. No CONFIG here: ``INFO memory`` tells the eviction policy.
        """
        return self._place.url()

    @property
    def admin_url(self) -> str:
        """Like ``url``, for the user that may do everything, with its password: never log it."""
        return self._place.url(f"{SUPERVISOR}:{self._password}@")

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int | None:
        """The server's process id; None before the first start. A dead server keeps its number."""
        return None if self._process is None else self._process.pid

    @property
    def binary(self) -> RedisBinary | None:
        """The server program in use; None before the first start."""
        return self._binary

    async def exited(self) -> int | None:
        """Wait until the server has ended; return its exit status, negative for a signal.

        Returns None at once when it was never started.
        """
        return None if self._process is None else await self._process.exited()

    async def mend(self) -> bool:
        """Have the file written anew if the server wrote on after a full disk; return whether it had.

        Redis 7.0 takes the last, short write back then, but goes on behind it: the hole of zeros in between is a file
        that no later start can read. Raises ProcessError when that failed; it is tried again with the next call.
        """
        if self._process is None or not self._process.running:
            return False
        if self._mended_process is not self._process:
            self._mended_process, self._mended_bytes = self._process, 0
        news = self._process.log(self._mended_bytes)
        if written_on(news):
            async with RedisAdmin.connected(self._place.serving, self._password) as admin:
                await admin.rewrite()
        self._mended_bytes += len(news.encode())
        return written_on(news)

    async def start(self) -> None:
        """Start the server and return when it serves: loaded, and a torn end of its data repaired.

        Does nothing while it runs; starts it again, at the same address, after it died. Loading takes as
        long as it takes. Raises ProcessError, one line that says what to do; nothing is left running then,
        nor on cancellation. After a failed restart the address and the lock are kept for the next attempt:
        call ``stop`` to give them up.
        """
        async with self._changing:
            if self.running:
                return
            first = not self._lock.held
            try:
                await self._start()
            except BaseException as error:
                if self._process is not None:
                    await self._process.kill()
                if first:  # a failed restart keeps the address that others know
                    self._release()
                if isinstance(error, OSError):
                    raise ProcessError(
                        f"Redis cannot use {self._directory}: {error.strerror or error}. "
                        "Make it writable, free some space, or choose another --data-dir."
                    ) from error
                raise

    async def stop(self, limit_s: float = STOP_LIMIT_S) -> None:
        """End the server (SIGTERM, SIGKILL after ``limit_s`` seconds), give up the lock and the sockets.

        Stopping twice is once. On cancellation the server is killed at once; acknowledged writes are on
        disk anyway.
        """
        async with self._changing:
            try:
                if self._process is not None:
                    await self._process.end(limit_s)
            finally:
                self._release()

    async def _start(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        await self._take_lock()
        free_bytes = shutil.disk_usage(self._directory).free
        if free_bytes < self._min_free_bytes:
            raise ProcessError(
                f"The disk of {self._directory} is full: {free_bytes >> 20} MiB free, at least "
                f"{self._min_free_bytes >> 20} MiB needed. Free some space, or choose another --data-dir."
            )
        self._binary = await self._choose_binary()
        if self._sockets is None:  # a restart keeps the address
            self._sockets = SocketPlace.choose(self._directory)
        process = await self._spawn(self._binary)
        async with RedisAdmin.connected(self._place.starting, self._password) as admin:
            await self._loaded(admin, process, self._binary)
            if torn := torn_tail(process.log()):
                await self._repair(admin, process, torn)
        self._sync_directories()
        # Clients look at the other name: none of them writes before the data are whole, none sees "LOADING".
        self._place.starting.replace(self._place.serving)
        logger.info(
            "Redis %s serves",
            self._binary.version_text,
            extra={"action": "redis_ready", "redis_pid": process.pid, "binary": str(self._binary.path)},
        )

    async def _take_lock(self) -> None:
        """Take the data directory's lock, or raise ProcessError that names who has it."""
        if self._lock.held:
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        asked = False
        while not self._lock.acquire():
            holder = self._lock.holder()
            waited_s = loop.time() - began
            if holder is not None and holder.is_alive():
                raise ProcessError(
                    f"Another Sibyl (process {holder.pid}) uses {self._directory.parent}. "
                    f"End it (kill {holder.pid}), or choose another --data-dir."
                )
            if waited_s > ORPHAN_LIMIT_S:
                left = f" (process {holder.child_pid})" if holder and holder.child_pid else ""
                raise ProcessError(
                    f"A Redis{left} whose Sibyl has died still uses {self._directory}. "
                    "End that process, then start again."
                )
            if waited_s > ORPHAN_GRACE_S and holder is not None and not asked:
                asked = True
                await self._end_orphan(holder)
            await asyncio.sleep(POLL_S)  # the kernel tells nobody, except by blocking a thread
        last = self._lock.holder()
        if last is not None and last.socket_path is not None:  # a killed Sibyl could not tidy up
            directory = Path(last.socket_path).parent
            SocketPlace(directory=directory, temporary=directory != self._directory).remove()
        self._lock.write(LockHolder(pid=os.getpid()))

    async def _end_orphan(self, holder: LockHolder) -> None:
        """Ask a server that outlived its parent to end. By its socket: its pid may be another's by now."""
        if holder.socket_path is not None and holder.password is not None:
            with contextlib.suppress(TimeoutError):
                async with (
                    asyncio.timeout(ORPHAN_GRACE_S),  # it may be frozen
                    RedisAdmin.connected(Path(holder.socket_path), holder.password) as admin,
                ):
                    await admin.shutdown()

    async def _choose_binary(self) -> RedisBinary:
        # Redis 6.2 would not see the files of a newer one, and begin with nothing.
        newer = (self._directory / "appendonlydir").exists()
        try:
            return await find_redis_binary((7, 0) if newer else MINIMUM_VERSION, self._wanted_binary)
        except ProcessError as error:
            if not newer:
                raise
            reason = f"{self._directory} was written by Redis 7 or newer."
            raise ProcessError(f"{reason} {error.message}") from error

    async def _spawn(self, binary: RedisBinary) -> RedisProcess:
        configuration = redis_configuration(
            directory=self._directory,
            socket=self._place.starting,
            fsync=self._fsync,
            password=self._password,
            settings=self._settings,
        )
        process = await RedisProcess.spawn(binary, self._directory, configuration, inherited=self._lock.descriptor)
        self._process = process
        self._lock.write(
            LockHolder(
                pid=os.getpid(),
                child_pid=process.pid,
                socket_path=str(self._place.serving),
                password=self._password,
            )
        )
        return process

    async def _loaded(self, admin: RedisAdmin, process: RedisProcess, binary: RedisBinary) -> None:
        """Return when the data are loaded. Raise ProcessError when the server ends instead or is silent."""
        loop = asyncio.get_running_loop()
        heard = told = loop.time()
        while (answer := await admin.ping()) is not Answer.READY:
            now = loop.time()
            if answer is Answer.LOADING:
                heard = now
            elif now - heard > SILENCE_LIMIT_S:
                raise ProcessError(
                    f"Redis said nothing for {SILENCE_LIMIT_S:g} s while starting. Its log is {process.log_path}."
                )
            if answer is Answer.LOADING and now - told >= PROGRESS_S:
                told = now
                await self._tell_progress(admin)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    status = await process.exited()
                raise ProcessError(
                    start_failure(
                        process.log(),
                        status=status,
                        directory=self._directory,
                        log_path=process.log_path,
                        binary=binary,
                    )
                )

    async def _tell_progress(self, admin: RedisAdmin) -> None:
        percent = await admin.loaded_percent()
        if percent is None:  # it has finished meanwhile, or ended: the next PING tells
            return
        logger.info("Redis loads its data: %.0f %%", percent, extra={"action": "redis_loading"})
        if self._on_loading is not None:
            self._on_loading(percent)

    async def _repair(self, admin: RedisAdmin, process: RedisProcess, torn: str) -> None:
        """Make a cut end harmless.

        Redis cuts a torn end off after the last whole command, even inside a MULTI. What is written next
        would belong to that MULTI: lost, or half a script applied, at the next start (valkey-io/valkey#4342).
        """
        logger.warning("Redis ended uncleanly, rewriting: %s", torn, extra={"action": "redis_rewrite"})
        try:
            await admin.rewrite()
        except ProcessError as error:
            raise ProcessError(
                f"Redis could not repair the end of its data in {self._directory}: {error.message}. "
                f"Free some disk space and memory, then start again. Its log is {process.log_path}."
            ) from error

    def _sync_directories(self) -> None:
        """Make the names of new files durable, which Redis 6.2 leaves to chance."""
        for directory in (self._directory, self._directory / "appendonlydir"):
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(directory, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _release(self) -> None:
        if self._sockets is not None:
            self._sockets.remove()
            self._sockets = None
        self._lock.release()

    @property
    def _place(self) -> SocketPlace:
        if self._sockets is None:
            raise RuntimeError("the embedded Redis has an address only between start and stop")
        return self._sockets
