"""What the embedded Redis is told (its configuration file) and what it tells (its log).

Pure functions on text: nothing here opens a file or starts a process.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from sibyl.store.redis_binary import RedisBinary

Fsync = Literal["always", "everysec"]

SUPERVISOR = "sibyl-supervisor"
"""The ACL user that may do everything. Everyone else is Redis' ``default`` user."""

# 6.2: "!!! Truncating the AOF at offset 439 !!!"; since 7.0: "!!! Truncating the AOF <file> at offset 439 !!!"
_TORN = re.compile(r"truncating .*\bAOF\b.*", re.IGNORECASE)
_CORRUPT = re.compile(r"(?:Bad file format|Unknown command .*) reading the append only file ?([^\s:]*)")
_LOG_PREFIX = re.compile(r"^\d+:\w .*? [#*.-] ")


def redis_configuration(
    *, directory: Path, socket: Path, fsync: Fsync, password: str, settings: Mapping[str, str]
) -> str:
    """Return the configuration file: a private socket, every write in the append-only file, nothing evicted.

    The app connects as Redis' ``default`` user, so its URL holds no secret and may be logged. That user
    lacks what Redis calls @admin (CONFIG, MODULE, DEBUG, SHUTDOWN, REPLICAOF, ACL, BGREWRITEAOF ...), so
    that neither a mistake nor a script from a stranger can turn the log off or load code. CLIENT is given
    back: libraries introduce themselves.
    """
    directives = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "daemonize": "no",
        "logfile": "",  # to stdout, which the supervisor has opened
        "databases": "16",
        "appendonly": "yes",
        "appendfsync": fsync,
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        **settings,
    }
    users = [
        "user default on nopass ~* &* +@all -@admin +client",
        f"user {SUPERVISOR} on >{password} ~* &* +@all",
    ]
    return "\n".join([*(f"{name} {_quoted(value)}" for name, value in directives.items()), *users, ""])


def torn_tail(log: str) -> str | None:
    """Return the log's line about a cut end of the append-only file; None when the file was whole."""
    found = _TORN.search(log)
    return found.group(0).strip("! ") if found else None


def written_on(log: str) -> bool:
    """Whether the log says that the server wrote on after it could not."""
    return "AOF write error looks solved" in log


def start_failure(log: str, *, status: int, directory: Path, log_path: Path, binary: RedisBinary) -> str:
    """Say in one line why the server ended with ``status`` while starting, and what to do next."""
    if corrupt := _CORRUPT.search(log):
        name = corrupt.group(1)
        file = directory / "appendonlydir" / name if name else directory / "appendonly.aof"
        # Since 7.0 the data are several files, and the checker takes the list of them.
        whole = directory / "appendonlydir" / "appendonly.aof.manifest" if name else file
        return (
            f"{file} is damaged in the middle, so Redis does not load it. Copy {directory} to a safe place, then "
            "cut the damage off, and with it all that was written later: "
            f"{_checker(binary)} --fix {shlex.quote(str(whole))}"
        )
    lines = [line for line in map(str.strip, log.splitlines()) if line]
    errors = [line for line in lines if " # " in line and "WARNING" not in line]
    reason = _LOG_PREFIX.sub("", (errors or lines or ["it said nothing"])[-1])
    return f"{binary.path} ended with status {status} while starting: {reason.rstrip('.')}. Its log is {log_path}."


def _checker(binary: RedisBinary) -> str:
    """A shell command for ``redis-check-aof``: the server is that program too, when called by that name."""
    return f'bash -c \'exec -a redis-check-aof "$0" "$@"\' {shlex.quote(str(binary.path))}'


def _quoted(value: str) -> str:
    """Quote as redis.conf wants it; what is not plain ASCII byte by byte, also a path that is not UTF-8."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\')
    data = value.encode(errors="surrogateescape")
    return '"' + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in data) + '"'
