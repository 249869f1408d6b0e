"""API nodes and workers as they stand on several machines: processes that share nothing but a Redis."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.processes import Node, api_node, until, worker_node, workers_alive

START_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All nodes of one Sibyl."""

    apis: dict[str, Node]  #: by their addresses
    workers: dict[str, Node]  #: by their names

    @property
    def urls(self) -> list[str]:
        """The addresses of the API nodes."""
        return [*self.apis]

    def restart_worker(self, name: str) -> int:
        """Drain a worker, start it again, wait until it takes work; return the exit code of the old one."""
        status = self.workers[name].end(signal.SIGTERM)
        until(lambda: name not in workers_alive(self.urls[0]), limit_s=START_S, what=f"retirement of {name}")
        self.workers[name].start()
        until(lambda: name in workers_alive(self.urls[0]), limit_s=START_S, what=f"worker {name}")
        return status

    def restart_api(self, url: str) -> int:
        """Drain an API node, start it again on its port, wait until it answers; return the exit code of the old one."""
        status = self.apis[url].end(signal.SIGTERM)
        self.apis[url].start()
        until(lambda: answers(url), limit_s=START_S, what=url)
        return status


def answers(url: str) -> bool:
    """Whether an API node answers."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/healthz", timeout=5, trust_env=False, verify=False).status_code == 200
    return False


@contextlib.contextmanager
def fleet(folder: Path, redis_url: str, *, apis: int, workers: int, **env: str) -> Iterator[Fleet]:
    """Run so many nodes while the block runs; all are ready when it begins."""
    folder.mkdir(parents=True, exist_ok=True)
    started = [api_node(folder, redis_url, **env) for _ in range(apis)]
    nodes = Fleet(
        apis={url: node for node, url in started},
        workers={
            name: worker_node(folder, redis_url, name=name, **env)
            for name in (f"worker-{number}" for number in range(1, workers + 1))
        },
    )
    try:
        until(lambda: all(answers(url) for url in nodes.urls), limit_s=START_S, what="API nodes")
        until(lambda: len(workers_alive(nodes.urls[0])) == workers, limit_s=START_S, what="workers")
        yield nodes
    finally:
        for node in (*nodes.apis.values(), *nodes.workers.values()):
            node.end(signal.SIGKILL)
