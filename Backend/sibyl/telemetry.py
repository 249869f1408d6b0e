"""Log lines that people can read and programs can query: one line an event, with its action and its task.

Nothing that a user wrote or a model answered is ever logged: ids, numbers and names of errors only. So a traceback
shows places and classes; the words of an error may quote what it stumbled over.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal, TextIO

_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in record.__dict__.items() if name not in _PLAIN}


def _trace(error: BaseException, seen: frozenset[int] = frozenset()) -> Iterator[str]:
    """Yield the lines of a traceback without the errors' own words, causes first."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    seen |= {id(error)}
    if earlier is not None and id(earlier) not in seen:
        yield from _trace(earlier, seen)
        yield "then:"
    for frame in traceback.extract_tb(error.__traceback__):
        yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
    match error:
        case OSError(strerror=str(words)):
            yield f"{type(error).__name__}: {words}"
        case _:
            yield type(error).__name__
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield "of which:"
        yield from _trace(part, seen)


def _exception(record: logging.LogRecord) -> str | None:
    error = record.exc_info[1] if record.exc_info else None
    return None if error is None else "\n".join(_trace(error))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        extras = "".join(f" {name}={value}" for name, value in _extras(record).items() if name != "action")
        line = f"{time} {self._process:<6} {record.getMessage()}{extras}"
        if record.levelno >= logging.WARNING:
            line = f"{time} {self._process:<6} {record.levelname.lower()}: {record.getMessage()}{extras}"
        exception = _exception(record)
        return line if exception is None else f"{line}\n{exception}"

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if (exception := _exception(record)) is not None:
            fields["exception"] = exception
        return json.dumps(fields, ensure_ascii=False, default=str)

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process


def start_logging(process: str, *, level: str, form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Send this process' log lines to ``stream``, standard error by default.

    Args:
        process: what the process is: ``serve``, ``api`` or ``worker``.
        level: least severe level shown.
        form: ``text`` for people, ``json`` for programs, one object a line.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json(process) if form == "json" else _Text(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "sse_starlette", "asyncio", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
