"""The commands of who asks: ask, fortune, follow, cancel. They need a server, and nothing else of Sibyl."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from sibyl.cli.entry import PIPE_CLOSED, SETTINGS
from sibyl.core.task import SamplingParams

if TYPE_CHECKING:
    from sibyl.cli.terminal import Terminal
    from sibyl.client import AsyncClient, Task

F = TypeVar("F", bound=Callable[..., Any])

URL = "http://127.0.0.1:8000"


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_url = click.option("--url", default=URL, envvar="SIBYL_URL", show_default=True, show_envvar=True, help="Server.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one event a line, as JSON.")
_sampling = _options(
    click.option("--max-tokens", type=int, metavar="N", help="Most tokens of the answer."),
    click.option("--temperature", type=float, metavar="X", help="0 always takes the likeliest token."),
    click.option("--top-p", type=float, metavar="X", help="Keep the likeliest tokens up to this probability."),
    click.option("--top-k", type=int, metavar="N", help="Keep so many likeliest tokens; 0 keeps all."),
    click.option("--min-p", type=float, metavar="X", help="Drop tokens below this share of the likeliest."),
    click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given again."),
)
_watching = _options(
    _url,
    _json,
    click.option("--detach", is_flag=True, help="Print the task's id and leave; see sibyl follow."),
    click.option(
        "--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Leave after this."
    ),
)


@click.command(context_settings=SETTINGS)
@click.argument("question")
@_watching
@click.option("--system", metavar="TEXT", help="What the model is to be.")
@_sampling
@click.option("--seed", type=int, metavar="N", help="The same seed draws the same tokens.")
@click.option("--logprobs", type=int, metavar="N", help="Print a line a token: how likely it was, and N likeliest.")
@click.option("--json-schema", type=click.File(encoding="utf-8"), metavar="FILE", help="Answer in JSON of this schema.")
@click.option(
    "--grammar", type=click.File(encoding="utf-8"), metavar="FILE", help="Answer a text of this GBNF grammar."
)
@click.option("--priority", type=click.IntRange(0, 9), metavar="0-9", help="Larger runs sooner; 5 by default.")
@click.option(
    "--deadline", "deadline_s", type=click.FloatRange(1), metavar="SECONDS", help="Expire if not done by then."
)
def ask(
    question: str,
    url: str,
    as_json: bool,
    detach: bool,
    timeout_s: float | None,
    system: str | None,
    priority: int | None,
    deadline_s: float | None,
    stop: tuple[str, ...],
    json_schema: TextIO | None,
    grammar: TextIO | None,
    **sampling: Any,
) -> None:
    """Ask QUESTION and watch the answer grow; - reads it from standard input.

    The answer survives everything: a lost connection is made anew, and when you leave in another way than by Ctrl-C,
    sibyl follow shows the answer from where you left. Ctrl-C cancels the task; a second one leaves at once.

    \b
    Examples:
      sibyl ask "Should I change my job this year?"
      sibyl ask --max-tokens 50 --temperature 0 "What is luck?"
      sibyl ask - < letter.txt > answer.txt
      sibyl ask --json "What is luck?" | jq -j 'select(.type == "llm_streaming").token'
      sibyl ask --json-schema omen.json "What is luck?" | jq .
      task=$(sibyl ask --detach "What is luck?"); sibyl follow $task
    """
    text = _read_question(question)
    sampling |= {"json_schema": _read_file(json_schema), "grammar": _read_file(grammar)}
    params = SamplingParams(stop=stop, **sampling)

    async def submit(client: "AsyncClient") -> "Task":
        return await client.ask(text, system=system, sampling=params, priority=priority, deadline_s=deadline_s)

    _ask(submit, url=url, as_json=as_json, detach=detach, timeout_s=timeout_s)


@click.command(context_settings=SETTINGS)
@click.argument("question")
@_watching
@click.option("--seed", type=int, metavar="N", help="The same seed draws the same poem.")
@_sampling
def fortune(
    question: str,
    url: str,
    as_json: bool,
    detach: bool,
    timeout_s: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    **sampling: Any,
) -> None:
    """Draw a poem for QUESTION and watch its interpretation grow; - reads the question from standard input.

    With --json the first line is {"type": "fortune"} with the task's id and the poem.

    \b
    Examples:
      sibyl fortune "Will the journey go well?"
      sibyl fortune --seed 7 "Will the journey go well?"
    """
    text, params = _read_question(question), SamplingParams(stop=stop, **sampling)

    async def submit(client: "AsyncClient") -> "Task":
        return await client.fortune(text, seed=seed, sampling=params)

    _ask(submit, url=url, as_json=as_json, detach=detach, timeout_s=timeout_s)


@click.command(context_settings=SETTINGS)
@click.argument("task_id")
@click.option("--after", metavar="CURSOR", help="Begin after this event, such as 1-12; else at the beginning.")
@_url
@_json
def follow(task_id: str, after: str | None, url: str, as_json: bool) -> None:
    """Watch the answer of TASK_ID, running or finished. Leaving stops nothing, not even by Ctrl-C.

    \b
    Examples:
      sibyl follow 0.5f1c...
      sibyl follow 0.5f1c... --after 1-12 --json
    """
    from sibyl.cli.watching import follow_task

    run_in_terminal(lambda terminal: follow_task(url, task_id, terminal, after=after, as_json=as_json))


@click.command(context_settings=SETTINGS)
@click.argument("task_id")
@_url
def cancel(task_id: str, url: str) -> None:
    """Stop TASK_ID and print its state: running means that it stops in a moment. A finished task stays as it is.

    \b
    Example:
      sibyl cancel 0.5f1c...
    """
    from sibyl.cli.watching import RETRY_S
    from sibyl.client import Client

    with Client(url, retry_s=RETRY_S) as client:
        click.echo(client.cancel(task_id).state)


def _ask(
    submit: Callable[["AsyncClient"], Awaitable["Task"]],
    *,
    url: str,
    as_json: bool,
    detach: bool,
    timeout_s: float | None,
) -> None:
    from sibyl.cli.watching import Asking

    async def run(terminal: "Terminal") -> int:
        def accepted(task: "Task") -> bool:
            if detach:
                terminal.write(f"{task.task_id}\n")
            elif task.poem is not None and as_json:
                drawn = {"type": "fortune", "task_id": task.task_id, "poem": asdict(task.poem)}
                terminal.write(json.dumps(drawn, ensure_ascii=False) + "\n")
            elif task.poem is not None:
                lines = "\n".join(f"  {line}" for line in task.poem.lines)
                terminal.write(f"{task.poem.title} ({task.poem.grade})\n\n{lines}\n\n")
            return not detach

        asking = Asking(url, terminal, as_json=as_json, timeout_s=timeout_s)
        return await asking.run(submit, accepted)

    run_in_terminal(run)


def run_in_terminal(watch: Callable[["Terminal"], Awaitable[int]]) -> None:
    """Run until the end, and exit with the code."""
    from sibyl.cli.terminal import Terminal

    terminal = Terminal()

    async def run() -> int:
        return await watch(terminal)

    try:
        sys.exit(asyncio.run(run()))
    except BrokenPipeError:
        terminal.silence()
        sys.exit(PIPE_CLOSED)
    finally:
        terminal.status("")


def _read_file(file: TextIO | None) -> str | None:
    try:
        return None if file is None else file.read()
    except UnicodeError:
        raise click.UsageError(f"{file.name if file else 'The file'} is not valid UTF-8.") from None


def _read_question(question: str) -> str:
    """Return the question, from standard input when it is a dash."""
    try:
        text = sys.stdin.buffer.read().decode() if question == "-" else question
        text.encode()
    except UnicodeError:
        raise click.UsageError("The question is not valid UTF-8.") from None
    if not text.strip():
        raise click.UsageError("The question is empty.")
    return text.removesuffix("\n")
