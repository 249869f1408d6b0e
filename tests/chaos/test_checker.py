"""The checker can fail: a good history passes, and each promise is broken once by hand and found broken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sibyl.wire.record import FIELDS
from tests.chaos import programmed, report
from tests.chaos.asks import answer_to
from tests.chaos.checker import PROMISES, Verdict, check
from tests.chaos.expected import whole_answer
from tests.chaos.history import (
    Accepted,
    Answered,
    Ask,
    Campaign,
    Fault,
    Leftover,
    Log,
    Look,
    Loss,
    Process,
    Reader,
    Record,
    Step,
    View,
    Wanted,
    Writer,
)

TASK, OTHER = "0." + "a" * 32, "0." + "b" * 32
ASK = Ask(key="k1", question="[tokens=4] why", seed=7)
WHOLE = whole_answer(ASK.question, ASK.seed)
WORDS = [WHOLE.split()[0], *(f" {word}" for word in WHOLE.split()[1:])]
Entries = list[tuple[str, dict[str, str]]]


def entry(entry_id: str, **fields: object) -> tuple[str, dict[str, str]]:
    """An entry of a raw log."""
    return entry_id, {FIELDS[name]: str(value) for name, value in fields.items()}


def good_entries() -> Entries:
    """A log in which a second worker went on after two outputs."""
    return [
        entry("0-1", KIND="queued"),
        entry("100-0", KIND="started", ATTEMPT=1, MODEL="m", KEPT=0, PREVIOUS="0-1"),
        entry("100-1", TEXT=WORDS[0], TOKEN_IDS="1"),
        entry("100-2", TEXT=WORDS[1], TOKEN_IDS="2"),
        entry("200-2", KIND="started", ATTEMPT=2, MODEL="m", KEPT=2, PREVIOUS="100-2"),
        entry("200-3", TEXT=WORDS[2] + WORDS[3], TOKEN_IDS="3 4"),
        entry("200-4", KIND="completed", TEXT_LENGTH=len(WHOLE), USAGE="1 4", FINISH_REASON="stop", KEPT=3),
    ]


def frame(t: float, event_id: str | None, type_: str, **fields: object) -> Step:
    """A frame that a follower got."""
    return Step(t, "frame", event_id, {"type": type_, **fields})


def good_steps() -> list[Step]:
    """What a follower met who was cut once."""
    return [
        Step(1.0, "connect", None, 0),
        frame(1.1, "0-1", "queued"),
        frame(1.2, "100-0", "started", attempt=1),
        frame(1.3, "100-1", "llm_streaming", token=WORDS[0], index=0),
        Step(1.4, "cut", None, "left"),
        Step(1.5, "connect", "100-1", 1),
        frame(1.6, "100-2", "llm_streaming", token=WORDS[1], index=1),
        frame(2.6, "200-2", "started", attempt=2),
        frame(2.7, "200-3", "llm_streaming", token=WORDS[2] + WORDS[3], index=2),
        frame(2.8, "200-4", "completed", text_length=len(WHOLE)),
    ]


def good() -> list[Record]:
    """A whole campaign of one task, in which every promise was kept."""
    return [
        Campaign(seed=1, seconds=60, topology="single", faults=["kill-worker"]),
        ASK,
        Accepted(t=0.9, key="k1", task=TASK),
        Fault(t=1.7, kind="kill-worker", target="worker-0", lasts_s=0.5),
        View(task=TASK, follower=0, steps=good_steps(), end="terminal"),
        Look(t=3.0, task=TASK, state="completed", text=WHOLE, attempt=2),
        Log(task=TASK, state="completed", offset=3, entries=good_entries()),
        Leftover(key="running", members=0),
    ]


def verdict_on(records: list[Record], directory: Path) -> Verdict:
    """Write the records as a campaign does, and judge them."""
    writer = Writer(directory)
    for record in records:
        writer.note(record)
    writer.close()
    return check(Reader(directory))


def with_log(change: Callable[[Entries], Entries], **fields: Any) -> list[Record]:
    """The good campaign with another log."""
    return [
        replace(record, entries=change(good_entries()), **fields) if isinstance(record, Log) else record
        for record in good()
    ]


def with_steps(change: Callable[[list[Step]], list[Step]], end: str = "terminal") -> list[Record]:
    """The good campaign with another view."""
    return [
        replace(record, steps=change(good_steps()), end=end) if isinstance(record, View) else record
        for record in good()
    ]


def without(kind: type[Record]) -> list[Record]:
    """The good campaign without records of a kind."""
    return [record for record in good() if not isinstance(record, kind)]


def told(statuses: list[tuple[str, int, str | None]]) -> list[Record]:
    """The good campaign, and these answers."""
    return [
        *good(),
        *(
            Answered(t=2.0, route=route, status=status, key="k1", task=TASK, retry_after=after)
            for route, status, after in statuses
        ),
    ]


def end_entry(kind: str) -> tuple[str, dict[str, str]]:
    """A terminal entry in the place of the good one."""
    return entry("200-4", KIND=kind, CODE="c", MESSAGE="m", KEPT=3)


BAD: dict[str, tuple[str, list[Record]]] = {
    "an accepted task is not there": ("accepted-kept", without(Log)),
    "a task that nobody asked for": ("accepted-kept", [*good(), Log(task=OTHER, state="queued", offset=0, entries=[])]),
    "forgotten, and nobody erased it": (
        "accepted-kept",
        with_steps(lambda steps: [*steps[:-1], frame(2.8, None, "failed", code="task_forgotten")], "forgotten"),
    ),
    "lost with the tail and never accepted again": (
        "accepted-kept",
        [*without(Log), Loss(t=0.95, bytes=9, tasks=[TASK])],
    ),
    "a key gives a second task": ("one-key-one-task", [*good(), Accepted(t=2.0, key="k1", task=OTHER)]),
    "two ends in a log": ("one-end", with_log(lambda log: [*log, entry("200-5", KIND="cancelled", KEPT=3)])),
    "the state is not the end": ("one-end", with_log(lambda log: log, state="running")),
    "failed, which nobody asked for": (
        "one-end",
        with_log(lambda log: [*log[:-1], end_entry("failed")], state="failed"),
    ),
    "cancelled, which nobody asked for": (
        "one-end",
        with_log(lambda log: [*log[:-1], end_entry("cancelled")], state="cancelled"),
    ),
    "expired an hour early": ("one-end", with_log(lambda log: [*log[:-1], end_entry("expired")], state="expired")),
    "shown as cancelled, stored as completed": (
        "one-end",
        with_steps(lambda steps: [*steps[:-1], frame(2.8, "200-4", "cancelled")]),
    ),
    "two ends in a view": (
        "one-end",
        with_steps(lambda steps: [*steps, frame(2.9, "200-5", "completed", text_length=len(WHOLE))]),
    ),
    "a view that is over without an end": ("one-end", with_steps(lambda steps: steps[:-1])),
    "REST told another end": (
        "one-end",
        [*good(), Look(t=2.9, task=TASK, state="failed", text=WHOLE, attempt=2)],
    ),
    "another word is stored": (
        "text",
        with_log(lambda log: [*log[:3], entry("100-2", TEXT=" nonsense", TOKEN_IDS="9"), *log[4:]]),
    ),
    "the end is stored after half the answer": (
        "text",
        with_log(
            lambda log: [
                *log[:5],
                entry("200-3", KIND="completed", TEXT_LENGTH=len(WORDS[0] + WORDS[1]), USAGE="1 2", KEPT=2),
            ],
            offset=2,
        ),
    ),
    "the end is shown after half the answer": (
        "text",
        with_steps(lambda steps: [*steps[:-2], frame(2.8, "200-4", "completed", text_length=len(WHOLE))]),
    ),
    "REST shows half an answer as completed": (
        "text",
        [*good(), Look(t=2.9, task=TASK, state="completed", text=WORDS[0], attempt=2)],
    ),
    "an offset is missing": ("log", with_log(lambda log: [*log[:2], *log[3:]])),
    "an output is there twice": ("log", with_log(lambda log: [*log[:4], log[3], *log[4:]])),
    "an epoch falls": (
        "log",
        with_log(lambda log: [*log[:4], ("50-2", log[4][1]), *log[5:]]),
    ),
    "an output of an epoch that nobody holds": (
        "log",
        with_log(lambda log: [*log[:5], ("100-3", log[5][1]), log[6]]),
    ),
    "a claim that keeps less than there is": (
        "log",
        with_log(lambda log: [*log[:4], entry("200-2", KIND="started", ATTEMPT=2, KEPT=1, PREVIOUS="100-2"), *log[5:]]),
    ),
    "a claim after another entry": (
        "log",
        with_log(lambda log: [*log[:4], entry("200-2", KIND="started", ATTEMPT=2, KEPT=2, PREVIOUS="100-1"), *log[5:]]),
    ),
    "the state counts another number of outputs": ("log", with_log(lambda log: log, offset=2)),
    "a follower sees another word": (
        "live-view",
        with_steps(
            lambda steps: [*steps[:3], frame(1.3, "100-1", "llm_streaming", token="nonsense", index=0), *steps[4:]]
        ),
    ),
    "REST shows another text": ("live-view", [*good(), Look(t=2.0, task=TASK, state="running", text="no", attempt=1)]),
    "a follower misses an output": ("order", with_steps(lambda steps: [*steps[:3], *steps[4:]])),
    "a follower gets an output twice": ("order", with_steps(lambda steps: [*steps[:4], steps[3], *steps[4:]])),
    "an id has two meanings": (
        "one-meaning",
        with_steps(
            lambda steps: [
                *steps[:3],
                frame(1.3, "100-1", "llm_streaming", token=WORDS[0] + WORDS[1], index=0),
                *steps[7:],
            ]
        ),
    ),
    "a reset without a loss": (
        "resets",
        with_steps(lambda steps: [*steps[:4], frame(1.35, None, "reset", text=WORDS[0], **{"from": 1}), *steps[5:]]),
    ),
    "a reset before the loss": (
        "resets",
        [
            *with_steps(
                lambda steps: [*steps[:4], frame(1.35, None, "reset", text=WORDS[0], **{"from": 1}), *steps[5:]]
            ),
            Loss(t=2.0, bytes=9, tasks=[TASK]),
        ],
    ),
    "a body that ends in order without an end": (
        "cut-is-no-end",
        with_steps(lambda steps: [*steps[:4], Step(1.4, "clean", None, None), *steps[5:]]),
    ),
    "204 for what is not the end": (
        "cut-is-no-end",
        with_steps(lambda steps: [*steps[:5], Step(1.45, "status", "100-1", 204), *steps[5:]]),
    ),
    "a follower is stuck": ("not-stuck", with_steps(lambda steps: steps[:6], "stuck")),
    "a task is never finished": ("not-stuck", with_log(lambda log: log[:-1], state="running")),
    "a question is never accepted": ("not-stuck", [*good(), Ask(key="k2", question="why", seed=1)]),
    "a process does not drain": ("not-stuck", [*good(), Process(t=3.0, name="api-0", what="undrained", status=-9)]),
    "a 500": ("statuses", told([("look", 500, None)])),
    "a 503 without Retry-After": ("statuses", told([("look", 503, None)])),
    "a 429 without Retry-After": ("statuses", told([("submit", 429, None)])),
    "a 404 for what is there": ("statuses", told([("follow", 404, None)])),
    "a 410 for what nobody erased": ("statuses", told([("follow", 410, None)])),
    "a 422 for a good request": ("statuses", told([("submit", 422, None)])),
    "erased and still there": (
        "erased",
        [*told([("erase", 204, None)]), Wanted(t=1.0, task=TASK, action="erase")],
    ),
    "something is left in the queue": ("tidy", [*good(), Leftover(key="waiting", members=1)]),
}


def test_a_good_history_passes(tmp_path: Path) -> None:
    """Nothing is found where nothing is, and the figures are those of the history."""
    verdict = verdict_on(good(), tmp_path)

    assert verdict.kept, verdict.violations
    assert (verdict.asked, verdict.tasks, verdict.tokens, verdict.attempts) == (1, 1, 4, 2)
    assert (verdict.views, verdict.connects, verdict.resets) == (1, 2, 0)
    assert verdict.takeovers_s == [pytest.approx(1.0)]
    assert verdict.slowest_s == pytest.approx(1.9)
    assert list(report.lines(verdict))[-1] == "PASS: 14 promises kept by 1 tasks under 1 faults"


@pytest.mark.parametrize("how", BAD)
def test_a_broken_promise_is_found(how: str, tmp_path: Path) -> None:
    """Each way of breaking a promise is found, under the name of that promise."""
    promise, records = BAD[how]

    verdict = verdict_on(records, tmp_path)

    assert promise in verdict.broken, verdict.violations
    assert list(report.lines(verdict))[-1].startswith("FAIL")


def test_a_campaign_is_judged_by_the_answers_of_its_engine(tmp_path: Path) -> None:
    """The same history is wrong if another engine had to say something else."""
    ask = replace(ASK, question=f"{programmed.MARKS[0]} 一", sampling={"max_tokens": 4})
    records = [
        replace(record, engine="llama") if isinstance(record, Campaign) else ask if record is ASK else record
        for record in good()
    ]

    verdict = verdict_on(records, tmp_path)

    assert verdict.broken["text"] and verdict.broken["live-view"]
    assert answer_to("llama", ask) == "".join(programmed.word(0, place) for place in range(1, 5))


def test_every_promise_is_broken_by_some_history() -> None:
    """No promise is only words."""
    assert {promise for promise, _ in BAD.values()} == set(PROMISES)


def test_a_loss_excuses_what_it_explains_and_nothing_else(tmp_path: Path) -> None:
    """A task that Redis lost may be accepted again, may be 404 and may be reset; other tasks may not."""
    loss = Loss(t=1.0, bytes=9, tasks=[OTHER])
    lost: list[Record] = [
        Accepted(t=0.8, key="k2", task=OTHER),
        replace(ASK, key="k2"),
        Accepted(t=1.5, key="k2", task=TASK),
        Answered(t=1.4, route="follow", status=404, key="", task=OTHER),
        View(task=OTHER, follower=0, steps=[Step(1.3, "connect", None, 0), Step(1.4, "status", None, 404)], end="lost"),
    ]
    kept: list[Record] = [record for record in good() if record is not ASK and not isinstance(record, Accepted)]

    assert verdict_on([*kept, loss, *lost], tmp_path / "excused").kept
    assert "statuses" in verdict_on([*kept, replace(loss, tasks=[TASK]), *lost], tmp_path / "other").broken


def test_a_reset_after_a_loss_is_followed(tmp_path: Path) -> None:
    """After a reset the follower's text is the one it was given, and what follows is checked against that."""

    def reset_at(steps: list[Step], kept: int) -> list[Step]:
        reset = frame(1.55, None, "reset", text="".join(WORDS[:kept]), **{"from": kept})
        return [*steps[:6], reset, *steps[6:]]

    loss = Loss(t=1.45, bytes=9, tasks=[TASK])

    right = verdict_on([*with_steps(lambda steps: reset_at(steps, 1)), loss], tmp_path / "right")
    wrong = verdict_on([*with_steps(lambda steps: reset_at(steps, 0)), loss], tmp_path / "wrong")

    assert right.kept and right.resets == 1, right.violations
    assert "order" in wrong.broken


def test_an_erased_task_is_absent_and_nobody_complains(tmp_path: Path) -> None:
    """What somebody wanted erased may be gone, and may be told as gone."""
    records = [*without(Log), Wanted(t=2.0, task=TASK, action="erase"), *told([("final", 410, None)])[-1:]]

    assert verdict_on(records, tmp_path).kept
