"""kill -9 at random tokens: does the answer go on exactly, and how soon?

*Scripted* and *llama*: a pool of real `sibyl worker` processes; whenever a random answer has a random number of tokens,
the process that generates it is killed and a new one joins the pool. The scripted answer must equal its uninterrupted
twin. With llama.cpp, whose rounding depends on the batch, what was stored must stay and the answer must be well formed
and end by itself; the share that equals the twin is told. *Takeover*: from the kill to the claim by the next worker, by
Redis' clock, under `sibyl serve --workers 2`, and between workers that nobody supervises.
"""

import os
import random
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from sibyl.core.event import Completed
from sibyl.core.task import TaskId, TaskSpec
from tests.load.rig import (
    SHARD,
    Desk,
    Look,
    Process,
    RawLog,
    desk,
    fold,
    look,
    own_redis,
    require_alive,
    spec,
    spread,
    start_worker,
    started_epochs_ms,
    twins,
    void_outputs,
    wait_working,
)
from tests.processes import serving, until

POOL = 4  # workers at a time; each that is killed is followed by a new one
CAMPAIGN_LEASE_S = 1.0  # so that two hundred takeovers take minutes
LEASE_S = 5.0  # the default, for the figure across hosts
ENDED_S = 90.0  # longest wait for what runs
SAME_HOST_LIMIT_MS, OTHER_HOST_LIMIT_MS = 500.0, 1000 * (LEASE_S + 1)
KILLS_OF_A_SERVE = 6  # then it is started anew: its pauses grow when its workers die again and again
SUBJECTS = ("my work", "an old friend", "a long journey", "my health", "money", "my exams", "a letter", "the garden")
LAST_MARKS = tuple('.!?"”')


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return how the answers went on, and how soon."""
    count = max(4, round(200 * scale))
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as name:
        folder = Path(name)
        scripted = _campaign(folder / "scripted", count, _script, most_tokens=55, engine="scripted", slots=8)
        llama = _campaign(folder / "llama", count, _question, most_tokens=40, engine="llama", slots=2, threads=1)
        same = _same_host(folder / "same", max(2, round(42 * scale)))
        other = _other_host(folder / "other", max(1, round(12 * scale)))
    both = (scripted, llama)
    return {
        "what": f"{count} kills for each engine, lease {CAMPAIGN_LEASE_S} s; takeover with a lease of {LEASE_S} s",
        "scripted": scripted,
        "llama": llama,
        "takeover, same host, serve --workers 2": same,
        "takeover, other hosts, no supervisor": other,
        "promises": {
            "scripted: every answer equals its twin": scripted["equal to the twin"] == count,
            "what was stored stays, with both": all(one["stored part unchanged"] == count for one in both),
            "every answer is well formed and ends by itself": all(one["well formed"] == count for one in both),
            f"takeover on one host: p99 within {SAME_HOST_LIMIT_MS:.0f} ms": same["p99_ms"] <= SAME_HOST_LIMIT_MS,
            "takeover across hosts: p99 within lease + 1 s": other["p99_ms"] <= OTHER_HOST_LIMIT_MS,
        },
    }


# ---- does it go on exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An answer whose worker was killed while it ran."""

    task_id: TaskId
    spec: TaskSpec
    seen: RawLog  #: what a reader had when the worker was killed


class Pool:
    """Worker processes, each with a name of its own, never used again."""

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        self._folder, self._url, self._settings = folder, url, settings
        self._started = 0
        self.alive: dict[str, Process] = {}
        self.kills = 0

    def __enter__(self) -> Self:
        for _ in range(POOL):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.alive.values():
            worker.end()

    def _start(self) -> None:
        name = f"worker-{self._started}"
        self._started += 1
        self.alive[name] = start_worker(name, self._folder, self._url, **self._settings)

    def wait_ready(self, count: int) -> None:
        """Wait until so many workers have loaded their model."""
        require_alive(self.alive.values())
        until(
            lambda: sum(bool(worker.logged("worker_ready")) for worker in self.alive.values()) >= count,
            limit_s=60,
            what="ready workers",
        )

    def kill_holder(self, nonce: str) -> None:
        """Kill the process that holds a lease with this nonce, and start another."""
        worker = self.alive.pop(nonce.partition(":")[0])
        worker.kill()
        worker.process.wait()
        self.kills += 1
        self._start()


def _script(number: int) -> TaskSpec:
    return spec(f"Kill {number}? [tokens=60] [pace=60]", number)


def _question(number: int) -> TaskSpec:
    subject = SUBJECTS[number % len(SUBJECTS)]
    return spec(f"What will become of {subject}, say in {2 + number // len(SUBJECTS)} days?", number)


def _campaign(
    folder: Path, count: int, ask: Callable[[int], TaskSpec], *, most_tokens: int, **settings: Any
) -> dict[str, Any]:
    """Kill until ``count`` answers were hit while they ran, and look at what became of those."""
    folder.mkdir()
    settings |= {"lease_s": CAMPAIGN_LEASE_S, "heartbeat_s": CAMPAIGN_LEASE_S / 4}
    dice = random.Random(1)
    hits: list[Hit] = []
    asked = 0
    with (
        own_redis(folder / "redis") as redis,
        look(redis.url) as seen,
        desk(redis.url) as clerk,
        Pool(folder, redis.url, **settings) as pool,
    ):
        while len(hits) < count:
            pool.wait_ready(2)  # there is somebody to take over
            specs = [ask(asked), ask(asked + 1)]  # the second one runs beside, and may be hit as well
            asked += len(specs)
            target, _ = [clerk.submit(one) for one in specs]
            read, nonce = _read_until(seen, target, dice.randint(1, most_tokens))
            if nonce is None:
                continue  # it ended first
            pool.kill_holder(nonce)
            if seen.fields(target, "state", "nonce") == ["running", nonce]:
                hits.append(Hit(task_id=target, spec=specs[0], seen=read))
        until(lambda: seen.unfinished() == 0, limit_s=ENDED_S, what="the end of all answers")
        texts = (
            twins([hit.spec for hit in hits]) if settings["engine"] == "scripted" else _undisturbed(seen, clerk, hits)
        )
        judged = [_Judged.of(hit, seen.log(hit.task_id)) for hit in hits]
    return {
        "kills": pool.kills,
        "answers that were hit": len(hits),
        "tokens when killed": spread([float(one.tokens_seen) for one in judged]),
        "attempts, most": max(one.attempts for one in judged),
        "stored part unchanged": sum(one.unchanged for one in judged),
        "well formed": sum(one.well_formed for one in judged),
        "equal to the twin": sum(one.text == text for one, text in zip(judged, texts, strict=True)),
    }


def _read_until(seen: Look, task_id: TaskId, tokens: int) -> tuple[RawLog, str | None]:
    """Follow a log until it has so many tokens; return what was read, and who holds the task, None if it has ended."""
    read: RawLog = []
    while True:
        after = read[-1][0] if read else "0-0"
        reply = seen.redis.xread({SHARD.log(task_id): after}, block=10_000)
        if not reply:
            raise TimeoutError("nothing is written")
        read += cast("list[tuple[str, RawLog]]", reply)[0][1]
        if fold(read).terminal:
            return read, None
        if _tokens(read) >= tokens:
            return read, seen.field(task_id, "nonce") or None


def _tokens(log: RawLog) -> int:
    return sum(len(fields["i"].split()) for _, fields in log if "i" in fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What became of an answer that was hit."""

    text: str
    tokens_seen: int
    attempts: int
    unchanged: bool
    well_formed: bool

    @classmethod
    def of(cls, hit: Hit, log: RawLog) -> Self:
        whole = fold(log)
        end = whole.entries[-1].event
        text = whole.text()
        attempts = len(started_epochs_ms(log))
        return cls(
            text=text,
            tokens_seen=_tokens(hit.seen),
            attempts=attempts,
            unchanged=attempts > 1 and log[: len(hit.seen)] == hit.seen and void_outputs(log) == 0,
            well_formed=isinstance(end, Completed)
            and end.finish_reason == "stop"
            and end.text_length == len(text)
            and end.usage.completion_tokens >= _tokens(log)
            and _reads_well(hit.spec, text),
        )


def _reads_well(asked: TaskSpec, text: str) -> bool:
    """Whether it is whole sentences of whole characters; the scripted engine knows no sentences."""
    return "\ufffd" not in text and ("[tokens=" in asked.messages[-1].content or text.endswith(LAST_MARKS))


def _undisturbed(seen: Look, clerk: Desk, hits: Sequence[Hit]) -> list[str]:
    """Ask the same again, and kill nobody."""
    ids = [clerk.submit(hit.spec) for hit in hits]
    until(lambda: seen.unfinished() == 0, limit_s=ENDED_S + len(hits), what="the end of all twins")
    return [fold(seen.log(task_id)).text() for task_id in ids]


# ---- how soon does it go on


def _same_host(folder: Path, kills: int) -> dict[str, Any]:
    """Kill workers of `sibyl serve --workers 2`; the supervisor gives back what they held."""
    folder.mkdir()
    dice = random.Random(2)
    takeovers_ms: list[float] = []
    with own_redis(folder / "redis") as redis, look(redis.url) as seen, desk(redis.url) as clerk:
        for first in range(0, kills, KILLS_OF_A_SERVE):
            flags = ("--engine", "scripted", "--slots", "4", "--redis-url", redis.url)
            with serving(folder / f"serve-{first}", *flags, env={"SIBYL_WORKERS": "2"}) as serve:
                since_ms = dict.fromkeys(_names(seen), seen.now_ms())
                for number in range(first, min(kills, first + KILLS_OF_A_SERVE)):
                    _wait_announced(seen, serve.port, since_ms)
                    ids = [clerk.submit(_script(4 * number + slot)) for slot in range(4)]
                    _wait_outputs(seen, ids, dice.randint(1, 40))
                    name = (seen.field(ids[0], "nonce") or "").partition(":")[0]
                    pid = next(pid for pid in serve.children("sibyl worker") if _is_named(pid, name))
                    killed_ms = seen.now_ms()
                    os.kill(pid, signal.SIGKILL)
                    since_ms[name] = killed_ms
                    takeovers_ms += _takeovers(seen, ids, name, killed_ms)
    return spread(takeovers_ms, unit="_ms") | {"kills": kills}


def _names(seen: Look) -> list[str]:
    return list(seen.announced_ms())


def _wait_announced(seen: Look, port: int, since_ms: dict[str, float]) -> None:
    """Wait until both workers have said that they are alive since they were last killed."""

    def both() -> bool:
        said = {name: at for name, at in seen.announced_ms().items() if f"-{port}-" in f"{name}-"}
        return len(said) == 2 and all(at > since_ms.get(name, 0) for name, at in said.items())

    until(both, limit_s=60, what="two workers")


def _is_named(pid: int, name: str) -> bool:
    return name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def _other_host(folder: Path, kills: int) -> dict[str, Any]:
    """Kill workers that nobody supervises: the others learn of it when the leases run out. Nothing else wakes them."""
    folder.mkdir()
    at_once = 10
    settings = {"engine": "scripted", "slots": at_once, "lease_s": LEASE_S, "heartbeat_s": 1.0}
    dice = random.Random(3)
    takeovers_ms: list[float] = []
    with own_redis(folder / "redis") as redis, look(redis.url) as seen, desk(redis.url) as clerk:
        successor = start_worker("other-0", folder, redis.url, **settings)
        try:
            for number in range(1, kills + 1):
                victim, successor = successor, start_worker(f"other-{number}", folder, redis.url, **settings)
                wait_working(seen, victim, successor)
                successor.stop()  # so that the victim takes them all, and the successor is idle
                ids = [clerk.submit(_script(at_once * number + slot)) for slot in range(at_once)]
                _wait_outputs(seen, ids, dice.randint(1, 20))
                successor.go_on()
                _wait_outputs(seen, ids, dice.randint(21, 40))
                killed_ms = seen.now_ms()
                victim.kill()
                victim.process.wait()
                takeovers_ms += _takeovers(seen, ids, victim.name, killed_ms)
        finally:
            successor.end()
    return spread(takeovers_ms, unit="_ms") | {"kills": kills, "lease_s": LEASE_S}


def _wait_outputs(seen: Look, ids: Sequence[TaskId], outputs: int) -> None:
    until(
        lambda: all(int(seen.field(task_id, "offset") or 0) >= outputs for task_id in ids),
        limit_s=60,
        what="outputs",
    )


def _takeovers(seen: Look, ids: Sequence[TaskId], name: str, killed_ms: float) -> list[float]:
    """Wait for the end of the answers; return how long those that the dead worker held stood still."""
    until(lambda: seen.unfinished() == 0, limit_s=ENDED_S, what="the end of all answers")
    found = []
    for task_id in ids:
        later = [epoch for epoch in started_epochs_ms(seen.log(task_id)) if epoch >= int(killed_ms)]
        if later:  # else another worker held it
            found.append(max(0.0, later[0] - killed_ms))
    if not found:
        raise RuntimeError(f"{name} held nothing when it was killed")
    return found
