"""Following one task over as many connections as that takes, as a machine: bytes, failures in; events, pauses out.

It promises that each event is handed out once and in order, that a body which ends before a terminal event is a cut
and never an end, and that nothing is handed out from behind a gap. It knows no socket and no clock; `Client` and
`AsyncClient` lend it theirs, and both do the same::

    while True:
        send follower.request
        if follower.opened(status, headers):
            for data in body: yield from follower.receive(data), and return when follower.over
            pause = follower.cut(now)
        else:
            pause = follower.replied(now, status, headers, body), and return when it is None
        wait pause.wait_s
"""

from collections.abc import Callable, Iterator, Mapping
from random import random

from sibyl.client.call import pause_of
from sibyl.client.errors import CannotConnect, UnexpectedReply, reply_error
from sibyl.client.events import ClientEvent, Output, Reset, Terminal, read_event
from sibyl.client.reconnect import Pause, Reconnect
from sibyl.client.requests import Request, events_request
from sibyl.core.cursor import Cursor
from sibyl.core.errors import InvalidCursor, SibylError
from sibyl.wire.sse import Frame, FrameTooLarge, Parser

FRAME_BYTES = 16 * 1024 * 1024  # a reset carries the whole answer


class Follower:
    """One task, from a cursor to its terminal event."""

    def __init__(
        self,
        task_id: str,
        *,
        after: str | None,
        give_up_s: float | None,
        jitter: Callable[[], float] = random,
    ) -> None:
        """``after``: the last event that the caller has; None is the beginning. ``give_up_s``: how long there may be
        no byte from the server before it is over; None is for ever.

        Raises:
            InvalidCursor: ``after`` is no cursor.
        """
        if after is not None:
            Cursor.parse(after)
        self._task_id = task_id
        self._jitter = jitter
        self._reconnect = Reconnect(give_up_s=give_up_s)
        self._parser = Parser(frame_bytes=FRAME_BYTES)
        self._next_index: int | None = 0 if after is None else None  # None: not known yet
        self.cursor = after  #: of the last event handed out; where the next connection goes on
        self.over = False  #: nothing follows

    @property
    def request(self) -> Request[None]:
        """What to send for the next connection."""
        return events_request(self._task_id, self.cursor)

    def opened(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take the head of a reply. True: its body is for ``receive``, piece by piece; else it is for ``replied``."""
        self._parser = Parser(frame_bytes=FRAME_BYTES)  # what was half received died with the last connection
        return status == 200 and headers.get("content-type", "").lower().startswith("text/event-stream")

    def receive(self, data: bytes) -> Iterator[ClientEvent]:
        """Yield the events that these bytes complete. The cursor moves with each, so stopping early loses nothing.

        Raises:
            UnexpectedReply: these are no events of a task, or some are missing. Trying again would not help.
        """
        if not data:
            return
        self._reconnect = self._reconnect.succeeded()
        try:
            frames = self._parser.feed(data)
        except FrameTooLarge as fault:
            raise UnexpectedReply() from fault
        for frame in frames:
            event = read_event(frame.data, _cursor(frame))
            if event is not None and not self._is_next(event):
                event = None
            self.cursor = frame.id or self.cursor  # also of an event that is not known here
            if event is None:
                continue
            self.over = isinstance(event, Terminal)
            yield event
            if self.over:
                return

    def _is_next(self, event: ClientEvent) -> bool:
        """Whether to hand it out; False when it was. Raises UnexpectedReply when one before it is missing."""
        match event:
            case Reset():
                self._next_index = event.kept
            case Output():
                if self._next_index is not None and event.index < self._next_index:
                    return False
                if self._next_index is not None and event.index > self._next_index:
                    raise UnexpectedReply("The stream has a gap: a part of the answer is missing. Follow it again.")
                self._next_index = event.index + 1
            case _:
                pass
        return True

    def cut(self, now: float, error: SibylError | None = None) -> Pause:
        """Take the end of a connection, whatever ended it; go on after the pause.

        Raises:
            SibylError: ``error``, when it is time to give up.
        """
        fault = error or CannotConnect("The stream was cut.")
        following = self._reconnect.failed(now, jitter=self._jitter(), asked_s=fault.retry_after_s)
        if following is None:
            raise fault
        self._reconnect = following
        return pause_of(following, now, fault)

    def replied(self, now: float, status: int, headers: Mapping[str, str], body: bytes) -> Pause | None:
        """Take a reply that is no stream; go on after the pause. None: the cursor is the end of the log.

        Raises:
            SibylError: trying again cannot help: the task is unknown or forgotten, the request is refused.
        """
        if status == 204:
            self.over = True
            return None
        # A page with status 200 comes from something between us and the server; it may be gone soon.
        error = UnexpectedReply() if status == 200 else reply_error(status, headers, body)
        if status == 200 or status == 429 or status >= 500:
            return self.cut(now, error)
        raise error


def _cursor(frame: Frame) -> str | None:
    if not frame.id:
        return None
    try:
        Cursor.parse(frame.id)  # it will be a header: no line end, no letter that a header cannot hold
    except InvalidCursor as fault:
        raise UnexpectedReply() from fault
    return frame.id
