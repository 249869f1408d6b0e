"""The API's process: settings, logging, socket, store, server, signals, and an exit code."""

import asyncio
import gc
import logging
import os
import socket
import sys
from types import FrameType

import uvicorn

from sibyl.api.app import create_app
from sibyl.api.connection import Connection, WebSocketConnection
from sibyl.api.context import Context
from sibyl.api.listening import bind
from sibyl.config import Settings
from sibyl.core.errors import ProcessError, StoreUnavailable
from sibyl.store.connection import Store, because
from sibyl.telemetry import start_logging

logger = logging.getLogger(__name__)

STORE_PATIENCE_S = 10.0  # a Redis that is being restarted is waited for at the start
REQUESTS_S = 5  # requests under way may take so long after the drain began
BACKLOG = 2048
# Longer than clients keep an idle connection: else both end it in the same moment, and a request is lost on it.
KEEP_ALIVE_S = 75
SOCKET_FRAME_BYTES = 1024 * 1024  # beyond it the connection is closed with 1009 without a word of ours
SPEECH_S = 5.0  # what was said may be told for so long after the drain began
# A log that is replayed is tens of thousands of objects that live for some milliseconds and are no garbage. By default
# the collector looks through all of them again and again.
COLLECT_AFTER = 5_000
_NO_ERRORS = ("returned without completing response", "exceptions.CancelledError", "Invalid UTF-8 sequence")


def run(settings: Settings, *, fd: int | None = None) -> None:
    """Serve HTTP until SIGTERM or Ctrl-C, then drain: stop listening, cut event streams, finish requests, close.

    Args:
        fd: a socket that is bound already, inherited from the supervisor; None binds host and port.

    Raises:
        SibylError: it cannot start: port in use, Redis out of reach or unsuitable; the message says what to do.
    """
    start_logging("api", level=settings.log_level, form=settings.log_format)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_ours)
    if settings.redis_url is None:
        raise ProcessError("An API of its own needs a Redis that it shares with its workers: give --redis-url.")
    listening = bind(settings.host, settings.port) if fd is None else socket.socket(fileno=fd)
    listening.listen(BACKLOG)  # who comes while we start waits, and is not refused
    config = uvicorn.Config(
        app="",  # set below, on the loop
        http=Connection,
        ws=WebSocketConnection,
        ws_max_size=SOCKET_FRAME_BYTES,
        ws_per_message_deflate=False,  # audio does not get smaller
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=REQUESTS_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        lifespan="on",
        server_header=False,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        failed = runner.run(_serve(settings, settings.redis_url.get_secret_value(), config, listening))
    if failed:
        sys.exit(1)


async def _serve(settings: Settings, redis_url: str, config: uvicorn.Config, listening: socket.socket) -> bool:
    store = Store(redis_url, shards=settings.shards, durability=settings.durability)
    try:
        found = await store.patient(STORE_PATIENCE_S).check()
        await store.patient(STORE_PATIENCE_S).require_same_shards()
    except StoreUnavailable as error:
        await store.close()
        why = f"Redis did not answer within {STORE_PATIENCE_S:.0f} s{because(error)}. Check the Redis URL."
        raise StoreUnavailable(why) from None
    failed = asyncio.Event()

    def fail() -> None:
        failed.set()
        server.drain()

    app = create_app(settings, store, on_failure=fail)
    config.app = app
    server = _Server(config, app.state.context)
    host, port = listening.getsockname()[:2]
    facts = {"action": "api_ready", "store": found}
    gc.collect()
    gc.freeze()  # what is here now stays
    gc.set_threshold(COLLECT_AFTER)
    logger.info("API listens on http://%s:%d/", f"[{host}]" if ":" in host else host, port, extra=facts)
    await server.serve(sockets=[listening])
    logger.info("API ended", extra={"action": "api_ended"})
    if stuck := app.state.context.sessions.hearing:
        logger.warning("Ending although %d recognisers are stuck", stuck, extra={"action": "recogniser_stuck"})
        logging.shutdown()
        os._exit(failed.is_set())  # Python would wait for their threads
    return failed.is_set()


class _Server(uvicorn.Server):
    """uvicorn's server with our drain. Overrides the handler that sse-starlette replaces in the base class."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal, leave at once on the second."""
        if self._context.draining.is_set():
            self.should_exit = self.force_exit = True
        self.drain()

    def drain(self) -> None:
        """Stop listening, cut the event streams, and have those who speak told what they said; then exit.

        Followers come back with their cursors, here or elsewhere.
        """
        if self._context.draining.is_set():
            return
        sessions = self._context.sessions
        facts = {"followers": self._context.followers, "speech_sessions": len(sessions)}
        logger.info("Draining", extra={"action": "drain", **facts})
        self._context.draining.set()
        if sessions:
            # A signal handler runs between two steps of the loop, which may be asleep.
            self._loop.call_soon_threadsafe(self._drain_speech)
        else:
            self.should_exit = True

    def _drain_speech(self) -> None:
        # uvicorn closes all sockets as soon as it is to exit; those who speak are told before.
        for server in self.servers:
            server.close()
        draining = self._loop.create_task(self._context.sessions.drain(SPEECH_S), name="drain speech")
        draining.add_done_callback(lambda _: setattr(self, "should_exit", True))


def _is_ours(record: logging.LogRecord) -> bool:
    # No errors of the application: a stream that we cut on purpose, which we log ourselves; a lifespan that a second
    # signal ended (the kernel sends one of its own when the supervisor dies); bytes that a client calls text.
    said = record.getMessage()
    return not any(words in said for words in _NO_ERRORS)
