"""The configuration as text, and what is read in the logs of several versions."""

import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.store.redis_binary import RedisBinary
from sibyl.store.redis_settings import redis_configuration, start_failure, torn_tail

BINARY = RedisBinary(path=Path("/opt/a server"), version=(7, 0, 15))


def configuration(directory: Path) -> str:
    """A configuration for this directory."""
    return redis_configuration(
        directory=directory, socket=directory / "s", fsync="always", password="hush", settings={"maxmemory": "1mb"}
    )


@given(name=st.binary(min_size=1).filter(lambda name: not set(name) & set(b"\0/")).map(os.fsdecode))
def test_no_directory_name_can_add_a_directive(name: str) -> None:
    """Whatever a path contains, it stays one quoted word of printable ASCII on one line."""
    plain = configuration(Path("/x")).splitlines()
    odd = configuration(Path("/x") / name).splitlines()
    assert [line.split(" ")[0] for line in odd] == [line.split(" ")[0] for line in plain]
    assert all(line.isascii() and line.isprintable() for line in odd)
    assert all(line.count('"') in (0, 2) for line in odd)


def test_the_app_user_is_listed_before_any_client_can_come() -> None:
    """Both users are in the file itself: there is no moment without them."""
    users = [line for line in configuration(Path("/x")).splitlines() if line.startswith("user ")]
    assert [line.split()[1] for line in users] == ["default", "sibyl-supervisor"]
    assert "-@admin" in users[0]
    assert "hush" not in users[0]


@pytest.mark.parametrize(
    "line",
    [
        "9:M 21 Nov 2026 06:28:26.742 # !!! Truncating the AOF at offset 439 !!!",
        "9:M 21 Nov 2026 06:28:26.742 # !!! Truncating the AOF appendonly.aof.1.incr.aof at offset 439 !!!",
    ],
)
def test_a_cut_end_is_seen_in_the_words_of_each_version(line: str) -> None:
    """The wording of 6.2 and that of 7.0 and newer."""
    torn = torn_tail(f"9:M # Server initialized\n{line}\n9:M # AOF loaded anyway\n")
    assert torn is not None
    assert torn.startswith("Truncating the AOF")
    assert torn.endswith("at offset 439")


def test_a_whole_file_is_not_called_torn() -> None:
    """Ordinary lines about the file are no alarm."""
    assert (
        torn_tail("9:M * DB loaded from append only file: 0.002 seconds\n9:M * Opening AOF incr file a.aof\n") is None
    )


def failure(log: str) -> str:
    """What is said after this log."""
    return start_failure(log, status=1, directory=Path("/d d/redis"), log_path=Path("/l"), binary=BINARY)


def test_a_failure_quotes_the_last_error_and_no_warning_about_the_machine() -> None:
    """The reason is the server's own sentence, without its prefix."""
    said = failure(
        "9:C 21 Nov 2026 06:28:26.742 # Configuration loaded\n"
        "9:M 21 Nov 2026 06:28:26.742 # Can't handle RDB format version 80\n"
        "9:M 21 Nov 2026 06:28:26.742 # WARNING Memory overcommit must be enabled!\n"
        "9:M 21 Nov 2026 06:28:26.742 * bye\n"
    )
    assert (
        said == "/opt/a server ended with status 1 while starting: Can't handle RDB format version 80. Its log is /l."
    )


def test_a_silent_failure_is_still_a_sentence() -> None:
    """An empty log is told as such."""
    assert "it said nothing" in failure("")


@pytest.mark.parametrize(
    ("line", "file", "checked"),
    [
        (
            "Bad file format reading the append only file: make a backup of your AOF file, then use "
            "./redis-check-aof --fix <filename>",
            "/d d/redis/appendonly.aof",
            "/d d/redis/appendonly.aof",
        ),
        (
            "Bad file format reading the append only file appendonly.aof.2.incr.aof: make a backup of your AOF file, "
            "then use ./redis-check-aof --fix <filename.manifest>",
            "/d d/redis/appendonlydir/appendonly.aof.2.incr.aof",
            "/d d/redis/appendonlydir/appendonly.aof.manifest",
        ),
        (
            "Unknown command 'SXT' reading the append only file",
            "/d d/redis/appendonly.aof",
            "/d d/redis/appendonly.aof",
        ),
    ],
)
def test_damage_is_named_with_a_command_that_a_shell_understands(line: str, file: str, checked: str) -> None:
    """The damaged file, and a command whose words survive a path with spaces."""
    said = failure(f"9:M 21 Nov 2026 06:28:26.742 # {line}\n")
    assert said.startswith(f"{file} is damaged")
    words = shlex.split(said[said.index("bash -c") :])
    assert words[3:] == ["/opt/a server", "--fix", checked]
