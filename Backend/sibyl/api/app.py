"""The application: its parts put together, and what runs beside its requests."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

import sibyl
from sibyl.api import docs, errors, fortunes, health, listen_v1, page, questions, tasks, transcribe, transcriptions
from sibyl.api.body import BodyLimit
from sibyl.api.context import Context
from sibyl.api.hosts import TrustedHosts, trusted_hosts
from sibyl.config import Settings
from sibyl.core.errors import SibylError
from sibyl.store.connection import Store

logger = logging.getLogger(__name__)

REAP_S = 1.0  # pause between looks for tasks that no worker can end
DESCRIPTION = """
Questions go in over REST, answers stream out over server-sent events, and an answer, once accepted, is never lost,
never repeated, never stuck.

1. `POST /api/questions` answers 202 with a task.
2. `GET /api/tasks/{task_id}/events` streams it; after a cut, connect again with `Last-Event-ID`.
"""


def create_app(settings: Settings, store: Store, *, on_failure: Callable[[], None]) -> FastAPI:
    """Return the application.

    Args:
        store: on the loop that the application will run on.
        on_failure: called when what runs beside the requests has failed; the process should end and start anew.
    """
    context = Context(settings, store)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        beside = [
            asyncio.create_task(context.tail.run(), name="tail"),
            asyncio.create_task(_reap(context), name="reap"),
        ]
        for running in beside:
            running.add_done_callback(failed)
        try:
            yield
        finally:
            for running in beside:
                running.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await context.sessions.aclose()
            await store.close()

    def failed(running: asyncio.Task[None]) -> None:
        if not running.cancelled() and running.exception() is not None:
            logger.critical("%s failed", running.get_name(), exc_info=running.exception(), extra={"action": "failed"})
            on_failure()

    app = FastAPI(
        title="Sibyl",
        version=sibyl.__version__,
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere; ours is in docs.py
        redoc_url=None,
        redirect_slashes=False,  # one path for each thing
    )
    app.state.context = context
    errors.install(app)
    app.add_middleware(BodyLimit, body_bytes=settings.body_bytes, uploads=(transcriptions.PATH,))
    app.add_middleware(TrustedHosts, names=trusted_hosts(settings.host, settings.trusted_hosts))
    docs.install(app)
    for routes in (
        questions.router,
        fortunes.router,
        tasks.router,
        transcriptions.router,
        health.router,
        transcribe.router,
        listen_v1.router,
    ):
        app.include_router(routes)
    page.mount(app)
    return app


async def _reap(context: Context) -> None:
    while True:
        await asyncio.sleep(REAP_S)
        try:
            await context.queue.reap()
        except SibylError as error:
            logger.debug("Cannot reap: %s", error.code, extra={"action": "reap_failed"})
