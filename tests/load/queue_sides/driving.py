"""What the driver of each queue has in common. Runs in the peers' environments: the standard library alone.

Orders come in on stdin, one a line, and each is answered by one line of JSON: ``burst 1000 16`` submits so many no-op
tasks by so many submitters and waits until every result was read; ``trips 100`` does one after the other.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable


def drive(run_one: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
    """Return a main program that obeys orders. ``run_one`` submits a task and returns once it has read its result."""

    async def burst(tasks: int, at_a_time: int) -> float:
        left = tasks

        async def submitter() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await run_one()

        began = time.perf_counter()
        await asyncio.gather(*(submitter() for _ in range(at_a_time)))
        return time.perf_counter() - began

    async def main() -> None:
        print("ready", flush=True)
        while order := (await asyncio.to_thread(sys.stdin.readline)).split():
            if order[0] == "burst":
                tell(tasks_per_s=int(order[1]) / await burst(int(order[1]), int(order[2])))
            else:
                times = []
                for _ in range(int(order[1])):
                    began = time.perf_counter()
                    await run_one()
                    times.append(1000 * (time.perf_counter() - began))
                tell(times_ms=times)

    return main


def tell(**answer: object) -> None:
    """Answer an order."""
    print(json.dumps(answer), flush=True)
