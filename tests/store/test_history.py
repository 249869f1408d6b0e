"""A log that is read as a whole: the same fold as everywhere, with its outputs left as they came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.core.cursor import START, Cursor
from sibyl.core.errors import LogUnreadable
from sibyl.core.event import Cancelled, Completed, Entry, Event, Output, Queued, Started
from sibyl.core.fold import Fold
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs
from sibyl.core.task import TaskId, Usage
from sibyl.store.feed import Frames
from sibyl.store.history import History, Stored, as_stored
from sibyl.wire import events, record

CHOSEN = TokenLogprob(token_id=7, piece=b"a", logprob=-0.5)


def stored(entries: list[Entry]) -> list[Stored]:
    """Entries as Redis sends them."""
    return [
        (str(entry.cursor), [word for pair in record.encode_event(entry.event).items() for word in pair])
        for entry in entries
    ]


def answer(outputs: int) -> list[Entry]:
    """A plain log."""
    usage = Usage(prompt_tokens=1, completion_tokens=outputs)
    return [
        Entry(Cursor(0, 1), Queued()),
        Entry(Cursor(5, 0), Started(attempt=1, model="m", kept=0, previous=Cursor(0, 1))),
        *(Entry(Cursor(5, number), Output(text=f"ü{number}", token_ids=(1, 2))) for number in range(1, outputs + 1)),
        Entry(Cursor(5, outputs + 1), Completed(text_length=1, usage=usage, finish_reason="stop", kept=outputs)),
    ]


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Logs as faults may leave them: attempts that keep less than there is, strays, gaps, ends that were no ends."""
    entries = [Entry(Cursor(0, 1), Queued())]
    epoch, offset = 0, 0
    for _ in range(draw(st.integers(0, 25))):
        kind = draw(st.sampled_from(["output", "output", "output", "output", "logprobs", "gap", "started", "end"]))
        event: Event
        match kind:
            case "output" | "logprobs" | "gap":
                offset += 2 if kind == "gap" else 1
                given = (TokenLogprobs(chosen=CHOSEN, likeliest=()),) if kind == "logprobs" else ()
                event = Output(text=draw(st.text(max_size=3)), token_ids=(1,), logprobs=given)
            case "started":
                epoch, offset = epoch + 1, draw(st.integers(0, offset + 1))
                event = Started(attempt=1, model="m", kept=offset, previous=entries[-1].cursor)
            case _:
                event = Cancelled(kept=draw(st.integers(0, offset)), previous=START)
                offset += 1
        entries.append(Entry(Cursor(epoch, offset), event))
    return entries


@given(logs())
def test_it_is_the_fold_of_the_same_entries(entries: list[Entry]) -> None:
    """Whatever the log holds: entries, counters, place and end; and what is appended then."""
    whole, history = Fold(entries), History(stored(entries))

    more = Entry(Cursor(whole.epoch, whole.outputs + 1), Output(text="more"))
    assert history.append(more) == whole.append(more)
    assert history.entries == whole.entries
    assert [*history.entries] == whole.entries
    assert (history.outputs, history.last, history.epoch, history.terminal) == (
        whole.outputs,
        whole.last,
        whole.epoch,
        whole.terminal,
    )
    assert history.text() == whole.text()
    task_id = TaskId("0." + "0" * 32)
    frames = b"".join(events.entry_frame(task_id, entry) for entry in whole.entries)
    assert Frames(task_id, history).chunk(0)[0] == frames


def test_outputs_stay_as_they_came() -> None:
    """Until somebody looks; the entries behave as a list of entries."""
    entries = answer(50)
    history = History(stored(entries))

    assert not any(isinstance(each, Entry) for each in as_stored(history.entries, 2, 52))
    assert history.entries[-2] == entries[-2]
    assert history.entries[10:13] == entries[10:13]
    assert history.entries == entries and history.entries != entries[1:]
    assert [entry.cursor for entry in history.entries] == [entry.cursor for entry in entries]


def test_outputs_with_more_than_text_are_events_at_once() -> None:
    """Their frames need more than text and place."""
    entries = answer(3)[:-1]
    probable = Output(text="x", token_ids=(7,), logprobs=(TokenLogprobs(chosen=CHOSEN, likeliest=()),))
    entries[3] = Entry(entries[3].cursor, probable)

    history = History(stored(entries))

    assert all(isinstance(each, Entry) for each in as_stored(history.entries, 0, len(entries)))
    assert history.entries == entries


@pytest.mark.parametrize(
    ("place", "fields"),
    [
        ("5-2", ["k", "strange"]),
        ("5-2", ["t", "x"]),
        ("5-2", ["t", "x", "i", "one"]),
        ("x", ["t", "x", "i", "1"]),
        ("5-2", ["t", "x", "i"]),
    ],
    ids=str,
)
def test_what_means_nothing_is_said(place: str, fields: list[str]) -> None:
    """No log is read in part."""
    with pytest.raises(LogUnreadable):
        History([*stored(answer(1))[:3], (place, fields)])
