"""What a person at the terminal is told once a question would be answered."""

import asyncio
import contextlib
import logging
import shutil
import socket
import sys
from pathlib import Path

import httpx

logger = logging.getLogger(__name__)

_LOOK_S = 0.05

WELCOME = """
  Sibyl is ready: {url}

  Ask in a browser     {url}
  in a terminal        {command} ask{where} "Should I change my job this year?"
  from any program     curl -i -X POST {url}api/questions -H 'content-type: application/json' \\
                         -d '{{"question": "Should I change my job this year?"}}'
                       curl -N {url}api/tasks/<task_id>/events
  Documentation        {url}docs
  Data is kept in      {data}
  Stop with Ctrl-C
"""


def address(listening: socket.socket) -> str:
    """Return the URL under which this machine reaches the socket."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


async def tell_ready(client: httpx.AsyncClient, url: str, *, data: str) -> None:
    """Wait until the API says that a question would be answered; then say what to do next."""
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if (await client.get("readyz")).status_code == 200:
                break
        await asyncio.sleep(_LOOK_S)
    logger.info("Ready", extra={"action": "ready", "url": url})
    where = "" if url == "http://127.0.0.1:8000/" else f" --url {url}"
    sys.stderr.write(WELCOME.format(url=url, command=_command(), where=where, data=data))
    sys.stderr.flush()


def _command() -> str:
    """How a user in another terminal calls us: by name if that is on PATH, else by where it is."""
    if shutil.which("sibyl"):
        return "sibyl"
    path = Path(sys.executable).parent / "sibyl"
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
