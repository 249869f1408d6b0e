"""The command ``sibyl``: which commands there are, and what an error looks like: one line, and an exit code.

A command's module is imported when it is called, so that ``sibyl ask`` does not wait for FastAPI or llama.cpp.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NoReturn

import click

from sibyl import __version__
from sibyl.core import errors
from sibyl.core.errors import SibylError

COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": ("processes", "Serve everything: API, worker, embedded Redis."),
    "api": ("processes", "Serve the API alone; needs --redis-url."),
    "worker": ("processes", "Run one worker; needs --redis-url."),
    "ask": ("asking", "Ask a question and watch the answer grow."),
    "fortune": ("asking", "Draw a poem for a question and have it interpreted."),
    "follow": ("asking", "Watch the answer of a task, from any place in it."),
    "cancel": ("asking", "Stop a task."),
    "listen": ("listening", "Write what is said in a file or a stream, or ask it."),
    "dead": ("dead", "List, retry or drop tasks that used up their tries."),
    "config": ("processes", "Print the settings in force, secrets masked."),
    "doctor": ("doctor", "Say whether Sibyl can serve here, and what is missing."),
}

SETTINGS = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}

FAILED, USAGE, AWAY, TIMED_OUT, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 4, 130, 141

_USAGE = (
    errors.ProcessError,
    errors.InvalidRequest,
    errors.ModelUnusable,
    errors.StoreUnsuitable,
    errors.RecogniserUnavailable,
    errors.VendorRefused,
)
_AWAY = (errors.StoreUnavailable, errors.QueueFull, errors.TooManyTasks, errors.RecogniserBusy)
_CODES: Mapping[str, int] = {  # of sibyl.client.errors, which is not imported for this
    "Refused": USAGE,
    "CannotConnect": AWAY,
    "UnexpectedReply": AWAY,
    "ServerFailed": AWAY,
}


class _Commands(click.Group):
    """The commands, each imported when it is wanted; the overview imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"sibyl.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.command(cls=_Commands, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="sibyl", message="%(prog)s %(version)s")
def sibyl() -> None:
    """Ask a language model questions through a queue that loses nothing.

    \b
    Examples:
      sibyl serve                                    start everything on this machine
      sibyl ask "Should I change my job this year?"  watch the answer grow
      sibyl listen --ask question.wav                the same by voice
      sibyl doctor                                   see what is missing

    \b
    Exit codes:
      0    done
      1    the task failed, was cancelled, expired, or does not exist
      2    wrong usage, settings, model or request
      3    the server or Redis is out of reach, or too busy
      4    --timeout ran out; the task goes on
      130  Ctrl-C
    """


def exit_code(error: SibylError) -> int:
    """Return the exit code for an error."""
    if isinstance(error, _USAGE):
        return USAGE
    if isinstance(error, _AWAY):
        return AWAY
    return _CODES.get(type(error).__name__, FAILED)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command in ``arguments``, by default those of this process, and exit."""
    try:
        result = sibyl.main(args=arguments, prog_name="sibyl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except SibylError as error:
        from sibyl.cli.terminal import one_line

        click.echo(f"sibyl: {one_line(error.message)}", err=True)
        sys.exit(exit_code(error))
    sys.exit(result if isinstance(result, int) else 0)
