"""A worker that ends hands its answers to another one that is there, and a reader sees one stream."""

from itertools import pairwise

from sibyl.core.event import Completed, Entry, Output, Started
from tests.serving import working
from tests.worker.desk import Desk, is_terminal, uninterrupted


async def test_a_handed_over_answer_goes_on_elsewhere_without_a_gap(desk: Desk) -> None:
    """At the limit of its drain; a follower from the start sees every output once, in order, under two attempts."""
    question = "[pace=50] [tokens=60]"
    async with working(desk.redis_url, name="first", slots=1, drain_s=0.3) as first:
        task_id = await desk.ask(question)
        await desk.begun(task_id, 5)
        async with working(desk.redis_url, name="second", lease_s=30, heartbeat_s=5):
            await first.drain()
            entries = await desk.until(task_id, is_terminal)

    started = [entry.event for entry in entries if isinstance(entry.event, Started)]
    outputs = [entry for entry in entries if isinstance(entry.event, Output)]
    assert [event.attempt for event in started] == [1, 2]
    assert 5 <= started[1].kept < 60
    assert [entry.cursor.offset for entry in outputs] == list(range(1, len(outputs) + 1))
    assert all(earlier.cursor < later.cursor for earlier, later in pairwise(entries))
    assert isinstance(entries[-1].event, Completed)
    assert text_of(outputs) == await uninterrupted(question)


def text_of(outputs: list[Entry]) -> str:
    """The answer in these entries."""
    return "".join(entry.event.text for entry in outputs if isinstance(entry.event, Output))
