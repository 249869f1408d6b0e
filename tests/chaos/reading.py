"""What a raw log says, read by rules of its own: the second opinion beside ``sibyl.core.fold``.

Redis loses whole writes from its end and nothing in between, and whoever runs these logs repairs a torn end. So a log
holds no entry that does not count: each claim keeps exactly what is there, each output is the next one of the epoch
that holds the task, and nothing follows the end. Whatever else is found is said in ``irregular``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sibyl.wire.record import FIELDS
from tests.chaos.history import TERMINAL

_KIND, _TEXT, _IDS = FIELDS["KIND"], FIELDS["TEXT"], FIELDS["TOKEN_IDS"]
_KEPT, _PREVIOUS, _LENGTH, _ATTEMPT = FIELDS["KEPT"], FIELDS["PREVIOUS"], FIELDS["TEXT_LENGTH"], FIELDS["ATTEMPT"]


@dataclass(slots=True, kw_only=True)
class Told:
    """What one log says."""

    outputs: list[str] = field(default_factory=list)  #: the texts that count
    tokens: int = 0
    attempts: int = 0
    ends: list[str] = field(default_factory=list)  #: every terminal entry
    irregular: list[str] = field(default_factory=list)
    events: dict[str, tuple[str, str]] = field(default_factory=dict)  #: id -> type as on the wire, and its text

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self.outputs)


def read(entries: Sequence[tuple[str, dict[str, str]]]) -> Told:
    """Return what the entries say."""
    told = Told()
    holder, last = 0, "0-0"
    for place, (entry_id, fields) in enumerate(entries):
        epoch, offset = map(int, entry_id.split("-"))
        kind = fields.get(_KIND)

        def wrong(what: str, entry_id: str = entry_id) -> None:
            told.irregular.append(f"{entry_id}: {what}")

        if (place == 0) != (kind == "queued"):
            wrong(f"{kind or 'output'} as entry {place + 1} of the log")
        if told.ends:
            wrong(f"{kind or 'output'} after the end")
        stored = len(told.outputs)
        if kind is None:
            told.events[entry_id] = ("llm_streaming", fields[_TEXT])
            if epoch != holder:
                wrong(f"output of epoch {epoch}, but {holder} holds the task")
            if offset != stored + 1:
                wrong(f"output {offset} after {stored} outputs")
            told.outputs[offset - 1 :] = [fields[_TEXT]]
            told.tokens += len(fields[_IDS].split())
        elif kind == "started":
            told.events[entry_id] = (kind, fields[_ATTEMPT])
            told.attempts += 1
            kept = int(fields.get(_KEPT, -1))
            if epoch <= holder:
                wrong(f"claim with epoch {epoch} after {holder}")
            if kept != stored or offset != stored:
                wrong(f"claim that keeps {kept} at offset {offset} of {stored} outputs")
            if fields.get(_PREVIOUS) != last:
                wrong(f"claim after {fields.get(_PREVIOUS)}, but {last} is the entry before it")
            holder = epoch
        elif kind in TERMINAL:
            told.events[entry_id] = (kind, "")
            told.ends.append(kind)
            kept = int(fields.get(_KEPT, -1))
            if kept != stored or offset != stored + 1:
                wrong(f"end that keeps {kept} at offset {offset} of {stored} outputs")
            if _PREVIOUS in fields and (fields[_PREVIOUS] != last or epoch <= holder):
                wrong(f"end of a task that nobody held, after {fields[_PREVIOUS]}; {last} is the entry before it")
            if _PREVIOUS not in fields and epoch != holder:
                wrong(f"end by epoch {epoch}, but {holder} holds the task")
            if kind == "completed" and int(fields[_LENGTH]) != len(told.text):
                wrong(f"end of {fields[_LENGTH]} characters after {len(told.text)}")
        else:
            told.events[entry_id] = (kind, "")
        last = entry_id
    return told
