"""What is written beside the code (compose file, image, lock, example settings, make) agrees with the code.

No container engine is asked: each thing that one of these files names is looked up where it is defined, and the Redis
of the compose file is started with the compose file's own flags.
"""

import asyncio
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sibyl.config import Settings
from sibyl.store.redis_binary import find_redis_binary

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
SETTINGS = {f"SIBYL_{name.upper()}" for name in Settings.model_fields}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Backend/Dockerfile").read_text()


def example_settings() -> str:
    """What .env.example must say, rendered from the settings."""
    entries = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if default is None else str(default).replace(str(Path.home()), "/home/you")
        entries.append(f"# {field.description}\n#SIBYL_{name.upper()}={shown}\n")
    return "\n".join(entries)


def lock_pins(path: Path) -> list[Requirement]:
    """The requirements of a lock file, without their hashes."""
    text = path.read_text().replace("\\\n", " ")
    return [Requirement(line.split("--hash")[0]) for line in text.splitlines() if line.strip()]


def test_the_example_lists_every_setting_with_its_default_and_meaning() -> None:
    """Copying .env.example shows what may be set, and changes nothing."""
    text = (ROOT / ".env.example").read_text()

    entries = text.split("\n\n", 1)[1]

    assert example_settings() == entries


def test_compose_runs_two_api_nodes_behind_a_proxy_and_three_workers_on_one_redis() -> None:
    """The parts are there in their numbers, and the two of ours are one image."""
    assert {"proxy", "redis", "api", "worker"} == SERVICES.keys()
    replicas = {name: service["deploy"]["replicas"] for name, service in SERVICES.items() if "deploy" in service}
    assert replicas == {"api": 2, "worker": 3}
    assert SERVICES["api"]["build"] == SERVICES["worker"]["build"]
    assert (ROOT / SERVICES["api"]["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("service", ["api", "worker"])
def test_compose_sets_only_settings_that_exist(service: str) -> None:
    """A misspelt setting would be ignored in silence, in production."""
    environment = SERVICES[service]["environment"]

    assert environment.keys() <= SETTINGS
    given = {name.removeprefix("SIBYL_").lower(): value for name, value in environment.items() if value}
    Settings(_env_file=None, **given)


@pytest.mark.parametrize("command", [["serve"], SERVICES["api"]["command"], SERVICES["worker"]["command"]])
def test_the_commands_of_image_and_compose_exist(command: list[str]) -> None:
    """Image and compose file start what the command line knows."""
    result = subprocess.run([sys.executable, "-m", "sibyl", *command, "--help"], capture_output=True, text=True)

    assert result.returncode == 0, result.stderr


def test_compose_publishes_one_port_on_the_loopback_only() -> None:
    """Nobody outside the machine reaches anything until its owner says so; Redis is reached by nobody."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert {"proxy": ["127.0.0.1:${SIBYL_PORT:-8000}:8000"]} == published


def test_compose_waits_for_redis_and_gives_answers_time_to_end() -> None:
    """Start and stop are ordered: no part runs before its Redis, none is killed while it drains."""
    for name in ("api", "worker"):
        assert SERVICES[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > Settings.model_fields["drain_s"].default
    named = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert named == COMPOSE["volumes"].keys()


def test_the_redis_of_compose_keeps_what_was_accepted(tmp_path: Path) -> None:
    """A real server started with these flags logs every write and drops nothing."""
    binary = asyncio.run(find_redis_binary())
    flags = SERVICES["redis"]["command"][1:]
    socket = tmp_path / "redis.sock"
    server = subprocess.Popen(
        [binary.path, *flags, "--port", "0", "--unixsocket", socket, "--dir", tmp_path],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert any("accept connections" in line for line in server.stdout)  # ends also when the server does
        with redis.Redis(unix_socket_path=str(socket), decode_responses=True) as client:
            told = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "save")
    finally:
        server.terminate()
        server.communicate()

    assert told == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}


def test_the_image_runs_without_root_and_says_how_it_is() -> None:
    """The last stage drops root, has a health check on a path that exists, and starts the whole by default."""
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]

    assert re.search(r"^USER sibyl$", last, re.M)
    assert "http://127.0.0.1:8000/healthz" in last
    assert re.search(r'^ENTRYPOINT \["sibyl"\]\nCMD \["serve"\]$', last, re.M)
    assert set(re.findall(r"SIBYL_[A-Z_]+", DOCKERFILE)) <= SETTINGS


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    """A folder that was renamed, or that .dockerignore hides, breaks the build on somebody else's machine."""
    shown = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M) for source in line.split()[:-1]]

    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(f"{source}/".startswith(f"{path}/") or path.startswith(f"{source}/") for path in shown), source


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_by_hash_and_names_no_address(lock: Path) -> None:
    """The same files are installed everywhere, whatever registry they come from."""
    text = lock.read_text()

    assert not re.search(r"://|file:|^-|@ ", text, re.M)
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_a_lock_satisfies_the_project(name: str) -> None:
    """pyproject.toml was not changed without `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["hub"]]
    if name == "dev.txt":
        wanted += [*project["dependency-groups"]["dev"], *project["dependency-groups"]["build"]]
    environment = {key: str(value) for key, value in default_environment().items()}
    pins = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in lock_pins(ROOT / "requirements" / name)
        if applies(pin.marker, environment)
    }

    for requirement in map(Requirement, wanted):
        if applies(requirement.marker, environment):
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def applies(marker: Marker | None, environment: dict[str, str]) -> bool:
    """Whether a requirement counts on this machine."""
    return marker is None or marker.evaluate(environment)


def test_make_lists_every_target_and_ci_is_one_of_them() -> None:
    """`make` alone says what there is, and CI runs what a contributor runs."""
    make = shutil.which("make")
    assert make, "make is needed to run these tests"
    listed = subprocess.run([make, "-C", ROOT, "--no-print-directory"], capture_output=True, text=True, check=True)

    documented = re.findall(r"^  make (\S+) ", listed.stdout, re.M)

    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert phony and sorted(phony[1].split()) == sorted(documented)
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("exec make ci")
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_the_wheel_carries_what_the_code_reads(tmp_path: Path) -> None:
    """Scripts, poems, models and the built page are in the wheel, not only in the checkout."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())

    source = ROOT / "Backend"
    read = [
        path.relative_to(source).as_posix()
        for path in (source / "sibyl").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert any(name.endswith(".lua") for name in read)
    assert any(name.endswith(".gguf") for name in read)
    assert set(read) <= inside
    assert any(name.endswith("/licenses/LICENSE") for name in inside)
