"""Rounds: who asks gets work that began after the asking, and no more work is done than that takes."""

import asyncio

import pytest

from sibyl.store.rounds import Rounds


class Work:
    """Work that waits to be let go, and counts."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = asyncio.Event()
        self.failing: set[int] = set()  # numbers of rounds

    async def __call__(self) -> None:
        """Work."""
        self.begun += 1
        number = self.begun
        await self.go.wait()
        if number in self.failing:
            raise OSError("no")


async def turn(times: int = 5) -> None:
    """Let others run."""
    for _ in range(times):
        await asyncio.sleep(0)


async def test_those_who_ask_at_once_share_a_round() -> None:
    """And those who ask while it runs share the next one, since theirs began before they asked."""
    work = Work()
    rounds = Rounds(work)
    first = [asyncio.create_task(rounds.take_part()) for _ in range(100)]
    await turn()
    assert work.begun == 1
    second = [asyncio.create_task(rounds.take_part()) for _ in range(100)]
    await turn()
    assert work.begun == 1

    work.go.set()
    await asyncio.gather(*first, *second)

    assert work.begun == 2
    await rounds.take_part()
    assert work.begun == 3


async def test_a_failure_is_told_to_all_and_the_next_round_begins_anew() -> None:
    """What failed for some is tried for those who come."""
    work = Work()
    work.failing = {1}
    rounds = Rounds(work)
    asked = [asyncio.create_task(rounds.take_part()) for _ in range(3)]
    await turn()
    later = asyncio.create_task(rounds.take_part())
    work.go.set()
    for each in asked:
        with pytest.raises(OSError, match="no"):
            await each

    await later

    assert work.begun == 2


async def test_who_gives_up_stops_nobody() -> None:
    """The others get their round; and one that nobody waits for any more fails in silence."""
    work = Work()
    rounds = Rounds(work)
    leaving, staying = (asyncio.create_task(rounds.take_part()) for _ in range(2))
    await turn()
    leaving.cancel()
    await asyncio.wait([leaving])
    work.go.set()
    await staying
    work.go.clear()
    work.failing = {2}
    alone = asyncio.create_task(rounds.take_part())
    await turn()
    alone.cancel()
    await asyncio.wait([alone])
    work.go.set()
    await turn()

    assert work.begun == 2
