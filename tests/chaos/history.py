"""What happened in a campaign, as records, one JSON line each, in one file that may be larger than memory.

The driver writes it while it runs; the checker reads it afterwards, also another day. Times are seconds since the
campaign began. Nothing here judges.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "expired"})
FILE: Final = "history.jsonl"

EngineName = Literal["scripted", "llama"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What was run."""

    seed: int
    seconds: float
    topology: str
    faults: list[str]
    durability: str = "safe"
    broken: str | None = None
    engine: EngineName = "scripted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a client wants answered. Its key is sent as the Idempotency-Key."""

    key: str
    question: str
    seed: int
    fails: bool = False  #: the question asks the engine to fail
    sampling: dict[str, Any] = field(default_factory=dict)  #: sent beside the seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A 202."""

    t: float
    key: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A status that somebody was given, other than a follower's 200 and a submit's 202."""

    t: float
    route: str  #: submit, follow, look, cancel, erase, final
    status: int
    key: str
    task: str | None = None
    retry_after: str | None = None
    state: str | None = None  #: the task's state, if the body said one


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A client is about to cancel or erase a task: from now on it may end so."""

    t: float
    task: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A task as REST showed it."""

    t: float
    task: str
    state: str
    text: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a follower met.

    ``kind``: connect (``id``: the cursor it gave; ``data``: the node), frame (``id``, and the event), cut (the
    connection broke), clean (the body ended in order), status (``data``: the status).
    """

    t: float
    kind: str
    id: str | None
    data: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that one follower of a task met, in order."""

    task: str
    follower: int
    steps: list[Step]
    end: str  #: terminal, forgotten, lost, stuck, interrupted


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A task as it lay in Redis at the end: its log, raw, and two fields of its hash. No entries: it is not there."""

    task: str
    state: str | None
    offset: int
    entries: list[tuple[str, dict[str, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What was done to whom."""

    t: float
    kind: str
    target: str
    lasts_s: float
    figures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Redis lost its newest writes. ``tasks``: those that the lost bytes name; None when nobody knows."""

    t: float
    bytes: int
    tasks: list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process began, or ended: by itself or because of a fault."""

    t: float
    name: str
    what: str  #: began, killed, drained, ended, undrained
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """How many members the queue's own keys had when everything was over."""

    key: str
    members: int


Record = Campaign | Ask | Accepted | Answered | Wanted | Look | View | Log | Fault | Loss | Process | Leftover
KINDS: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (Campaign, Ask, Accepted, Answered, Wanted, Look, View, Log, Fault, Loss, Process, Leftover)
}


def encode(record: Record) -> str:
    """Return the record as one line of JSON, without its end."""
    if isinstance(record, View):
        steps = [[step.t, step.kind, step.id, step.data] for step in record.steps]
        fields: dict[str, Any] = {"task": record.task, "follower": record.follower, "end": record.end, "steps": steps}
    else:
        fields = asdict(record)
    return json.dumps({"is": type(record).__name__, **fields}, ensure_ascii=False, separators=(",", ":"))


def decode(line: str | bytes) -> Record:
    """Return the record that ``encode`` wrote."""
    fields = json.loads(line)
    kind = KINDS[fields.pop("is")]
    if kind is View:
        fields["steps"] = [Step(*step) for step in fields["steps"]]
    if kind is Log:
        fields["entries"] = [(entry_id, values) for entry_id, values in fields["entries"]]
    record: Record = kind(**fields)
    return record


class Writer:
    """Appends records to the history in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = (directory / FILE).open("w", encoding="utf-8", buffering=1 << 20)

    def note(self, record: Record) -> None:
        """Write one record; on disk at the latest when closed."""
        self._file.write(encode(record) + "\n")

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


class Reader:
    """A history in a directory. Of a task's own records only their places are kept in memory."""

    def __init__(self, directory: Path) -> None:
        """Read it once, to learn what is where.

        Raises:
            FileNotFoundError: there is none.
        """
        self._path = directory / FILE
        self.common: list[Record] = []  #: all that is not about one task, in order
        self._places: dict[str, list[int]] = {}
        with self._path.open("rb") as file:
            place = 0
            for line in file:
                record = decode(line)
                task = record.task if isinstance(record, Answered | Wanted | Look | View | Log) else None
                if task is None:
                    self.common.append(record)
                else:
                    self._places.setdefault(task, []).append(place)
                place += len(line)

    @property
    def tasks(self) -> list[str]:
        """Every task that a record is about."""
        return list(self._places)

    def of(self, tasks: list[str]) -> Iterator[tuple[str, list[Record]]]:
        """Yield each of these tasks with its records, in the order in which they were written."""
        with self._path.open("rb") as file:
            for task in tasks:
                records = []
                for place in self._places.get(task, ()):
                    file.seek(place)
                    records.append(decode(file.readline()))
                yield task, records
