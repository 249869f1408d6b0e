"""One process that is started again whenever it dies."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

from sibyl.core.errors import ProcessError
from sibyl.core.policy import backoff_s
from sibyl.store.parent_death import ending_with_parent

logger = logging.getLogger(__name__)

CANNOT_START = 2  # a child's exit code when starting it again is futile
STEADY_S = 10.0  # a child that lived so long has no failures behind it


async def _nothing() -> None: ...


class Child:
    """One process, in all its incarnations."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: dict[str, str],
        *,
        fds: Sequence[int] = (),
        on_death: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        """Prepare it; ``run`` starts it.

        Args:
            command: the arguments of ``sibyl``.
            fds: descriptors that it inherits.
            on_death: called after each death, before its successor is started. It must not raise, nor take long.
        """
        self.name = name
        self.incarnation = 0  #: how many processes there were, this one included
        self._command = command
        self._environment = environment
        self._fds = fds
        self._on_death = on_death
        self._process: asyncio.subprocess.Process | None = None
        self._ending = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Its process id, also when it is dead; None before its first start."""
        return None if self._process is None else self._process.pid

    async def run(self) -> None:
        """Keep it running until ``end``.

        Raises:
            ProcessError: it cannot start.
        """
        failures = 0
        try:
            while not self._ending.is_set():
                began = time.monotonic()
                self._process = await asyncio.create_subprocess_exec(
                    *ending_with_parent(sys.executable, "-P", "-m", "sibyl", *self._command),
                    env=self._environment,
                    pass_fds=self._fds,
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in a terminal is for the supervisor alone
                )
                self.incarnation += 1
                if self._ending.is_set():
                    self.signal(signal.SIGTERM)
                status = await self._process.wait()
                if status != 0:
                    await self._on_death()
                if self._ending.is_set():
                    return
                if status == CANNOT_START:
                    raise ProcessError(f"The {self.name} process cannot start; it said why above.")
                failures = 1 if time.monotonic() - began > STEADY_S else failures + 1
                pause_s = 0.0 if failures == 1 else backoff_s(failures - 1, first_s=0.2, most_s=10.0)
                facts = {"action": "child_died", "child": self.name, "status": status, "again_in_s": pause_s}
                logger.warning("The %s process died; starting it again", self.name, extra=facts)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._ending.wait()
        finally:
            self._ended.set()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def end(self, limit_s: float, *, at_once: asyncio.Event) -> None:
        """Ask it to drain, kill it after the limit or when ``at_once`` is set. Returns when it has ended."""
        self._ending.set()
        self.signal(signal.SIGTERM)
        ended = asyncio.create_task(self._ended.wait())
        hurry = asyncio.create_task(at_once.wait())
        await asyncio.wait({ended, hurry}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not ended.done():
            facts = {"action": "child_killed", "child": self.name}
            logger.warning("The %s process did not end in time", self.name, extra=facts)
            self.signal(signal.SIGKILL)
            await ended
