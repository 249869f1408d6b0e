"""Whether the process lives, whether the whole can answer, and figures for Prometheus."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from sibyl.api.context import Context, ContextParam
from sibyl.core.errors import SibylError
from sibyl.core.task import WorkerInfo

router = APIRouter(tags=["health"])

READY_S = 0.8  # who asks usually waits a second


@router.get("/healthz")
async def live() -> dict[Literal["status"], str]:
    """Say that the process is alive."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "Redis is out of reach, or no worker is alive"}})
async def ready(context: ContextParam) -> Response:
    """Say whether a question asked now would be answered: Redis is there, and a live worker."""
    try:
        async with asyncio.timeout(READY_S):
            workers = await context.registry.alive()
    except SibylError as error:
        return _readiness(False, [], error.message)
    except TimeoutError:
        return _readiness(False, [], "Redis does not answer.")
    if not workers:
        return _readiness(True, [], "No worker is alive. It may still be loading its model; see its log.")
    return _readiness(True, workers, None)


def _readiness(redis: bool, workers: list[WorkerInfo], reason: str | None) -> JSONResponse:
    body: dict[str, Any] = {
        "status": "ready" if reason is None else "not_ready",
        "redis": redis,
        "workers": [
            {
                "name": worker.name,
                "model": worker.model,
                "slots": worker.slots,
                "context_tokens": worker.context_tokens,
            }
            for worker in workers
        ],
    }
    if reason is None:
        return JSONResponse(body)
    return JSONResponse(body | {"reason": reason}, 503, {"Retry-After": "1"})


ENGINE_COUNTERS = {
    "prompt_tokens": "Prompt tokens of the answers that a worker began.",
    "reused_tokens": "Of these, tokens that were not computed anew.",
    "preemptions": "Answers that were put aside because the memory for tokens was full.",
    "evictions": "Times that kept tokens were dropped to make room.",
}


class _Collected:
    """One scrape's figures, as prometheus_client wants them."""

    def __init__(self, figures: dict[str, tuple[str, float]], workers: Sequence[WorkerInfo]) -> None:
        self._figures = figures
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Return the figures."""
        for name, (help_, value) in self._figures.items():
            yield GaugeMetricFamily(name, help_, value=value)
        for name, help_ in ENGINE_COUNTERS.items():
            counter = CounterMetricFamily(f"sibyl_engine_{name}", help_, labels=["worker"])
            for worker in self._workers:
                if name in worker.counters:
                    counter.add_metric([worker.name], worker.counters[name])
            if counter.samples:  # other engines count nothing
                yield counter


@router.get("/metrics", response_class=PlainTextResponse, responses={503: {"description": "Redis is out of reach"}})
async def metrics(context: ContextParam) -> Response:
    """Return the figures of this process and of the queue, in the text format of Prometheus."""
    registry = CollectorRegistry()
    workers = await context.registry.alive()
    registry.register(_Collected(await figures(context, workers), workers))
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")


async def figures(context: Context, workers: Sequence[WorkerInfo]) -> dict[str, tuple[str, float]]:
    """Return name, description and value of each figure."""
    return {
        "sibyl_tasks_waiting": ("Tasks in the queue.", await context.views.waiting_tasks()),
        "sibyl_tasks_running": ("Tasks that a worker holds.", await context.views.running_tasks()),
        "sibyl_workers_alive": ("Workers that announced themselves lately.", len(workers)),
        "sibyl_slots": ("Answers that all workers together generate at a time.", sum(w.slots for w in workers)),
        "sibyl_followers": ("Open event streams of this process.", context.followers),
        "sibyl_followed_tasks": ("Tasks that these follow.", context.tail.followed),
        "sibyl_speech_sessions": ("People that this process hears.", context.sessions.hearing),
        "sibyl_speech_sockets": ("Open speech connections of this process.", context.sockets),
    }
