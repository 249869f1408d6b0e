"""When to try again, and when to give up: a pure value. It reads no clock, draws no random number and never waits."""

from dataclasses import dataclass, replace

from sibyl.core.errors import SibylError
from sibyl.core.policy import backoff_s

FIRST_WAIT_S = 0.25
MOST_WAIT_S = 15.0
MOST_RETRY_AFTER_S = 120.0  # a server is obeyed up to here


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """No connection for the moment; the next try is after ``wait_s``."""

    wait_s: float
    failing_s: float  #: since the first failure in this row
    failures: int
    error: SibylError  #: the last failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect:
    """The failures in a row, and the rule for the next."""

    give_up_s: float | None  #: how long nothing may succeed; 0 tries once; None is for ever
    failures: int = 0
    failing_since: float = 0.0
    wait_s: float = 0.0  #: before the next try

    def succeeded(self) -> "Reconnect":
        """Return the value after a sign of life."""
        return Reconnect(give_up_s=self.give_up_s)

    def failed(self, now: float, *, jitter: float, asked_s: float | None = None) -> "Reconnect | None":
        """Return the value after one more failure; None when it is time to give up.

        The wait doubles, and lies between half of its length and the whole, so that many readers do not return at once.

        Args:
            now: any clock in seconds that never goes back.
            jitter: a fresh random number from 0 to 1.
            asked_s: what the server asked to wait; it is obeyed, never shortened, up to 120 s.
        """
        since = self.failing_since if self.failures else now
        if asked_s is None:
            wait_s = backoff_s(self.failures + 1, first_s=FIRST_WAIT_S, most_s=MOST_WAIT_S) * (1 + jitter) / 2
        else:
            wait_s = min(asked_s, MOST_RETRY_AFTER_S) + jitter * FIRST_WAIT_S
        if self.give_up_s is not None:
            left_s = since + self.give_up_s - now
            if left_s <= 0 or (asked_s is not None and asked_s > left_s):
                return None
            wait_s = min(wait_s, left_s)  # one last try at the very end
        return replace(self, failures=self.failures + 1, failing_since=since, wait_s=wait_s)
