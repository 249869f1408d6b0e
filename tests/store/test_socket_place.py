"""Where sockets are put."""

import os
import tempfile
from pathlib import Path

import pytest

from sibyl.store.socket_place import SOCKET_PATH_BYTES, SocketPlace


def test_a_short_directory_is_used_as_it_is(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The sockets lie beside the data, and only they are removed."""
    directory = Path(tempfile.mkdtemp(prefix="s"))
    try:
        place = SocketPlace.choose(directory)
        assert place == SocketPlace(directory=directory, temporary=False)
        place.starting.touch()
        place.remove()
        place.remove()
        assert list(directory.iterdir()) == []
    finally:
        directory.rmdir()


@pytest.mark.parametrize("name", ["x" * SOCKET_PATH_BYTES, os.fsdecode(b"\xff")])
def test_a_name_that_a_socket_or_url_cannot_have_gets_a_private_directory(tmp_path: Path, name: str) -> None:
    """The new directory is short, for this user alone, and goes with the sockets."""
    place = SocketPlace.choose(tmp_path / name)
    assert place.temporary
    assert len(os.fsencode(place.starting)) <= SOCKET_PATH_BYTES
    assert place.directory.stat().st_mode & 0o777 == 0o700
    place.serving.touch()
    place.remove()
    assert not place.directory.exists()


def test_a_long_temporary_directory_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where TMPDIR is too long as well, /tmp serves, and nothing is left in TMPDIR."""
    long = tmp_path / ("x" * SOCKET_PATH_BYTES)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    place = SocketPlace.choose(long)
    assert len(os.fsencode(place.starting)) <= SOCKET_PATH_BYTES
    assert list(long.iterdir()) == []
    place.remove()


def test_a_strangers_file_is_never_removed(tmp_path: Path) -> None:
    """Only the two sockets are taken away."""
    (tmp_path / "mine").touch()
    SocketPlace(directory=tmp_path, temporary=True).remove()
    assert (tmp_path / "mine").exists()


def test_the_url_escapes_what_a_url_cannot_hold() -> None:
    """Spaces and question marks in a path do not end it."""
    place = SocketPlace(directory=Path("/a b?c"), temporary=False)
    assert place.url() == "unix:///a%20b%3Fc/redis.sock"
    assert place.url("u:p@") == "unix://u:p@/a%20b%3Fc/redis.sock"
