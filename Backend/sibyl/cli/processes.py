"""The commands that run Sibyl's processes, and the one that prints what they would run with."""

import os
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

import click

from sibyl.cli.entry import SETTINGS
from sibyl.config import Settings, load_settings

F = TypeVar("F", bound=Callable[..., Any])

FLAGS: Mapping[str, tuple[str, str]] = {  # flag: setting, what to write there
    "--host": ("host", "ADDRESS"),
    "--port": ("port", "N"),
    "--data-dir": ("data_dir", "FOLDER"),
    "--redis-url": ("redis_url", "URL"),
    "--engine": ("engine", ""),
    "--model": ("model", "FILE"),
    "--workers": ("workers", "N"),
    "--slots": ("slots", "N"),
    "--threads": ("threads", "N"),
    "--context-tokens": ("context_tokens", "N"),
    "--gpu-layers": ("gpu_layers", "N"),
    "--upstream": ("upstream_url", "URL"),
    "--upstream-model": ("upstream_model", "NAME"),
    "--speech-provider": ("speech_provider", ""),
    "--whisper-model": ("whisper_model", "MODEL"),
    "--log-level": ("log_level", ""),
    "--log-format": ("log_format", ""),
}


def settings_flags(command: F) -> F:
    """Give a command the flags of the settings that everyone uses. Their values are checked with the other settings."""
    for flag, (name, metavar) in reversed(tuple(FLAGS.items())):
        setting = Settings.model_fields[name]
        choices = [choice for choice in get_args(setting.annotation) if isinstance(choice, str)]
        default = setting.get_default(call_default_factory=True, validated_data={})
        shown = "" if default is None else f" [default: {default}]"
        option = click.option(
            flag,
            name,
            type=click.Choice(choices) if choices else str,
            metavar=metavar or None,
            help=f"{setting.description}{shown}",
        )
        command = option(command)
    return command


@click.command(context_settings=SETTINGS)
@settings_flags
def serve(**flags: Any) -> None:
    """Serve everything on this machine: the API with its page, workers, and an embedded Redis unless --redis-url
    names another one. Ends on Ctrl-C; what was accepted is still there at the next start.

    Every setting, also those without a flag, can be given as SIBYL_NAME in the environment or in a file .env; see
    sibyl config. Flags show in the list of processes, so a URL with a password belongs into SIBYL_REDIS_URL.

    \b
    Examples:
      sibyl serve
      sibyl serve --port 9000 --model ~/models/some.gguf --slots 4
      sibyl serve --workers 2
      sibyl serve --engine openai --upstream http://127.0.0.1:8080/v1
    """
    from sibyl.supervisor.main import run

    run(load_settings(**flags))


@click.command(context_settings=SETTINGS)
@settings_flags
@click.option("--fd", type=int, hidden=True, help="A listening socket that the supervisor bound.")
def api(fd: int | None, **flags: Any) -> None:
    """Serve the API alone, beside others and beside workers that share its Redis.

    \b
    Example:
      sibyl api --host 0.0.0.0 --redis-url redis://queue:6379/0
    """
    from sibyl.api.main import run

    run(load_settings(**flags), fd=fd)


@click.command(context_settings=SETTINGS)
@settings_flags
@click.option(
    "--name",
    metavar="NAME",
    help="Unique among live workers; one started again under its name takes over at once. [default: drawn]",
)
def worker(name: str | None, **flags: Any) -> None:
    """Run one worker: it takes questions from the queue in Redis and generates their answers.

    \b
    Example:
      sibyl worker --redis-url redis://queue:6379/0 --model ~/models/some.gguf --gpu-layers -1
    """
    from sibyl.worker.main import run

    run(load_settings(**flags), name=name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}")


@click.command(context_settings=SETTINGS)
@settings_flags
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def config(as_json: bool, **flags: Any) -> None:
    """Print every setting: its value in force, where that comes from, and what it means. Secrets are masked.

    \b
    Examples:
      sibyl config
      SIBYL_PORT=9000 sibyl config --json
    """
    settings = load_settings(**flags)
    values = {name: masked(name, value) for name, value in settings}
    if as_json:
        import json

        click.echo(json.dumps(values, indent=2, ensure_ascii=False))
        return
    click.echo("# Strongest first: flags, SIBYL_* in the environment, .env in this folder, defaults.")
    width = max(len(f"SIBYL_{name}={value}") for name, value in values.items())
    for name, value in values.items():
        given = flags.get(name) is not None
        source = "flag" if given else "environment or .env" if name in settings.model_fields_set else "default"
        line = f"# SIBYL_{name.upper()}=" if value is None else f"SIBYL_{name.upper()}={value}"
        click.echo(f"{line:<{min(width, 60)}}  # {source}; {Settings.model_fields[name].description}")


def masked(name: str, value: object) -> str | int | float | None:
    """Return a setting's value as it may be shown: no key, and of a URL neither user nor password nor query."""
    if value is None or isinstance(value, int | float):
        return value
    secret = getattr(value, "get_secret_value", None)
    text = str(value) if secret is None else str(secret())
    if not name.endswith("_url"):
        return text if secret is None else "***"
    scheme, found, rest = text.partition("://")
    login, at, place = rest.rpartition("@")
    if not found or not place or any(mark in login for mark in "/?#") or (not at and place.startswith(":")):
        return "***"  # a password with such a mark, or no URL after all: who knows what stands where
    shown, question, _ = place.partition("?")
    return f"{scheme}://{'***@' if at else ''}{shown.partition('#')[0]}{'?***' if question else ''}"
