"""Which pages a browser may let speak to us.

A browser sends a form, and opens a WebSocket, to any server from any page, without asking that server. So where such a
request could do something, its ``Origin`` has to be the page of this very server. Programs send none.
"""

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from sibyl.core.errors import SibylError

_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class ForeignOrigin(SibylError):
    """A page of another site may not do this. Send it from a page of this server, or without an Origin header."""

    status = 403


def is_foreign(headers: Headers) -> bool:
    """Whether the request comes from a page of another site than the one that it is sent to."""
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        page = urlsplit(origin)
        own = urlsplit(f"{page.scheme}://{headers.get('host', '')}")
        default = _PORTS.get(page.scheme)
        return not page.hostname or (page.hostname, page.port or default) != (own.hostname, own.port or default)
    except ValueError:  # no port is so large, no address is written so
        return True
