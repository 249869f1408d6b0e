"""SAQ: a no-op job; its result is looked for as often as pays, since its own listener takes a second to begin."""

import asyncio
import os
import sys

from driving import drive  # type: ignore[import-not-found]
from saq import Queue, Worker  # type: ignore[import-not-found]


async def noop(context: object) -> int:
    """Do nothing."""
    return 0


async def main(role: str, at_a_time: int) -> None:
    """Work, or obey."""
    queue = Queue.from_url(os.environ["QUEUE_URL"])
    await queue.connect()
    if role == "worker":
        await Worker(queue, functions=[noop], concurrency=at_a_time).start()
        return

    async def run_one() -> None:
        job = await queue.enqueue("noop")
        while not job.completed:
            await asyncio.sleep(0.001)
            await job.refresh()

    await drive(run_one)()
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
