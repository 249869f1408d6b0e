"""The history file: what is written is what is read, and only places are kept in memory."""

from pathlib import Path

from tests.chaos.history import Ask, Log, Loss, Reader, Record, Step, View, Writer


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    """Each task's records come back in order, whatever lay between them; the rest is common."""
    one, two = "0." + "1" * 32, "0." + "2" * 32
    records: list[Record] = [
        Ask(key="k", question="why \u2013 and how?", seed=3, fails=True, sampling={"stop": ["no"]}),
        View(task=one, follower=0, steps=[Step(1.0, "frame", "0-1", {"type": "queued"})], end="terminal"),
        Log(task=two, state="queued", offset=0, entries=[("0-1", {"k": "queued"})]),
        Loss(t=2.0, bytes=10, tasks=None),
        Log(task=one, state="queued", offset=0, entries=[("0-1", {"k": "queued"})]),
    ]
    writer = Writer(tmp_path)
    for record in records:
        writer.note(record)
    writer.close()

    reader = Reader(tmp_path)

    assert reader.common == [records[0], records[3]]
    assert dict(reader.of([two, one, "0.unknown"])) == {
        two: [records[2]],
        one: [records[1], records[4]],
        "0.unknown": [],
    }
