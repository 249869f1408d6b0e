"""The process of ``sibyl serve``: settings, logging, socket, signals."""

import asyncio
import logging
import os

from sibyl.api.listening import bind
from sibyl.config import Settings
from sibyl.engines.library import HUB_PREFIX, resolve_model
from sibyl.supervisor.supervisor import Supervisor
from sibyl.telemetry import start_logging


def run(settings: Settings) -> None:
    """Run everything until SIGTERM or Ctrl-C.

    Raises:
        SibylError: it cannot start; the message says what to do.
    """
    _open_standard_streams()
    start_logging("serve", level=settings.log_level, form=settings.log_format)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if settings.engine == "llama" and not (settings.model or "").startswith(HUB_PREFIX):
        resolve_model(settings.model)  # said at once, not by a child; a download is the worker's business
    with bind(settings.host, settings.port) as listening:
        listening.listen()
        asyncio.run(Supervisor(settings, listening).run())


def _open_standard_streams() -> None:
    """Fill closed descriptors 0 to 2, or the next socket gets such a number and a child loses it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
