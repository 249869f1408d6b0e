"""Whether the promises were kept: pure functions on a history. Each thing that is wrong names the promise it breaks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from tests.chaos.asks import answer_to
from tests.chaos.history import (
    TERMINAL,
    Accepted,
    Answered,
    Ask,
    Campaign,
    EngineName,
    Fault,
    Leftover,
    Log,
    Look,
    Loss,
    Process,
    Reader,
    Record,
    View,
    Wanted,
)
from tests.chaos.reading import Told, read
from tests.chaos.views import Circumstances, check_view

PROMISES: Final = {
    "accepted-kept": "an accepted task is there at the end, or was accepted again after Redis lost it",
    "one-key-one-task": "an Idempotency-Key gives one task",
    "one-end": "a task ends once, in one state, and nobody is told another",
    "text": "the stored answer is the uninterrupted one, or its beginning when it was stopped",
    "log": "the log has offsets without gap or repeat, rising epochs, one holder an epoch",
    "live-view": "at every moment a follower has the beginning of the answer",
    "order": "events come in order, none twice, none left out",
    "one-meaning": "one id, one event, for everybody and for ever",
    "resets": "nothing is taken back unless Redis lost its newest writes",
    "cut-is-no-end": "a stream ends in order only after a terminal event",
    "not-stuck": "everything comes to its end within the limit",
    "statuses": "no 5xx but 503, each with Retry-After; 404 and 410 only for what is gone",
    "erased": "what was erased is gone",
    "tidy": "nothing is left in the queue when everything is over",
}
KEPT_VIOLATIONS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A broken promise."""

    promise: str
    task: str | None
    said: str


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What a campaign showed."""

    campaign: Campaign | None = None
    violations: list[Violation] = field(default_factory=list)  #: the first ones
    broken: Counter[str] = field(default_factory=Counter)  #: how often, by promise
    asked: int = 0
    tasks: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    attempts: int = 0
    views: int = 0
    connects: int = 0
    resets: int = 0
    lost: int = 0  #: tasks that Redis lost with its tail
    statuses: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest_task: str | None = None
    takeovers_s: list[float] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether every promise was."""
        return not self.broken

    def add(self, promise: str, task: str | None, said: str) -> None:
        """Take down a broken promise."""
        assert promise in PROMISES, promise
        self.broken[promise] += 1
        if len(self.violations) < KEPT_VIOLATIONS:
            self.violations.append(Violation(promise=promise, task=task, said=said))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What all tasks of a campaign share."""

    asks: dict[str, Ask]
    accepted: dict[str, list[Accepted]]  #: by key, in order
    keys: dict[str, str]  #: task -> key
    losses: Sequence[Loss]
    engine: EngineName

    def losses_of(self, task: str) -> list[float]:
        """Return when Redis lost writes that name the task."""
        return [loss.t for loss in self.losses if loss.tasks is None or task in loss.tasks]


def check(history: Reader) -> Verdict:
    """Return the verdict on a whole campaign."""
    verdict = Verdict()
    frame = _frame(history.common)
    for record in history.common:
        match record:
            case Campaign():
                verdict.campaign = record
            case Fault():
                verdict.faults.append(record)
            case Process():
                verdict.processes.append(record)
                if record.what == "undrained":
                    verdict.add("not-stuck", None, f"{record.name} had not drained within its limit, at {record.t} s")
            case Leftover(members=members) if members:
                verdict.add("tidy", None, f"{record.key} has {members} members when everything is over")
            case Answered():
                _check_status(record, [loss.t for loss in frame.losses], False, verdict)
            case _:
                pass
    verdict.losses = list(frame.losses)
    verdict.asked = len(frame.asks)
    check_keys(frame, verdict)
    for task, records in history.of(sorted(set(history.tasks) | set(frame.keys))):
        check_task(task, records, frame, verdict)
    return verdict


def _frame(common: Sequence[Record]) -> Frame:
    engine: EngineName = next((record.engine for record in common if isinstance(record, Campaign)), "scripted")
    losses = [record for record in common if isinstance(record, Loss)]
    frame = Frame(asks={}, accepted={}, keys={}, losses=losses, engine=engine)
    for record in common:
        if isinstance(record, Ask):
            frame.asks[record.key] = record
        elif isinstance(record, Accepted):
            frame.accepted.setdefault(record.key, []).append(record)
            frame.keys[record.task] = record.key
    return frame


def check_keys(frame: Frame, verdict: Verdict) -> None:
    """Check that each key gave a task, and only one, except where Redis had lost that one."""
    for key in frame.asks.keys() - frame.accepted.keys():
        verdict.add("not-stuck", None, f"key {key} was asked and never accepted")
    for key, accepted in frame.accepted.items():
        for before, after in pairwise(accepted):
            if after.task != before.task and not any(loss <= after.t for loss in frame.losses_of(before.task)):
                verdict.add("one-key-one-task", after.task, f"key {key} first gave {before.task}")


def check_task(task: str, records: Sequence[Record], frame: Frame, verdict: Verdict) -> None:
    """Check all that is known about one task."""
    verdict.tasks += 1
    ask = frame.asks.get(frame.keys.get(task, ""))
    if ask is None:
        verdict.add("accepted-kept", task, "a task that nobody asked for")
        return
    losses = frame.losses_of(task)
    wanted = {record.action for record in records if isinstance(record, Wanted)}
    log = next((record for record in records if isinstance(record, Log)), None)
    told = read(log.entries if log else ())
    about = Circumstances(
        whole=answer_to(frame.engine, ask),
        told=told,
        losses=losses,
        erase_wanted="erase" in wanted,
        seen=dict(told.events),
    )
    verdict.tokens += told.tokens
    verdict.attempts += told.attempts
    if log is None or not log.entries:
        _check_absent(task, frame, about, verdict)
    else:
        verdict.ends[told.ends[-1] if told.ends else "unfinished"] += 1
        for promise, said in _check_stored(log, told, about, ask, wanted):
            verdict.add(promise, task, said)
    if about.erase_wanted and not losses and log is not None and log.entries and _was_erased(records):
        verdict.add("erased", task, "it was erased, and its log is there")
    for record in records:
        match record:
            case View():
                _check_view(record, about, frame, verdict)
            case Look():
                for promise, said in _check_look(record, about):
                    verdict.add(promise, task, said)
            case Answered():
                _check_status(record, losses, about.erase_wanted, verdict)
                ended = record.state in TERMINAL and not losses and bool(told.ends)
                if ended and record.state != told.ends[-1]:
                    verdict.add("one-end", task, f"{record.route} said {record.state}, stored is {told.ends[-1]}")
            case _:
                pass


def _check_absent(task: str, frame: Frame, about: Circumstances, verdict: Verdict) -> None:
    if about.erase_wanted:
        verdict.ends["erased"] += 1
        return
    verdict.ends["lost"] += 1
    if not about.losses:
        verdict.add("accepted-kept", task, "accepted, and not there at the end")
        return
    verdict.lost += 1
    if frame.accepted[frame.keys[task]][-1].task == task:
        verdict.add("accepted-kept", task, "lost with Redis' tail, and not accepted again under its key")


def _check_stored(log: Log, told: Told, about: Circumstances, ask: Ask, wanted: set[str]) -> Iterator[tuple[str, str]]:
    for said in told.irregular:
        yield "log", said
    if not told.ends:
        yield "not-stuck", f"it is {log.state} when everything is over"
    if len(told.ends) > 1:
        yield "one-end", f"it ended as {', then as '.join(told.ends)}"
    if told.ends and log.state != told.ends[-1]:
        yield "one-end", f"its state is {log.state}, its log ends with {told.ends[-1]}"
    if log.offset != len(told.outputs):
        yield "log", f"its state counts {log.offset} outputs, its log {len(told.outputs)}"
    allowed = {"completed"} | ({"cancelled"} if wanted else set()) | ({"failed"} if ask.fails else set())
    for end in set(told.ends) - allowed:
        yield "one-end", f"it ended as {end}, which nobody asked for"
    if told.ends[-1:] == ["completed"] and told.text != about.whole:
        yield (
            "text",
            f"the answer differs from the uninterrupted one after {_common(told.text, about.whole)} characters",
        )
    if not about.whole.startswith(told.text):
        yield "text", f"what is stored is no beginning of the answer after {_common(told.text, about.whole)} characters"


def _check_view(view: View, about: Circumstances, frame: Frame, verdict: Verdict) -> None:
    seen, wrong = check_view(view, about)
    for promise, said in wrong:
        verdict.add(promise, view.task, said)
    verdict.views += 1
    verdict.connects += seen.connects
    verdict.resets += seen.resets
    verdict.takeovers_s += seen.takeovers_s
    accepted = min((a.t for a in frame.accepted[frame.keys[view.task]] if a.task == view.task), default=None)
    if accepted is not None and seen.ended_at is not None and seen.ended_at - accepted > verdict.slowest_s:
        verdict.slowest_s, verdict.slowest_task = seen.ended_at - accepted, view.task


def _check_look(look: Look, about: Circumstances) -> Iterator[tuple[str, str]]:
    if not about.whole.startswith(look.text):
        yield "live-view", f"REST showed another text at {look.t} s"
    if look.state == "completed" and look.text != about.whole:
        yield "text", f"REST showed {len(look.text)} of {len(about.whole)} characters as completed at {look.t} s"
    ended = look.state in TERMINAL and not about.losses and bool(about.told.ends)
    if ended and look.state != about.told.ends[-1]:
        yield "one-end", f"REST said {look.state} at {look.t} s, stored is {about.told.ends[-1]}"


def _check_status(answered: Answered, losses: Sequence[float], erase_wanted: bool, verdict: Verdict) -> None:
    status = answered.status
    verdict.statuses[f"{answered.route} {status}"] += 1
    said = f"{answered.route} was answered with {status} at {answered.t} s"
    lost = any(loss <= answered.t for loss in losses)
    if status in (429, 503):
        if not answered.retry_after:
            verdict.add("statuses", answered.task, f"{said}, without Retry-After")
    elif status in (404, 410):
        if not (lost or (erase_wanted and status == 410)):
            verdict.add("statuses", answered.task, f"{said}, and the task was neither erased nor lost")
    elif status >= 400:
        verdict.add("statuses", answered.task, said)


def _was_erased(records: Iterable[Record]) -> bool:
    return any(
        isinstance(record, Answered) and record.route == "erase" and record.status in (204, 410) for record in records
    )


def _common(one: str, other: str) -> int:
    return next(
        (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )
