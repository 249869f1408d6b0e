"""One REST call with its own repetitions, as a machine: it is told what happened, and says what comes next.

Every request of this client may be repeated, so a lost connection, a 5xx and a 429 are tried again for a while. It
knows no socket and no clock; `Client` and `AsyncClient` lend it theirs.
"""

import json
from collections.abc import Callable, Mapping
from random import random
from typing import Generic, TypeVar

from sibyl.client.errors import UnexpectedReply, reply_error
from sibyl.client.reconnect import Pause, Reconnect
from sibyl.client.requests import Request
from sibyl.core.errors import SibylError, TaskForgotten

T = TypeVar("T")


class Call(Generic[T]):
    """One call, from its first try to its result or its error."""

    def __init__(self, request: Request[T], *, retry_s: float | None, jitter: Callable[[], float] = random) -> None:
        """``retry_s``: how long to go on trying; 0 tries once, None is for ever."""
        self.request = request
        self._reconnect = Reconnect(give_up_s=retry_s)
        self._jitter = jitter
        self._result: T
        self._since: float | None = None

    @property
    def result(self) -> T:
        """What the server answered; only after ``replied`` returned None."""
        return self._result

    def replied(self, now: float, status: int, headers: Mapping[str, str], body: bytes) -> Pause | None:
        """Take a reply. None: the call is over, with a result. Else it is to be repeated after the pause.

        Raises:
            SibylError: the server says no, or went on failing.
        """
        if 200 <= status < 300:
            self._result = self.request.read(_json(body))
            return None
        error = reply_error(status, headers, body)
        if status == 429 or status >= 500:
            return self.failed(now, error)
        if isinstance(error, TaskForgotten) and self.request.method == "DELETE" and self._reconnect.failures:
            self._result = self.request.read(None)  # an earlier try arrived; only its reply was lost
            return None
        raise error

    def failed(self, now: float, error: SibylError) -> Pause:
        """Take a failure: a lost connection, or a reply that may be better next time.

        Raises:
            SibylError: ``error``, when it is time to give up.
        """
        following = self._reconnect.failed(now, jitter=self._jitter(), asked_s=error.retry_after_s)
        if following is None:
            raise error
        self._reconnect = following
        return pause_of(following, now, error)


def pause_of(reconnect: Reconnect, now: float, error: SibylError) -> Pause:
    """Return what is told to who waits."""
    return Pause(
        wait_s=reconnect.wait_s,
        failing_s=now - reconnect.failing_since,
        failures=reconnect.failures,
        error=error,
    )


def _json(body: bytes) -> object:
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError) as fault:
        raise UnexpectedReply() from fault
