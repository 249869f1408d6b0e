"""taskiq-redis: a no-op task on its stream broker, which acknowledges, with results in Redis."""

import asyncio
import os

from driving import drive  # type: ignore[import-not-found]
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker  # type: ignore[import-not-found]

URL = os.environ["QUEUE_URL"]
broker = RedisStreamBroker(url=URL).with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=600))


@broker.task(task_name="noop")  # type: ignore[untyped-decorator]
async def noop() -> int:
    """Do nothing."""
    return 0


async def run_one() -> None:
    """Submit one and read its result, looked for as often as pays."""
    task = await noop.kiq()
    await task.wait_result(check_interval=0.001, timeout=60)


async def main() -> None:
    """Obey."""
    await broker.startup()
    await drive(run_one)()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
