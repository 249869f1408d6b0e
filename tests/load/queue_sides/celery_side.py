"""Celery: a no-op task with results in Redis. Its client is synchronous: it submits all, then reads all."""

import os
import sys
import time

from celery import Celery  # type: ignore[import-not-found]
from driving import tell  # type: ignore[import-not-found]

URL = os.environ["QUEUE_URL"]
app = Celery("celery_side", broker=URL, backend=URL)
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, result_expires=600)


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop() -> int:
    """Do nothing."""
    return 0


def main() -> None:
    """Obey, as ``driving.drive`` does."""
    print("ready", flush=True)
    for line in sys.stdin:
        order = line.split()
        began = time.perf_counter()
        if order[0] == "burst":
            for result in [noop.delay() for _ in range(int(order[1]))]:
                result.get(timeout=60)
            tell(tasks_per_s=int(order[1]) / (time.perf_counter() - began))
        else:
            times = []
            for _ in range(int(order[1])):
                began = time.perf_counter()
                noop.delay().get(timeout=60)
                times.append(1000 * (time.perf_counter() - began))
            tell(times_ms=times)


if __name__ == "__main__":
    main()
