"""How long something has said nothing new, counted so that nobody is blamed for a pause of ours."""


class Silence:
    """Counts the silence between signs of life, look by look.

    It is armed by the first sign: who has never spoken is not missed.
    Between two looks no more than ``look_cap_s`` count: whoever looks may itself have been stopped, with all others.
    """

    def __init__(self, *, limit_s: float, look_cap_s: float) -> None:
        self._limit_s = limit_s
        self._look_cap_s = look_cap_s
        self.forget()

    def forget(self) -> None:
        """Begin anew: somebody else speaks now, or nobody could have been heard meanwhile."""
        self._sign: object | None = None
        self._looked_at: float | None = None
        self.silent_s = 0.0  #: how long it has been silent, as far as that counts

    def pause(self, now: float) -> None:
        """Take note that nothing could be heard at ``now``; the time until then does not count."""
        self._looked_at = now
        self.silent_s = 0.0

    def look(self, now: float, sign: object | None) -> bool:
        """Return whether the limit is reached.

        Args:
            now: monotonic, in seconds.
            sign: changes as long as there is life; None: none is to be expected, or not yet.
        """
        if sign != self._sign:
            self._sign = sign
            self.silent_s = 0.0
        elif sign is not None and self._looked_at is not None:
            self.silent_s += min(now - self._looked_at, self._look_cap_s)
        self._looked_at = now
        return self.silent_s >= self._limit_s
