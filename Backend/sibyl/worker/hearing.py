"""Whether a worker hears its doorbell: a deaf one does not say that it is alive, and starts itself anew.

A read that does not return gives up its connection after three seconds, which cures most. What is left after six,
with a Redis that answers everybody else, is nothing that this code knows about: exhausted connections, a library's
state, a stuck thread. So the cure is a new process, not a new connection.
"""

import time
from collections.abc import Awaitable, Callable

from sibyl.core.errors import SibylError
from sibyl.core.silence import Silence
from sibyl.store.connection import Store
from sibyl.store.doorbell import Doorbell

HEARD_S = 3.5  # heard so lately, a worker may say that it is alive; longer than one stuck read
DEAF_S = 6.0
LOOK_CAP_S = 2.0  # this process may have been stopped; of the time between two looks no more counts


class Hearing:
    """Watches one doorbell."""

    def __init__(self, doorbell: Doorbell, *, redis_answers: Callable[[], Awaitable[bool]]) -> None:
        """Prepare to watch.

        Args:
            redis_answers: whether Redis answers on a new connection; asked only in silence.
        """
        self._doorbell = doorbell
        self._redis_answers = redis_answers
        self._silences = [Silence(limit_s=DEAF_S, look_cap_s=LOOK_CAP_S) for _ in doorbell.reads]

    @property
    def hears(self) -> bool:
        """Whether every shard's doorbell was read lately."""
        return self._doorbell.silent_s < HEARD_S

    async def deaf(self) -> bool:
        """Whether it heard once, and now has not for seconds in which Redis answered others. Ask about once a second.

        Raises nothing; takes as long as Redis needs to answer.
        """
        listening = self.hears or await self._redis_answers()
        now = time.monotonic()
        if not listening:
            for silence in self._silences:
                silence.pause(now)
            return False
        counts = zip(self._silences, self._doorbell.reads, strict=True)
        silent = [silence.look(now, reads or None) for silence, reads in counts]
        return any(silent)


async def answers_anew(url: str, *, shards: int) -> bool:
    """Whether Redis answers on a connection of its own, about every doorbell. Raises nothing but on cancellation."""
    store = Store(url, shards=shards, patience_s=0.0)
    try:
        for shard in store.shards:
            await store.command("XLEN", shard.bell)
    except SibylError:
        return False
    finally:
        await store.close()
    return True
