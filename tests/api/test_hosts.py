"""A name that somebody else points at loopback is not answered."""

import httpx
import pytest

from sibyl.api.hosts import trusted_hosts
from tests.serving import RunningApi


@pytest.mark.parametrize(
    ("listens_on", "setting", "name", "answered"),
    [
        ("127.0.0.1", None, "localhost", True),
        ("127.0.0.5", None, "127.0.0.5", True),
        ("::1", None, "::1", True),
        ("127.0.0.1", None, "evil.example", False),
        ("127.0.0.1", "sibyl.example, other.example", "sibyl.example", True),
        ("127.0.0.1", "sibyl.example", "evil.example", False),
        ("127.0.0.1", "sibyl.example", "localhost", True),
        ("127.0.0.1", "*", "evil.example", True),
        ("0.0.0.0", None, "anything.example", True),
        ("0.0.0.0", "sibyl.example", "evil.example", False),
    ],
)
def test_local_names_are_answered_on_loopback_and_others_where_they_are_named(
    listens_on: str, setting: str | None, name: str, answered: bool
) -> None:
    """Without a word, loopback answers local names and every other address answers all."""
    names = trusted_hosts(listens_on, setting)

    assert (names is None or name in names) == answered


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 421), ("127.0.0.1.evil.example:80", 421), ("LOCALHOST:9", 200), ("[::1]:8000", 200), ("", 421)],
)
def test_a_foreign_name_is_refused_before_anything_is_read(api: RunningApi, host: str, status: int) -> None:
    """Also with a port, in capitals, in brackets."""
    response = httpx.get(f"{api.url}/healthz", headers={"Host": host}, trust_env=False)

    assert response.status_code == status
    if status == 421:
        assert response.json()["error"]["code"] == "misdirected_request"
