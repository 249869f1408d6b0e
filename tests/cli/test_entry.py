"""The command tells what it can do, starts quickly, and turns every error into one line and a code."""

import importlib
import inspect

import click
import pytest

from sibyl import __version__
from sibyl.cli.entry import COMMANDS, exit_code
from sibyl.client import errors as client_errors
from sibyl.core import errors as core_errors
from sibyl.core.errors import SibylError
from tests.cli.conftest import Command


def test_the_version_is_that_of_the_package(sibyl: Command) -> None:
    """As ``sibyl --version`` and as ``python -m sibyl --version``."""
    assert sibyl("--version").stdout == f"sibyl {__version__}\n"


def test_the_overview_names_every_command_and_every_exit_code(sibyl: Command) -> None:
    """It is the first thing that anyone reads."""
    overview = sibyl("--help").stdout

    for name, (_, summary) in COMMANDS.items():
        assert name in overview and summary in overview
    assert "130  Ctrl-C" in overview


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    """What it does, its options, and a line to copy."""
    command = getattr(importlib.import_module(f"sibyl.cli.{COMMANDS[name][0]}"), name)

    with click.Context(command, info_name=name) as context:
        text = command.get_help(context)

    assert command.name == name
    assert f"sibyl {name}" in text.partition("Example")[2]


def test_asking_waits_for_no_server_and_no_model(sibyl: Command) -> None:
    """The command for asking imports neither, so that its first word comes at once."""
    process = sibyl("ask", "--help", environment={"PYTHONPROFILEIMPORTTIME": "1"})

    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in process.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"httpx", "pydantic", "fastapi", "starlette", "uvicorn", "redis", "llama_cpp", "numpy"}


@pytest.mark.parametrize(
    "arguments", [["nope"], ["ask"], ["ask", "--max-tokens", "many", "Why?"], ["serve", "--engine", "x"]]
)
def test_wrong_usage_is_told_without_a_traceback(sibyl: Command, arguments: list[str]) -> None:
    """Exit code 2, and where help is."""
    done = sibyl(*arguments)

    assert done.returncode == 2
    assert "--help" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (core_errors.ProcessError("No."), 2),
        (core_errors.ModelUnusable(), 2),
        (core_errors.StoreUnsuitable(), 2),
        (core_errors.InvalidCursor(), 2),
        (client_errors.Refused("not_found"), 2),
        (core_errors.StoreUnavailable(), 3),
        (core_errors.StoreFull(), 3),
        (core_errors.QueueFull(), 3),
        (client_errors.CannotConnect(), 3),
        (client_errors.UnexpectedReply(), 3),
        (client_errors.ServerFailed("internal_error"), 3),
        (core_errors.UnknownTask(), 1),
        (client_errors.TaskFailed("worker_lost"), 1),
    ],
)
def test_an_error_has_its_exit_code(error: SibylError, code: int) -> None:
    """2 needs a change, 3 needs patience, 1 is the task's own end."""
    assert exit_code(error) == code


def test_every_error_of_the_client_has_a_code_on_purpose() -> None:
    """A new one does not slip through under another's."""
    classes = {
        name
        for name, kind in inspect.getmembers(client_errors, inspect.isclass)
        if issubclass(kind, SibylError) and kind.__module__ == client_errors.__name__ and not name.startswith("_")
    }

    assert classes == {"CannotConnect", "UnexpectedReply", "Refused", "ServerFailed", "TaskFailed"}
