"""The listening socket: what cannot be listened on is said in one line, with what to do."""

import socket

import pytest

from sibyl.api.listening import SEND_BUFFER_BYTES, bind
from sibyl.core.errors import ProcessError


def test_a_bound_socket_can_be_handed_to_a_child() -> None:
    """Port 0 takes a free one; the descriptor survives an exec."""
    with bind("127.0.0.1", 0) as bound:
        assert bound.getsockname()[1] > 0
        assert bound.get_inheritable()


def test_a_connection_that_nobody_reads_holds_a_bounded_amount() -> None:
    """Its send buffer does not grow; the system may count it twice and fill the reader's buffer as well."""
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(bound.getsockname())
            connection, _ = bound.accept()
            with connection:
                connection.setblocking(False)
                taken = 0
                with pytest.raises(BlockingIOError):
                    while taken < 64 * SEND_BUFFER_BYTES:
                        taken += connection.send(bytes(16 * 1024))

    assert taken <= 4 * SEND_BUFFER_BYTES


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
