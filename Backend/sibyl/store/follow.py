"""Follow one answer from a cursor to its end: all that is stored, then what comes, in order, without gap or repeat."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sibyl.core.cursor import START, Cursor
from sibyl.core.event import Entry, Output
from sibyl.core.fold import outputs_of
from sibyl.store.tail import Feed


@dataclass(frozen=True, slots=True)
class Position:
    """So many tasks are ahead in the queue."""

    position: int


@dataclass(frozen=True, slots=True)
class Progress:
    """The model has read so many of the prompt's tokens."""

    evaluated: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Reset:
    """What the follower has is not what the log says: ``text`` and its ``outputs`` stay, all after it comes anew."""

    outputs: int
    text: str
    cursor: Cursor  #: the event that ``text`` reaches to: where the follower goes on after it


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The task was erased while it was followed. Nothing follows."""


Hint = Position | Progress | Reset | Forgotten
Batch = Sequence[Entry | Hint]


def at_end(feed: Feed, after: Cursor) -> bool:
    """Whether the cursor is the terminal event, after which nothing comes."""
    return feed.fold.terminal and feed.fold.last == after


async def follow(feed: Feed, after: Cursor) -> AsyncIterator[Batch]:
    """Yield what came since the last time, as often as there is something, until a terminal event or ``Forgotten``.

    Args:
        feed: loaded.
        after: the last event that the follower has. One that the log does not hold leads to a ``Reset`` and the
            whole log: it is foreign, or Redis lost it.

    Raises:
        LogUnreadable: after what could be read of the log.

    Cancelling it stops nothing but itself.
    """
    seen: list[Entry] = []
    if after != START:
        place = next((index for index, entry in enumerate(feed.fold.entries) if entry.cursor == after), None)
        if place is None:
            yield [Reset(0, "", START)]
        else:
            seen = feed.fold.entries[: place + 1]
    fold = feed.fold
    taken, last = len(seen), seen[-1].cursor if seen else START
    position: int | None = None
    progress: tuple[int, int] | None = None
    while True:
        # take the event, then look, then wait: a change between the last two is kept
        changed = feed.changed()
        batch: list[Entry | Hint] = []
        reset: Reset | None = None
        if feed.fold is not fold:
            taken, reset = _rejoin(fold.entries[:taken], feed.fold.entries)
            fold = feed.fold
        if reset is None and taken < len(fold.entries) and fold.entries[taken].cursor <= last:
            # A mark that the follower has is lost, and its author's predecessor went on: ids never go back unsaid.
            reset = _reset(fold.entries[:taken])
        if reset is not None:
            batch.append(reset)
            last = reset.cursor
        batch += fold.entries[taken:]
        last = fold.entries[-1].cursor if taken < len(fold.entries) else last
        taken = len(fold.entries)
        if feed.forgotten and not fold.terminal:
            yield [*batch, Forgotten()]
            return
        if not fold.terminal:  # after the end comes nothing, not even a hint
            if feed.position is not None and feed.position != position:
                batch.append(Position(feed.position))
            if feed.progress is not None and feed.progress != progress:
                batch.append(Progress(*feed.progress))
        position, progress = feed.position, feed.progress
        if batch:
            yield batch
        if fold.terminal and taken == len(fold.entries):
            return
        if feed.fold is fold and taken == len(fold.entries):
            if feed.unreadable is not None:
                raise feed.unreadable
            await changed.wait()


def _rejoin(seen: Sequence[Entry], entries: Sequence[Entry]) -> tuple[int, Reset | None]:
    """Return how many of the new entries the follower has, and a reset if it has text beside them."""
    common = 0
    while common < len(seen) and common < len(entries) and seen[common] == entries[common]:
        common += 1
    if any(isinstance(entry.event, Output) for entry in seen[common:]):
        return common, _reset(entries[:common])
    return common, None  # at most marks without text were lost; the follower's text is right


def _reset(kept: Sequence[Entry]) -> Reset:
    """Return the reset to these entries, with the place of the last one.

    The follower's own last place may soon be right again, once the owner has sent anew what was lost, and whoever went
    on from there would miss what lies between.
    """
    outputs = outputs_of(kept)
    place = kept[-1].cursor if kept else START
    return Reset(len(outputs), "".join(output.text for output in outputs), place)
