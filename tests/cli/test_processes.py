"""The processes take their settings from one place, and say in one line why they cannot start."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from sibyl.cli.processes import FLAGS, masked
from sibyl.config import Settings
from tests.cli.conftest import Command


def test_every_flag_is_a_setting() -> None:
    """The same name that the environment has, but for the short one of the upstream server."""
    for flag, (name, _) in FLAGS.items():
        assert name in Settings.model_fields
        assert flag == "--upstream" or flag == f"--{name.replace('_', '-')}"


def test_config_shows_every_setting_with_its_source(sibyl: Command) -> None:
    """Flag, environment, file or default."""
    (sibyl.folder / ".env").write_text("SIBYL_SLOTS=3\n")

    done = sibyl("config", "--port", "9000", environment={"SIBYL_HOST": "127.0.0.2"})

    assert done.returncode == 0 and done.stderr == ""
    for name in Settings.model_fields:
        assert f"SIBYL_{name.upper()}=" in done.stdout
    assert re.search(r"SIBYL_PORT=9000 +# flag; port", done.stdout)
    assert re.search(r"SIBYL_HOST=127\.0\.0\.2 +# environment or \.env; ", done.stdout)
    assert re.search(r"SIBYL_SLOTS=3 +# environment or \.env; ", done.stdout)
    assert re.search(r"# SIBYL_MODEL= +# default; ", done.stdout)


def test_config_shows_no_secret(sibyl: Command) -> None:
    """Neither a key nor what stands in a URL."""
    secrets = {
        "SIBYL_REDIS_URL": "rediss://me:hush1@queue:6379/0?password=hush2",
        "SIBYL_UPSTREAM_API_KEY": "hush3",
        "SIBYL_UPSTREAM_URL": "http://hush4@gpu:8080/v1",
    }
    done, as_json = sibyl("config", environment=secrets), sibyl("config", "--json", environment=secrets)

    assert "hush" not in done.stdout + as_json.stdout
    assert "rediss://***@queue:6379/0?***" in done.stdout
    values = json.loads(as_json.stdout)
    assert values["upstream_url"] == "http://***@gpu:8080/v1"
    assert (values["upstream_api_key"], values["port"], values["model"]) == ("***", 8000, None)


@given(
    st.text(min_size=6),
    st.sampled_from(["redis://u:{}@h/0", "redis://{}@h", "{}", "u:{}@h:1", "redis://h?password={}"]),
)
def test_a_password_in_a_url_is_never_shown(secret: str, form: str) -> None:
    """Wherever it stands, and also when it breaks the URL."""
    secret = f"#/@[{secret}"

    assert secret not in str(masked("redis_url", SecretStr(form.format(secret))))


@pytest.mark.parametrize("mark", "/#?@:")
def test_no_half_of_a_password_is_shown_either(mark: str) -> None:
    """One that should have been encoded splits the URL in the wrong place."""
    shown = str(masked("redis_url", SecretStr(f"redis://:sek{mark}ret@h:1/0?x=1")))

    assert "sek" not in shown and "ret" not in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--port", "many"], "port"),
        (["config", "--slots", "0"], "slots"),
        (["serve", "--engine", "openai"], "--upstream URL"),
        (["api"], "--redis-url"),
        (["worker"], "--redis-url"),
        (["worker", "--redis-url", "unix:///nowhere", "--model", "/no/such.gguf"], "/no/such.gguf"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(sibyl: Command, arguments: list[str], said: str) -> None:
    """Exit code 2: starting it again would be futile, and a supervisor knows."""
    done = sibyl(*arguments)

    assert done.returncode == 2
    assert re.fullmatch(r"sibyl: .+\n", done.stderr.splitlines(keepends=True)[-1])
    assert said in done.stderr and "Traceback" not in done.stderr
