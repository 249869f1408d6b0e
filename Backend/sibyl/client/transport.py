"""How httpx is set up for us, and what its errors mean: the one door of foreign errors."""

import ssl
from dataclasses import dataclass
from typing import TypedDict
from urllib.parse import urlsplit

import httpx

from sibyl import __version__
from sibyl.client.errors import CannotConnect
from sibyl.core.errors import InvalidRequest

CONNECT_S = 5.0
REPLY_S = 30.0
SILENCE_S = 40.0  # keep-alives come each 15 s: two are lost

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class _Options(TypedDict):
    base_url: httpx.URL
    headers: dict[str, str]
    timeout: httpx.Timeout
    limits: httpx.Limits
    trust_env: bool
    verify: ssl.SSLContext | bool


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is."""

    url: httpx.URL

    @classmethod
    def parse(cls, url: str) -> "Server":
        """Return the server at an http:// or https:// URL.

        Raises:
            InvalidRequest: it is no such URL.
        """
        try:
            parsed, split = httpx.URL(url), urlsplit(url)  # httpx takes any number for a port
            usable = split.scheme in ("http", "https") and bool(split.hostname) and split.port != 0
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidRequest(f"The server's URL cannot be used: {error}.") from None
        if not usable:
            raise InvalidRequest("The server's URL has to look like http://127.0.0.1:8000.")
        return cls(parsed)

    @property
    def options(self) -> _Options:
        """What both httpx clients are made with."""
        return {
            "base_url": self.url,
            "headers": {"User-Agent": f"sibyl/{__version__}"},
            "timeout": httpx.Timeout(REPLY_S, connect=CONNECT_S),
            # Each followed task holds a connection: a bound here would let the next one wait without a word.
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=8),
            # A proxy of the environment leads away from this machine.
            "trust_env": self.url.host not in _LOOPBACK,
            # Reading the certificates of all authorities takes 20 ms; without TLS nobody needs them.
            "verify": True if self.url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        }

    def cannot_connect(self, error: httpx.RequestError) -> CannotConnect:
        """Return what a failure of httpx means, with the address and without its password."""
        place = self.url.copy_with(username=None, password=None)
        return CannotConnect(f"No connection to {place}: {_reason(error)}. Does `sibyl serve` run there?")


def stream_timeout(silence_s: float) -> httpx.Timeout:
    """Return the limits of an event stream; ``silence_s`` without a byte is a cut."""
    return httpx.Timeout(REPLY_S, connect=CONNECT_S, read=silence_s)


def _reason(error: httpx.RequestError) -> str:
    match error:
        case httpx.ConnectTimeout():
            return f"nobody answered within {CONNECT_S:g} s"
        case httpx.ReadTimeout():
            return "it fell silent"
        case httpx.WriteTimeout():
            return "it took nothing"
        case httpx.ReadError() | httpx.WriteError() | httpx.CloseError() | httpx.RemoteProtocolError():
            return "the connection broke"
        case _:
            return _system_reason(error) or str(error).rstrip(".") or type(error).__name__


def _system_reason(error: BaseException) -> str:
    """Return the operating system's word for it, "Connection refused", from below the layers of libraries."""
    cause: BaseException | None = error
    reason = ""
    while cause is not None:
        if isinstance(cause, OSError):
            reason = cause.strerror or reason
        group = cause if isinstance(cause, BaseExceptionGroup) else None  # one for each address of the host
        cause = group.exceptions[0] if group is not None else cause.__cause__ or cause.__context__
    return reason
