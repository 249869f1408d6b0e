"""Which ``Host`` names are answered.

A server without accounts that listens on loopback trusts whoever reaches it. A web page anywhere can point a name of
its own at 127.0.0.1 and then speak to us as its own origin (DNS rebinding); its requests carry that name, so they are
refused.
"""

from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sibyl.api.errors import error_response

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def trusted_hosts(listens_on: str, setting: str | None) -> frozenset[str] | None:
    """Return the names that are answered, or None for all.

    Args:
        listens_on: the host of the settings.
        setting: names separated by commas, ``*`` for all; None: only local ones on loopback, all elsewhere.
    """
    if setting is not None:
        names = frozenset(name.strip().lower() for name in setting.split(","))
        return None if "*" in names else names | _LOCAL
    return _LOCAL | {listens_on.lower()} if _is_loopback(listens_on) else None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class TrustedHosts:
    """Middleware that answers other names with 421."""

    def __init__(self, app: ASGIApp, *, names: frozenset[str] | None) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the name, pass on or refuse."""
        if scope["type"] in ("http", "websocket") and self._names is not None:
            host = Headers(scope=scope).get("host", "localhost").lower()
            name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
            if name not in self._names:
                message = "This server does not answer to that Host name. Set SIBYL_TRUSTED_HOSTS to those it has."
                return await error_response(421, "misdirected_request", message)(scope, receive, send)
        await self._app(scope, receive, send)
