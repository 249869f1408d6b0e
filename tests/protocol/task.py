"""What the model's Redis holds of one task, and what its answer is made of: the real fields, with small numbers."""

from typing import NamedTuple

from sibyl.core import event
from sibyl.core.cursor import START, Cursor
from sibyl.core.task import Usage


class Token(NamedTuple):
    """Part ``number`` of an answer, made by ``attempt`` after a part that ``after`` made (0: the first).

    So an answer is one model's answer only if each part follows the one that it was made to follow: what two attempts
    say is different, however alike they are.
    """

    number: int
    attempt: int
    after: int

    def __str__(self) -> str:
        return f"t{self.number}/{self.attempt}"


Answer = tuple[Token, ...]


def splice_in(answer: Answer) -> str:
    """Return why this is no model's answer, or nothing."""
    before = 0
    for number, token in enumerate(answer, 1):
        if token.number != number:
            return f"{token} stands where part {number} belongs in {spell(answer)}"
        if token.after != before:
            return f"{token} was made to follow what attempt {token.after} said, in {spell(answer)}"
        before = token.attempt
    return ""


def spell(answer: Answer) -> str:
    """Return the answer in a word."""
    return "[" + " ".join(map(str, answer)) + "]"


class Entry(NamedTuple):
    """A log entry."""

    epoch: int
    offset: int
    kind: str  #: queued, started, output, completed or cancelled
    token: Token | None = None
    kept: int = 0
    previous: tuple[int, int] = (0, 0)

    @property
    def id(self) -> tuple[int, int]:
        """Its stream id."""
        return self.epoch, self.offset

    def __str__(self) -> str:
        what = str(self.token) if self.token else self.kind + (f" kept {self.kept}" if self.previous != (0, 0) else "")
        return f"{self.epoch}-{self.offset} {what}"


Log = tuple[Entry, ...]
QUEUED = Entry(0, 1, "queued")


class Dangling(NamedTuple):
    """The first writes of a script that was lost."""

    place: int  #: in the log
    entry: Entry
    offset: int  #: what they make of the task's


class Task(NamedTuple):
    """The task's keys in Redis."""

    state: str = "queued"
    epoch: int = 0
    nonce: int = 0  #: 0: nobody's
    offset: int = 0
    leased: bool = False  #: the lease has not run out
    cancel: bool = False
    listed: bool = True  #: among those that wait or run, where workers look
    log: Log = (QUEUED,)
    dangling: "Dangling | None" = None  #: what the next restart brings back of a lost script
    foreign: bool = False  #: a write was accepted of somebody who does not hold the lease. No key: the model's witness

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in ("completed", "cancelled")

    @property
    def last(self) -> tuple[int, int]:
        """The log's newest id."""
        return self.log[-1].id

    def __str__(self) -> str:
        lease = ("held" if self.leased else "lapsed") if self.state == "running" else ""
        facts = [
            self.state,
            f"epoch {self.epoch}",
            f"nonce {self.nonce or '-'}",
            f"offset {self.offset}",
            lease,
            "cancel" if self.cancel else "",
            "" if self.listed or self.over else "NOT LISTED",
            f"{self.dangling.entry} may come back" if self.dangling else "",
        ]
        return f"{', '.join(filter(None, facts))}; log {' | '.join(map(str, self.log))}"


def real(entry: Entry) -> event.Entry:
    """Return the entry as Sibyl's own code has it."""
    cursor, previous = Cursor(*entry.id), Cursor(*entry.previous) if entry.previous != (0, 0) else START
    match entry.kind:
        case "queued":
            return event.Entry(cursor, event.Queued())
        case "started":
            return event.Entry(cursor, event.Started(attempt=1, model="", kept=entry.kept, previous=previous))
        case "completed":
            usage = Usage(prompt_tokens=0, completion_tokens=0)
            end = event.Completed(text_length=0, usage=usage, finish_reason="stop", kept=entry.kept, previous=previous)
            return event.Entry(cursor, end)
        case "cancelled":
            return event.Entry(cursor, event.Cancelled(kept=entry.kept, previous=previous))
        case _:
            assert entry.token is not None
            return event.Entry(cursor, event.Output(text=str(entry.token), token_ids=tuple(entry.token)))
