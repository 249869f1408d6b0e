"""A connection's end of a session: who may speak for it when two connections want to, and what a resume finds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sibyl.speech.catalogue import Catalogue, SpeechSettings
from sibyl.speech.line import Line
from sibyl.speech.outbox import Message
from sibyl.speech.session import SessionLimits
from sibyl.speech.sessions import Sessions
from tests.speech.hearing import blocks


@contextlib.asynccontextmanager
async def sessions(**limits: float) -> AsyncIterator[Sessions]:
    """Yield sessions with the scripted recogniser."""
    catalogue = Catalogue(SpeechSettings(provider="scripted", scripted=True))
    made = Sessions(catalogue, SessionLimits(**limits), most=4)
    try:
        yield made
    finally:
        await made.aclose()


async def connected(to: Sessions, **config: object) -> tuple[Line, Message]:
    """Return a line and its ``ready``."""
    line = Line(to, to.open())
    line.configure(config)
    return line, await told(line, "ready")


async def told(line: Line, kind: str) -> Message:
    """Return the next message of a kind."""
    async with asyncio.timeout(10):
        while True:
            message = await line.message()
            assert message is not None
            if message["type"] == kind:
                return message


async def test_what_a_connection_still_sends_after_its_session_was_resumed_elsewhere_is_not_heard() -> None:
    """It was on its way when the other came, which sends it again itself."""
    async with sessions() as to:
        old, ready = await connected(to)
        new, _ = await connected(to, resume={"token": ready["resume_token"], "last_seq": 0})
        old.binary(blocks(7))
        old.text('{"type": "end_of_stream"}')
        new.binary(blocks(1))
        new.text('{"type": "end_of_stream"}')

        assert (await told(new, "final"))["text"] == "w1"
        assert (await told(new, "session_ended"))["totals"]["bytes"] == len(blocks(1))
        assert await old.message() is None
        assert old.closing[0] == 4000
        old.ended(1000)
        assert await new.message() is None  # the goodbye of the old one was not the client's
        assert new.closing == (1000, "Normal closure")
        new.ended(1000)


async def test_many_resumes_at_once_leave_one_connection_with_the_session() -> None:
    """The last; and no other session."""
    async with sessions() as to:
        first, ready = await connected(to)
        resume = {"token": ready["resume_token"], "last_seq": 0}
        lines = [first]
        for _ in range(10):
            line = Line(to, to.open())
            line.configure({"resume": resume})
            lines.append(line)
        assert len(to) == to.hearing == 1

        for line in lines[:-1]:
            assert await line.message() is None
            line.ended(1006)
        lines[-1].binary(blocks(1))
        lines[-1].text('{"type": "end_of_stream"}')

        assert (await told(lines[-1], "final"))["text"] == "w1"
        lines[-1].ended(1006)
