"""Real processes that are started again whenever they end, as an operator's service manager would."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from sibyl.store.parent_death import ending_with_parent
from tests.chaos.history import Process

DRAIN_LIMIT_S = 20.0  # SIGTERM must be obeyed within this


class Kept:
    """One kept process. It ends with ours."""

    def __init__(
        self,
        name: str,
        *words: str,
        environment: dict[str, str],
        directory: Path,
        note: Callable[[str, int | None], None],
    ) -> None:
        """Prepare it.

        Args:
            words: what follows ``sibyl``.
            directory: where it runs, and its log lies.
            note: told of each beginning and end, and of the exit status.
        """
        self.name = name
        self.pause_s = 0.2  #: before it is started again
        self.log_path = directory / f"{name}.log"
        self._words = words
        self._environment = environment
        self._directory = directory
        self._note = note
        self._process: asyncio.subprocess.Process | None = None
        self._why: str | None = None
        self._ending = False
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and keep it from now on."""
        await self._spawn()
        self._keeping = asyncio.create_task(self._keep(), name=f"keep-{self.name}")

    @property
    def running(self) -> bool:
        """Whether it is there; a frozen one is."""
        return self._process is not None and self._process.returncode is None

    def kill(self, pause_s: float) -> None:
        """kill -9; it is started again after ``pause_s``."""
        self.pause_s, self._why = pause_s, "killed"
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it, and all that it was about to do."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on as if nothing had been."""
        self._signal(signal.SIGCONT)

    async def drain(self, pause_s: float) -> None:
        """Ask it to end, wait until it has, kill it if it does not; it is started again after ``pause_s``."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.pause_s, self._why = pause_s, "drained"
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(DRAIN_LIMIT_S):
                await process.wait()
        except TimeoutError:
            self._why = "undrained"
            self._signal(signal.SIGKILL)
            await process.wait()

    async def end(self) -> None:
        """End it for good."""
        self._ending = True
        self.thaw()
        self._signal(signal.SIGTERM)
        if self._process is not None:
            try:
                async with asyncio.timeout(5):
                    await self._process.wait()
            except TimeoutError:
                self._signal(signal.SIGKILL)
                await self._process.wait()
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            status = await self._process.wait()
            if self._ending:
                return
            self._note(self._why or "ended", status)
            self._why = None
            await asyncio.sleep(self.pause_s)
            await self._spawn()

    async def _spawn(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *ending_with_parent(sys.executable, "-m", "sibyl", *self._words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the driver
            )
        self._note("began", None)

    def _signal(self, number: signal.Signals) -> None:
        # Not with asyncio's send_signal, which reaps a process that has just died before asyncio's own watcher does.
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def environment(**settings: object) -> dict[str, str]:
    """Return our environment with these settings of Sibyl and no others."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("SIBYL_")}
    return others | {f"SIBYL_{name.upper()}": str(value) for name, value in settings.items()}


def note_for(
    name: str, now: Callable[[], float], write: Callable[[Process], None]
) -> Callable[[str, int | None], None]:
    """Return what a kept process is told to call: it writes a record."""
    return lambda what, status: write(Process(t=now(), name=name, what=what, status=status))
