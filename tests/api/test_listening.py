"""The listening socket: what cannot be listened on is said in one line, with what to do."""

import pytest

from sibyl.api.listening import bind
from sibyl.core.errors import ProcessError


def test_a_bound_socket_can_be_handed_to_a_child() -> None:
    """Port 0 takes a free one; the descriptor survives an exec."""
    with bind("127.0.0.1", 0) as bound:
        assert bound.getsockname()[1] > 0
        assert bound.get_inheritable()


def test_a_port_in_use_is_said_with_another_to_take() -> None:
    """One line."""
    with bind("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(ProcessError, match=rf"Port {port} is in use.*--port {port + 1}$"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "not a host"])
def test_a_host_that_is_not_ours_is_said(host: str) -> None:
    """One line that names it."""
    with pytest.raises(ProcessError, match=host):
        bind(host, 0)
