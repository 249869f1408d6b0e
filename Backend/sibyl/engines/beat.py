"""One thread that gives many generations their pace: it steps all that are due, then sleeps until the next one is.

So the scripted engine calls back as a batched model does, for all its generations from one thread and in bursts; and
sixteen of them cost one wake-up a step, not sixteen. The thread lives only while it has something to do.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sibyl.bridge.abort import Abort


@dataclass(slots=True, kw_only=True)
class _Player:
    """One generation."""

    step: Callable[[], bool]
    tokens_per_s: float
    rests: Callable[[], bool]
    due_at: float
    tick: int = 0  #: of its pace, since the clock's beginning; 0 before the first step
    ended: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


class Beat:
    """Steps generations. ``play`` may be called from any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._players: list[_Player] = []
        self._stepping: _Player | None = None
        self._thread: threading.Thread | None = None

    def play(
        self, step: Callable[[], bool], *, tokens_per_s: float, rests: Callable[[], bool] | None, abort: Abort
    ) -> None:
        """Call ``step`` in the beat's thread until it returns False: at once, then in time with all of the same pace.

        Args:
            step: must not block: it would hold up all others.
            rests: whether to leave it out now.
            abort: ends it at once; the reason is raised.

        Raises:
            Exception: what ``step`` raised, or the reason of the abort. ``step`` is not running then, nor called again.
        """
        player = _Player(step=step, tokens_per_s=tokens_per_s, rests=rests or _never, due_at=time.monotonic())
        with abort.hook(player.ended.set):
            with self._changed:
                self._players.append(player)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="beat", daemon=True)
                    self._thread.start()
                self._changed.notify_all()
            player.ended.wait()
        with self._changed:
            if player in self._players:
                self._players.remove(player)
            while self._stepping is player:
                self._changed.wait()
        abort.raise_if_requested()
        if player.error is not None:
            raise player.error

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._players:
                    self._thread = None
                    return
                now = time.monotonic()
                due = [player for player in self._players if player.due_at <= now]
                if not due:
                    self._changed.wait(min(player.due_at for player in self._players) - now)
                    continue
            for player in due:
                self._step(player)

    def _step(self, player: _Player) -> None:
        # On the grid of its pace, so that those of one pace fall together; the second at least one interval later.
        player.tick = player.tick + 1 if player.tick else math.floor(player.due_at * player.tokens_per_s) + 2
        player.due_at = player.tick / player.tokens_per_s
        if player.rests():
            return
        with self._changed:
            if player not in self._players:
                return
            self._stepping = player
        goes_on = False
        try:
            goes_on = player.step()
        except BaseException as error:
            player.error = error
        with self._changed:
            self._stepping = None
            if not goes_on and player in self._players:
                self._players.remove(player)
            self._changed.notify_all()
        if not goes_on:
            player.ended.set()


def _never() -> bool:
    return False
