"""One connection's end of a session: frames go in, messages come out, and a resume changes which session it is."""

import asyncio

from sibyl.speech.hosted import HostedSession
from sibyl.speech.outbox import Message
from sibyl.speech.sessions import Sessions

SUPERSEDED = (4000, "Another connection resumed this session")
GOODBYE = 1000  # a client that closes with it will not come back


class Line:
    """From the opening of a connection to its end. Lives on the event loop."""

    def __init__(self, sessions: Sessions, hosted: HostedSession) -> None:
        self._sessions = sessions
        self._hosted = hosted
        self._ready = asyncio.Event()
        self._superseded = False
        hosted.listener = self

    def text(self, text: str) -> None:
        """Take a text frame."""
        if self._superseded:
            return
        self._hosted.after(self._hosted.session.text(text, self._hosted.now))
        self._follow_resume()

    def binary(self, data: bytes) -> None:
        """Take a binary frame."""
        if self._superseded:  # it was on its way; the other line was told up to where all had come
            return
        self._hosted.after(self._hosted.session.binary(data, self._hosted.now))

    def configure(self, fields: dict[str, object]) -> None:
        """Take a config that came with the connection itself."""
        self._hosted.after(self._hosted.session.configure(fields, self._hosted.now))
        self._follow_resume()

    def ended(self, code: int) -> None:
        """The connection is gone; ``code`` is the client's close code or one for none."""
        if self._superseded:
            return
        hosted = self._hosted
        hosted.listener = None
        said_goodbye = code == GOODBYE and hosted.session.closing is None
        hosted.after(hosted.session.left() if said_goodbye else hosted.session.cut_off(hosted.now))

    async def message(self) -> Message | None:
        """Return the next message to write; None: nothing comes any more, and ``closing`` says how to close."""
        while not self._superseded:
            message = self._hosted.session.outbox.take()
            if message is not None:
                return message
            if self._hosted.session.closing is not None:
                return None
            self._ready.clear()
            await self._ready.wait()
        return None

    @property
    def closing(self) -> tuple[int, str]:
        """Close code and reason."""
        return SUPERSEDED if self._superseded else self._hosted.session.closing or (1011, "internal")

    def wake(self) -> None:
        """There is something to write."""
        self._ready.set()

    def superseded(self) -> None:
        """Another line has taken the session."""
        self._superseded = True
        self._ready.set()

    def _follow_resume(self) -> None:
        here, resume = self._hosted, self._hosted.resume
        if resume is None:
            return
        here.resume = None
        found = self._sessions.find(resume.token)
        if found is None or not found.session.attach(resume.last_seq, found.now):
            here.after(here.session.begin(here.now))
            return
        if found.listener is not None:  # its connection is half open
            found.listener.superseded()
        found.listener, here.listener, self._hosted = self, None, found
        here.after(here.session.left())
        found.after([])
