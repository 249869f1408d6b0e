"""Settings: where they come from, what they must be, and what they never show."""

import os
from pathlib import Path
from typing import Any

import pytest

from sibyl.config import Settings, child_environment, load_settings
from sibyl.core.errors import ProcessError


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a .env file, an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("SIBYL_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_every_source_outweighs_the_next(empty_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags, then the environment, then .env, then the defaults."""
    assert load_settings().port == 8000
    (empty_place / ".env").write_text("SIBYL_PORT=1\nSIBYL_HOST=file\nSIBYL_SLOTS=3\n")
    assert (load_settings().port, load_settings().host) == (1, "file")
    monkeypatch.setenv("SIBYL_PORT", "2")
    monkeypatch.setenv("sibyl_host", "environment")
    assert (load_settings().port, load_settings().host) == (2, "environment")
    found = load_settings(port=3, host=None)
    assert (found.port, found.host, found.slots) == (3, "environment", 3)


def test_every_setting_is_described_and_has_its_unit(empty_place: Path) -> None:
    """What a person reads in the help; times and sizes say what they count."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if isinstance(field.default, float):
            assert name.endswith(("_s", "_ms")), name


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"port": "x"}, "port: "),
    ({"port": 65_536}, "port: "),
    ({"port": -1}, "port: "),
    ({"slots": 0}, "slots: "),
    ({"slots": 257}, "slots: "),
    ({"threads": 0}, "threads: "),
    ({"engine": "magic"}, "engine: .*'llama', 'openai' or 'scripted'"),
    ({"durability": "never"}, "durability: "),
    ({"durability": "ha"}, "settings: durability ha needs a Redis with a replica"),
    ({"shards": 65}, "shards: "),
    ({"gpu_layers": -2}, "gpu_layers: "),
    ({"lease_s": 0}, "lease_s: "),
    ({"heartbeat_s": 2, "lease_s": 5}, "settings: heartbeat_s must be at most a third of lease_s"),
    ({"engine": "openai"}, "settings: .*--upstream URL"),
    ({"log_level": "loud"}, "log_level: "),
    ({"log_format": "xml"}, "log_format: "),
    ({"body_bytes": "many"}, "body_bytes: "),
    ({"followers": 0}, "followers: "),
    ({"send_timeout_s": -1}, "send_timeout_s: "),
    ({"keep_alive_s": 0}, "keep_alive_s: "),
    ({"retention_s": "nan"}, "retention_s: "),
    ({"retention_s": 0}, "retention_s: "),
    ({"deadline_s": "inf"}, "deadline_s: "),
    ({"drain_s": "inf"}, "drain_s: "),
]


@pytest.mark.parametrize(("flags", "message"), WRONG, ids=[",".join(flags) for flags, _ in WRONG])
def test_a_wrong_value_is_said_in_one_line(flags: dict[str, Any], message: str) -> None:
    """It names the setting and what it must be; nothing of a library's own words about where to read more."""
    with pytest.raises(ProcessError, match=f"^Wrong settings: {message}") as raised:
        load_settings(**flags)

    assert "\n" not in raised.value.message
    assert "pydantic" not in raised.value.message and "http" not in raised.value.message.removesuffix("URL")


def test_shares_of_gpus_are_numbers_by_commas() -> None:
    """None at all leaves it to llama.cpp."""
    assert load_settings().gpu_shares == ()
    assert load_settings(tensor_split="3,1.5,0").gpu_shares == (3, 1.5, 0)
    for wrong in ("3,", "a", "-1", "1;2", "0,0", "1e3", "3, 1"):
        with pytest.raises(ProcessError, match="tensor_split"):
            load_settings(tensor_split=wrong)


def test_a_wrong_value_of_the_environment_is_said_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that are wrong at once."""
    monkeypatch.setenv("SIBYL_PORT", "x")
    monkeypatch.setenv("SIBYL_SLOTS", "0")

    with pytest.raises(ProcessError, match=r"port: .*; slots: "):
        load_settings()


def test_an_empty_value_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of .env.example with nothing after the equals sign changes nothing, nor does an empty flag."""
    monkeypatch.setenv("SIBYL_THREADS", "")
    monkeypatch.setenv("SIBYL_PORT", "")

    assert load_settings(redis_url="") == Settings(_env_file=None)


def test_an_env_file_that_is_no_text_is_said_in_one_line(empty_place: Path) -> None:
    """It names the file."""
    (empty_place / ".env").write_bytes(b"SIBYL_PORT=\xff\xfe")

    with pytest.raises(ProcessError, match=r"\.env is not UTF-8"):
        load_settings()


def test_a_wrong_secret_is_not_shown() -> None:
    """A message must not quote what it refuses."""
    with pytest.raises(ProcessError) as raised:
        load_settings(upstream_api_key=["hunter2"], redis_url=["redis://:hunter2@x"])

    assert "hunter2" not in raised.value.message


def test_an_unknown_variable_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program's, or a later version's."""
    monkeypatch.setenv("SIBYL_LATER", "x")

    assert load_settings().port == 8000


def test_secrets_are_masked() -> None:
    """Whoever prints the settings prints no password."""
    settings = load_settings(redis_url="redis://:hunter2@x", upstream_api_key="hunter2")

    assert "hunter2" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.redis_url is not None and settings.redis_url.get_secret_value() == "redis://:hunter2@x"


def test_settings_do_not_change() -> None:
    """Read once, at the edge of the process."""
    with pytest.raises(ValueError, match="frozen"):
        setattr(load_settings(), "port", 1)  # noqa: B010 - mypy knows that it cannot be set


def test_a_child_finds_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of them came from a flag, secrets too; the rest of its environment is the parent's."""
    monkeypatch.setenv("SIBYL_SLOTS", "9")
    monkeypatch.setenv("OTHER", "kept")
    settings = load_settings(
        **{"port": 1, "slots": 4, "redis_url": "redis://:hunter2@x", "data_dir": "/some/where", "log_format": "json"},
        **{"deadline_s": 1.5, "upstream_api_key": "k", "threads": 3, "model": "m.gguf"},
    )

    environment = child_environment(settings)
    for name in [name for name in os.environ if name.startswith("SIBYL_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert load_settings() == settings
    assert environment["OTHER"] == "kept"
