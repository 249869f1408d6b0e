"""The listening socket, bound before anything else is started, so that a port in use is known at once."""

import errno
import socket

from sibyl.core.errors import ProcessError

SEND_BUFFER_BYTES = 64 * 1024
"""Of each connection, which takes it from the listening socket. Left to itself Linux lets it grow to 4 MiB, so readers
that take nothing would cost that much each; an answer needs kilobytes a second."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address.

    Raises:
        ProcessError: the port is in use, not allowed, or the host is not ours.
    """
    bound = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        match error.errno:
            case errno.EADDRINUSE:
                why = f"Port {port} is in use. Stop what listens there, or take another one: --port {port + 1}"
            case errno.EACCES:
                why = f"Port {port} needs more rights. Take one above 1023: --port 8000"
            case _:
                why = f"Cannot listen on {host}:{port}: {error.strerror or error}"
        raise ProcessError(why) from None
    bound.set_inheritable(True)
    return bound
