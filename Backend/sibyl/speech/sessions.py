"""The sessions of one process: how many there may be, which one a token names, and their common end."""

import asyncio
import secrets
import time
from dataclasses import replace

from sibyl.bridge.bridge import Bridge
from sibyl.core.errors import RecogniserBusy
from sibyl.speech.catalogue import Catalogue
from sibyl.speech.hosted import HostedSession
from sibyl.speech.session import Session, SessionLimits

STUCK_S = 3.0  # a recogniser that does not leave for so long, at the end, is not waited for


class Sessions:
    """All sessions, from their first frame until nothing of them is needed. Lives on one event loop."""

    def __init__(self, catalogue: Catalogue, limits: SessionLimits, *, most: int) -> None:
        """Make room for ``most`` sessions at a time. Must be called on the loop."""
        self.draining = False
        self._catalogue = catalogue
        self._limits = limits
        self._most = most
        self._bridge = Bridge(threads=most)
        self._all: dict[str, HostedSession] = {}
        self._settled = asyncio.Event()  # looked at only while draining

    def __len__(self) -> int:
        return len(self._all)

    @property
    def hearing(self) -> int:
        """How many of them hold a recogniser."""
        return sum(session.hears for session in self._all.values())

    def open(self, *, backlog_s: float | None = None, resumable: bool = True) -> HostedSession:
        """Return a new session in CONFIG.

        Args:
            backlog_s: audio that may wait; None: as the settings say.
            resumable: whether it waits for a client that was cut off.
        """
        limits = self._limits
        limits = replace(
            limits,
            backlog_s=limits.backlog_s if backlog_s is None else backlog_s,
            grace_s=limits.grace_s if resumable else 0.0,
        )
        token = secrets.token_urlsafe(24)
        loop = asyncio.get_running_loop()
        session = Session(secrets.token_hex(16), token, limits, now=loop.time(), utc_s=time.time())
        hosted = HostedSession(
            session, bridge=self._bridge, catalogue=self._catalogue, admit=self._admit, changed=self._look
        )
        self._all[token] = hosted
        return hosted

    def find(self, token: str) -> HostedSession | None:
        """Return the session of a token, if it still lives."""
        return self._all.get(token)

    async def drain(self, limit_s: float) -> None:
        """Let nobody begin, have all told what they said, and wait for that until the limit; then end what is left."""
        self.draining = True
        self._look(None)
        for hosted in tuple(self._all.values()):
            hosted.after(hosted.session.shut_down(hosted.now))
        try:
            async with asyncio.timeout(limit_s):
                await self._settled.wait()
        except TimeoutError:
            pass

    async def aclose(self) -> None:
        """End all sessions at once and wait for their threads, but for recognisers that are stuck: see ``hearing``."""
        self.draining = True
        await asyncio.gather(*(hosted.aclose(STUCK_S) for hosted in tuple(self._all.values())))
        self._bridge.close()
        if not self.hearing:
            await asyncio.to_thread(self._catalogue.close)

    def _admit(self) -> None:
        if self.draining or self.hearing >= self._most:
            raise RecogniserBusy()

    def _look(self, changed: HostedSession | None) -> None:
        if changed is not None and changed.over:
            self._all.pop(changed.session.token, None)
        if self.draining and all(hosted.settled for hosted in self._all.values()):
            self._settled.set()
