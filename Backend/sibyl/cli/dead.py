"""The command for operators: tasks that used up their tries. It talks to Redis itself, also while the API is down."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sibyl.cli.entry import SETTINGS, exit_code
from sibyl.core.errors import (
    ProcessError,
    QueueFull,
    StoreUnavailable,
    TaskForgotten,
    TooManyTasks,
    UnknownTask,
)
from sibyl.core.task import TaskId

if TYPE_CHECKING:
    from sibyl.config import Settings
    from sibyl.store.dead import DeadLetters, DeadTask

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

PATIENCE_S = 5.0  # a Redis that is being restarted is waited for
_REFUSALS = (UnknownTask, TaskForgotten, QueueFull, TooManyTasks)  # of one task; the next may do better


def _where(command: F) -> F:
    for flag, name, metavar, text in (
        ("--data-dir", "data_dir", "FOLDER", "Folder of the sibyl serve whose own Redis it is, if there is no URL."),
        ("--redis-url", "redis_url", "URL", "The Redis of api and worker."),
    ):
        shown = f"SIBYL_{name.upper()}"
        command = click.option(flag, name, metavar=metavar, help=f"{text} [env var: {shown}]")(command)
    return command


def _which(command: F) -> F:
    command = click.option("--all", "everything", is_flag=True, help="All that are on the list.")(command)
    return click.argument("task_ids", nargs=-1, metavar="[ID]...")(command)


@click.group(context_settings=SETTINGS)
def dead() -> None:
    """List, retry or drop tasks that failed because every worker that tried them was lost.

    A task dies when SIBYL_MAX_ATTEMPTS workers in a row were lost without storing a token of its answer: mostly because
    it kills them (memory, a bug in a library), sometimes because the machine was ill. Whoever asked has been told that
    it failed (worker_lost), so it never runs again by itself. Find out why, then retry it, or drop it from the list.
    Redis is asked directly; the API may be down. Give the SIBYL_SHARDS that api and worker have, if they have one.

    \b
    Examples:
      sibyl dead list
      sibyl dead retry 0.5f0c64d2b4a94e1d8a3c4be7a2d90c11
      sibyl dead drop --all
    """


@dead.command("list", context_settings=SETTINGS, short_help="Print them.")
@_where
@click.option("--json", "as_json", is_flag=True, help="Print one task a line, as JSON.")
def list_(as_json: bool, **flags: Any) -> None:
    """Print the dead tasks, those that died last first; at most the 1,000 newest of each shard are kept.

    TRIES are the workers lost in a row, TOKENS what is stored of the answer, MODEL the one that was tried last. Neither
    questions nor answers are shown.

    \b
    Examples:
      sibyl dead list
      sibyl dead list --json | jq -r 'select(.tokens == 0) | .task_id'
    """

    async def show(letters: "DeadLetters", settings: "Settings") -> list["DeadTask"]:
        found = []
        for task_id in await letters.ids():
            try:
                found.append(await letters.task(task_id))
            except (UnknownTask, TaskForgotten):
                continue  # somebody else retried, dropped or erased it just now
        return found

    tasks = _with_letters(show, flags)
    if as_json:
        import json
        from dataclasses import asdict

        for task in tasks:
            click.echo(json.dumps(asdict(task), ensure_ascii=False))
    elif tasks:
        _print_table(tasks)
    else:
        click.echo("sibyl: no dead tasks", err=True)


@dead.command(context_settings=SETTINGS, short_help="Ask again what they asked, as new tasks.")
@_where
@_which
def retry(task_ids: tuple[str, ...], everything: bool, **flags: Any) -> int:
    """Ask again what the dead tasks ID... asked, and take them off the list.

    Each becomes a new task with the same question, settings and owner, behind what waits already; the dead one stays as
    it is until its retention ends. Prints "old -> new" for each. Retrying the same dead task again gives the same new
    one. What the queue refuses (SIBYL_QUEUE_TASKS, SIBYL_OWNER_TASKS) stays on the list.

    \b
    Examples:
      sibyl dead retry 0.5f0c64d2b4a94e1d8a3c4be7a2d90c11
      sibyl dead retry --all
    """

    async def retry_one(letters: "DeadLetters", settings: "Settings", task_id: TaskId) -> str:
        limits = {"queue_tasks": settings.queue_tasks, "owner_tasks": settings.owner_tasks}
        return f"{task_id} -> {await letters.retry(task_id, **limits)}"

    return _each(retry_one, task_ids, everything, flags)


@dead.command(context_settings=SETTINGS, short_help="Take them off the list.")
@_where
@_which
def drop(task_ids: tuple[str, ...], everything: bool, **flags: Any) -> int:
    """Take the dead tasks ID... off the list. The tasks themselves, as failed, stay until their retention ends.

    \b
    Examples:
      sibyl dead drop 0.5f0c64d2b4a94e1d8a3c4be7a2d90c11
      sibyl dead drop --all
    """

    async def drop_one(letters: "DeadLetters", settings: "Settings", task_id: TaskId) -> str:
        await letters.drop(task_id)
        return f"{task_id} dropped"

    return _each(drop_one, task_ids, everything, flags)


def _each(
    act: Callable[["DeadLetters", "Settings", TaskId], Awaitable[str]],
    task_ids: Sequence[str],
    everything: bool,
    flags: dict[str, Any],
) -> int:
    """Do it to each, say for each what became of it, and return the exit code."""
    from sibyl.cli.terminal import one_line

    if bool(task_ids) == everything:
        raise click.UsageError("Name the tasks, or give --all; sibyl dead list shows what there is.")

    async def work(letters: "DeadLetters", settings: "Settings") -> int:
        refused: set[int] = set()
        for task_id in await letters.ids() if everything else dict.fromkeys(map(TaskId, task_ids)):
            try:
                click.echo(await act(letters, settings, task_id))
            except _REFUSALS as error:
                click.echo(f"sibyl: {one_line(f'{task_id}: {error.message}')}", err=True)
                refused.add(exit_code(error))
        return min(refused, default=0)

    return _with_letters(work, flags)


def _with_letters(work: Callable[["DeadLetters", "Settings"], Awaitable[T]], flags: dict[str, Any]) -> T:
    """Run ``work`` on the Redis that the settings name."""
    from sibyl.config import load_settings
    from sibyl.store.connection import Store, because
    from sibyl.store.dead import DeadLetters

    settings = load_settings(**flags)
    given = settings.redis_url
    url = _embedded_url(settings) if given is None else given.get_secret_value()

    async def connected() -> T:
        store = Store(url, shards=settings.shards, patience_s=PATIENCE_S, durability=settings.durability)
        try:
            letters = DeadLetters(store)
            await letters.require_all_shards()
            return await work(letters, settings)
        except StoreUnavailable as error:
            check = "Check --redis-url." if given is not None else f"Is the Sibyl on {settings.data_dir} ending?"
            raise StoreUnavailable(f"Redis did not answer{because(error)}. {check}") from None
        finally:
            await store.close()

    return asyncio.run(connected())


def _embedded_url(settings: "Settings") -> str:
    """The address of the Redis that a running ``sibyl serve`` keeps in the data folder."""
    from pathlib import Path

    from sibyl.store.instance_lock import InstanceLock
    from sibyl.store.socket_place import SocketPlace

    try:
        holder = InstanceLock(settings.data_dir.absolute() / "redis" / "lock").holder()
    except OSError as error:
        raise ProcessError(
            f"{settings.data_dir} cannot be read: {error.strerror}. It belongs to another user?"
        ) from None
    place = Path(holder.socket_path) if holder is not None and holder.socket_path is not None else None
    if place is None or not place.exists():
        raise StoreUnavailable(
            f"No Redis: no Sibyl runs on {settings.data_dir}. Name the Redis with --redis-url, or start sibyl serve."
        )
    return SocketPlace(directory=place.parent, temporary=False).url()


def _print_table(tasks: Sequence["DeadTask"]) -> None:
    from sibyl.cli.terminal import one_line

    rows: list[tuple[str, ...]] = [("ID", "OWNER", "KIND", "DIED", "TRIES", "TOKENS", "MODEL")]
    for task in tasks:
        died = f"{datetime.fromtimestamp(task.died_at, UTC):%Y-%m-%dT%H:%M:%SZ}"
        tokens = "-" if task.tokens is None else str(task.tokens)
        facts = (task.task_id, task.owner, task.kind, died, str(task.tries), tokens, task.model or "-")
        rows.append(tuple(map(one_line, facts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
