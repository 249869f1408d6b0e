"""What a Redis URL says: one server, sentinels that know where the primary is, or a cluster.

| URL | is |
|---|---|
| ``redis://``, ``rediss://``, ``unix://`` | one server, as redis-py reads it |
| ``redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]`` | the primary that these sentinels name |
| ``redis+cluster://[user:password@]host:port[,host:port...]`` | a cluster, of which these nodes tell the rest |

``rediss+sentinel`` and ``rediss+cluster`` use TLS. User and password are those of the servers that hold the data;
``?sentinel_user=`` and ``?sentinel_password=`` are those of the sentinels. All other options go to redis-py.
Pure: nothing here connects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

SENTINEL_PORT = 26379
CLUSTER_PORT = 6379


class Place(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OneServer:
    """One server and nothing else."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the URLs of several servers have in common."""

    scheme: str
    login: str  #: "user:password@", quoted, or nothing
    path: str  #: "/" and the number of the database, or nothing
    options: Mapping[str, str]

    def url(self, place: Place) -> str:
        """The URL of one of them."""
        query = f"?{urlencode(self.options)}" if self.options else ""
        return f"{self.scheme}://{self.login}{place}{self.path}{query}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelGroup:
    """Sentinels, and the service whose primary they know."""

    sentinels: tuple[str, ...]  #: their URLs
    service: str
    access: Access  #: to the primary


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNodes:
    """Some nodes of a cluster, to ask for the others."""

    seeds: tuple[Place, ...]
    access: Access


Address = OneServer | SentinelGroup | ClusterNodes


def parse_address(url: str) -> Address:
    """Return what the URL says.

    Raises:
        ValueError: it says nothing that can be used; the message holds neither user nor password.
    """
    scheme, found, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if not found or base not in ("redis", "rediss", "unix") or kind not in ("", "sentinel", "cluster"):
        raise ValueError("it must begin with redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster://")
    if not kind:
        return OneServer(url=url)
    if base == "unix":
        raise ValueError(f"{scheme}:// does not exist: sentinels and clusters are reached by host and port")
    authority, _, tail = rest.partition("?")[0].partition("/")
    query = dict(parse_qsl(rest.partition("?")[2], keep_blank_values=True))
    login, at, hosts = authority.rpartition("@")  # the last one: an "@" in a password is often left unquoted
    places = tuple(_place(host, SENTINEL_PORT if kind == "sentinel" else CLUSTER_PORT) for host in hosts.split(","))
    if kind == "cluster":
        if tail not in ("", "0"):
            raise ValueError("a cluster has no databases, so nothing but a ? may follow its nodes")
        return ClusterNodes(seeds=places, access=Access(scheme=base, login=login + at, path="", options=query))
    service, _, database = tail.partition("/")
    if not service:
        raise ValueError("redis+sentinel:// needs the name of the service: redis+sentinel://host:26379/mymaster")
    if database and not database.isdecimal():
        raise ValueError("the database must be a number")
    user, password = query.pop("sentinel_user", ""), query.pop("sentinel_password", "")
    sentinel_login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    sentinels = Access(scheme=base, login=sentinel_login, path="", options=query)
    return SentinelGroup(
        sentinels=tuple(map(sentinels.url, places)),
        service=service,
        access=Access(scheme=base, login=login + at, path=f"/{database}" if database else "", options=query),
    )


def _place(text: str, default_port: int) -> Place:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or (port is None and text.rpartition("]")[2].count(":")):
        # Not quoted: it may be a part of a password.
        raise ValueError("what should be host:port is something else; several are separated by commas")
    return Place(host, port or default_port)
