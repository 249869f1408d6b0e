"""What the network's errors mean, in one sentence for people."""

import httpx
import pytest

from sibyl.client.transport import Server
from sibyl.core.errors import InvalidRequest


def caused(error: httpx.RequestError, *causes: BaseException) -> httpx.RequestError:
    """The error with what is below it."""
    above: BaseException = error
    for cause in causes:
        above.__cause__ = cause
        above = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx.ConnectTimeout(""), "nobody answered within 5 s"),
        (httpx.ReadTimeout(""), "it fell silent"),
        (httpx.RemoteProtocolError("peer closed"), "the connection broke"),
        (caused(httpx.ConnectError("x"), OSError("y"), ConnectionRefusedError(111, "Refused")), "Refused"),
        (caused(httpx.ConnectError("x"), ExceptionGroup("", [ConnectionRefusedError(111, "Refused")])), "Refused"),
        (httpx.ConnectError("Some words."), "Some words"),
        (httpx.DecodingError(""), "DecodingError"),
    ],
)
def test_a_failure_says_where_and_why(error: httpx.RequestError, reason: str) -> None:
    """The address without its password, the reason without a library's name for it."""
    found = Server.parse("http://someone:secret@127.0.0.1:8000/sibyl").cannot_connect(error)

    assert found.message == (f"No connection to http://127.0.0.1:8000/sibyl: {reason}. Does `sibyl serve` run there?")


@pytest.mark.parametrize(
    ("url", "trusted"), [("http://127.0.0.1:1", False), ("http://[::1]:1", False), ("https://a.test", True)]
)
def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(url: str, trusted: bool) -> None:
    """It would look for the server on another one."""
    assert Server.parse(url).options["trust_env"] is trusted


def test_certificates_are_checked_where_there_is_tls() -> None:
    """And are not even read where there is none."""
    assert Server.parse("https://a.test").options["verify"] is True


def test_an_address_without_a_scheme_is_refused() -> None:
    """With an example of a good one."""
    with pytest.raises(InvalidRequest, match=r"http://127\.0\.0\.1:8000"):
        Server.parse("localhost:8000")
