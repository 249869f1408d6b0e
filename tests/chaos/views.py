"""Whether one follower was told the truth, from the first frame to the last."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.history import TERMINAL, Step, View
from tests.chaos.reading import Told

CATCH_UP_S: Final = 0.05  # what comes so soon after a connect had happened before it


@dataclass(slots=True, kw_only=True)
class Circumstances:
    """What bounds that which a task's followers may meet."""

    whole: str  #: the uninterrupted answer
    told: Told  #: what the log says at the end
    losses: Sequence[float] = ()  #: when Redis lost writes that name the task
    erase_wanted: bool = False
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)  #: every event that was ever shown, by id

    def lost_before(self, t: float) -> bool:
        """Whether Redis had lost writes of the task by then."""
        return any(loss <= t for loss in self.losses)


@dataclass(slots=True, kw_only=True)
class Seen:
    """Figures of one view."""

    resets: int = 0
    connects: int = 0
    ended_at: float | None = None
    takeovers_s: list[float] = field(default_factory=list)


class _Follower:
    """What the follower has, frame by frame."""

    def __init__(self, about: Circumstances) -> None:
        self.about = about
        self.text = ""
        self.outputs = 0
        self.last: tuple[int, int] | None = None
        self.ended: str | None = None
        self.connected_at = 0.0
        self.seen = Seen()
        self._frame_at: float | None = None

    def take(self, step: Step) -> Iterator[tuple[str, str]]:
        """Take a frame; yield what is wrong with it."""
        event, about = step.data, self.about
        kind = event["type"]
        if self.ended is not None:
            if about.losses:
                return  # it came back after the end, and the end was among what Redis lost
            yield "one-end", f"{kind} {step.id or ''} came after {self.ended}"
        if step.id is None or kind == "reset":
            yield from self._hint(step, kind)
        else:
            yield from self._logged(step, kind)
        if not about.whole.startswith(self.text):
            yield "live-view", f"at {step.t} s, after {kind} {step.id or ''}, the follower has another text"
            self.text = about.whole[: len(self.text)]  # said once
        live = step.t - self.connected_at > CATCH_UP_S
        if kind == "started" and event["attempt"] > 1 and self._frame_at is not None and live:
            self.seen.takeovers_s.append(step.t - self._frame_at)
        if kind not in ("position", "progress"):
            self._frame_at = step.t
        if kind in TERMINAL:
            self.ended = "forgotten" if step.id is None else kind
            self.seen.ended_at = step.t
            yield from self._end(step, kind)

    def _hint(self, step: Step, kind: str) -> Iterator[tuple[str, str]]:
        match kind:
            case "position" | "progress":
                return
            case "reset":
                self.seen.resets += 1
                if not self.about.lost_before(step.t):
                    yield "resets", f"reset at {step.t} s, and Redis had lost nothing of the task"
                self.text, self.outputs = step.data["text"], step.data["from"]
                self.last = None if step.id is None else _place(step.id)
            case "failed":
                if not (self.about.erase_wanted or self.about.lost_before(step.t)):
                    yield "accepted-kept", f"forgotten at {step.t} s, and nobody erased it"
            case _:
                yield "live-view", f"{kind} without an id"

    def _logged(self, step: Step, kind: str) -> Iterator[tuple[str, str]]:
        assert step.id is not None
        epoch, offset = _place(step.id)
        if self.last is not None and (epoch, offset) <= self.last:
            yield "order", f"{kind} {step.id} came after {self.last[0]}-{self.last[1]}"
        self.last = (epoch, offset)
        event = step.data
        if kind == "llm_streaming":
            self.outputs += 1
            if offset != self.outputs or event["index"] != offset - 1:
                yield "order", f"output {step.id} came as number {self.outputs}"
                self.outputs = offset
            self.text += event["token"]
        said = (kind, event["token"] if kind == "llm_streaming" else str(event.get("attempt", "")))
        known = self.about.seen.setdefault(step.id, said)
        if known != said:
            yield (
                "one-meaning",
                f"event {step.id} was {known[0]} {known[1]!r}, and for this follower {kind} {said[1]!r}",
            )

    def _end(self, step: Step, kind: str) -> Iterator[tuple[str, str]]:
        if step.id is None:
            return
        if kind == "completed":
            if self.text != self.about.whole:
                yield "text", f"{len(self.text)} of {len(self.about.whole)} characters were shown at the end"
            if step.data["text_length"] != len(self.text):
                yield "text", f"the end tells of {step.data['text_length']} characters, {len(self.text)} were shown"
        if not self.about.losses and self.about.told.ends and kind not in self.about.told.ends:
            yield "one-end", f"shown as {kind}, stored as {self.about.told.ends[-1]}"


def _place(event_id: str) -> tuple[int, int]:
    epoch, offset = event_id.split("-")
    return int(epoch), int(offset)


def check_view(view: View, about: Circumstances) -> tuple[Seen, list[tuple[str, str]]]:
    """Return a view's figures, and (promise, what was wrong) for each thing that was wrong."""
    follower = _Follower(about)
    wrong: list[tuple[str, str]] = []
    for step in view.steps:
        match step.kind:
            case "connect":
                follower.seen.connects += 1
                follower.connected_at = step.t
            case "frame":
                wrong += follower.take(step)
            case "clean" if follower.ended is None:
                wrong.append(("cut-is-no-end", f"the stream ended in order at {step.t} s without a terminal event"))
            case "status" if step.data == 204 and follower.ended is None:
                wrong.append(("cut-is-no-end", f"204 at {step.t} s for {step.id}, which was not the end"))
    if view.end == "stuck":
        wrong.append(("not-stuck", f"a follower was without an end when the limit was over, at {follower.last}"))
    if view.end == "terminal" and follower.ended is None:
        wrong.append(("one-end", "a follower finished without a terminal event"))
    return follower.seen, [(promise, f"follower {view.follower}: {said}") for promise, said in wrong]
