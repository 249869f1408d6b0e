"""From a session's clock to the stream's: a session that began later, or was not sent all audio, counts differently.

Positions are samples. A stream counts all audio that was pushed, from its first sample on, over all sessions.
"""

from bisect import bisect_left, bisect_right


class Clock:
    """Which sample of the stream each sample of one session is: straight pieces with jumps between."""

    def __init__(self, rate_hz: int, begin: int) -> None:
        """Begin with the session's first sample, which is the stream's sample ``begin``."""
        self._rate_hz = rate_hz
        self._session = [0]
        self._stream = [begin]

    def jump(self, session: int, stream: int) -> None:
        """From the session's sample ``session`` on, the stream goes on at ``stream``."""
        if session == self._session[-1]:
            self._stream[-1] = stream
        else:
            self._session.append(session)
            self._stream.append(stream)

    def sample(self, session_s: float) -> int:
        """Return the stream's sample that begins at this time of the session."""
        session = round(session_s * self._rate_hz)
        piece = max(0, bisect_right(self._session, session) - 1)
        return self._stream[piece] + session - self._session[piece]

    def begin_s(self, session_s: float) -> float:
        """Return the time of the stream at which something begins."""
        return self._time_s(session_s, bisect_right(self._session, session_s * self._rate_hz) - 1)

    def end_s(self, session_s: float) -> float:
        """Return the time of the stream at which something ends; at a jump that is before it."""
        return self._time_s(session_s, bisect_left(self._session, session_s * self._rate_hz) - 1)

    def _time_s(self, session_s: float, piece: int) -> float:
        piece = max(0, piece)
        return session_s + (self._stream[piece] - self._session[piece]) / self._rate_hz
