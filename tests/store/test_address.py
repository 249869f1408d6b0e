"""What a Redis URL says, and that a wrong one is told in a line."""

import pytest

from sibyl.core.errors import StoreUnsuitable
from sibyl.store.address import Access, ClusterNodes, OneServer, Place, SentinelGroup, parse_address
from sibyl.store.connection import Store


@pytest.mark.parametrize(
    "url", ["redis://:pw@host:1/2?health_check_interval=3", "rediss://host", "unix:///tmp/redis.sock?db=1"]
)
def test_one_server_is_left_to_redis_py(url: str) -> None:
    """Whatever it understands, it may have."""
    assert parse_address(url) == OneServer(url=url)


def test_sentinels_are_named_with_the_service() -> None:
    """Login and database are those of the primary; the sentinels have a login of their own."""
    address = parse_address(
        "redis+sentinel://user:p%40ss@one:1,two,[::1]:3/mymaster/4?sentinel_user=watch&sentinel_password=a%2Fb&x=1"
    )

    assert isinstance(address, SentinelGroup)
    assert address.sentinels == (
        "redis://watch:a%2Fb@one:1?x=1",
        "redis://watch:a%2Fb@two:26379?x=1",
        "redis://watch:a%2Fb@[::1]:3?x=1",
    )
    assert address.service == "mymaster"
    assert address.access.url(Place("::2", 5)) == "redis://user:p%40ss@[::2]:5/4?x=1"


def test_sentinels_without_a_login_get_none() -> None:
    """Not that of the primary: most sentinels have none and would refuse it."""
    address = parse_address("redis+sentinel://:secret@one/mymaster")

    assert isinstance(address, SentinelGroup)
    assert address.sentinels == ("redis://one:26379",)
    assert address.access == Access(scheme="redis", login=":secret@", path="", options={})


def test_a_cluster_is_known_by_some_of_its_nodes() -> None:
    """TLS is the same scheme with two letters s."""
    address = parse_address("rediss+cluster://:a@b@one:7000,two/?ssl_cert_reqs=none")

    assert address == ClusterNodes(
        seeds=(Place("one", 7000), Place("two", 6379)),
        access=Access(scheme="rediss", login=":a@b@", path="", options={"ssl_cert_reqs": "none"}),
    )


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://host", "must begin with redis://"),
        ("redis+other://host", "must begin with redis://"),
        ("unix+cluster://host", "reached by host and port"),
        ("redis+sentinel://host", "needs the name of the service"),
        ("redis+sentinel://host/", "needs the name of the service"),
        ("redis+sentinel://host/name/x", "the database must be a number"),
        ("redis+sentinel://one,,two/name", "what should be host:port is something else"),
        ("redis+sentinel:///name", "what should be host:port is something else"),
        ("redis+sentinel://host:port/name", "what should be host:port is something else"),
        ("redis+cluster://::1:7000", "what should be host:port is something else"),
        ("redis+cluster://host:70000", "what should be host:port is something else"),
        ("redis+cluster://host/1", "a cluster has no databases"),
        ("redis+cluster://host?nonsense=1", "an option is wrong"),
        ("redis+sentinel://host/name?nonsense=1", "an option is wrong"),
    ],
)
async def test_a_wrong_url_is_refused_in_one_line(url: str, why: str) -> None:
    """When the store is made, and without the password."""
    with pytest.raises(StoreUnsuitable, match="The Redis URL cannot be used") as refused:
        Store(url.replace("://", "://me:secret@"))

    assert why in refused.value.message
    assert "secret" not in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("scheme", ["redis", "redis+sentinel", "redis+cluster"])
@pytest.mark.parametrize("mark", "/#?")
async def test_no_part_of_a_password_is_said_however_it_breaks_the_url(scheme: str, mark: str) -> None:
    """One with such a mark has to be encoded; one that was not is no reason to print a half of it."""
    with pytest.raises(StoreUnsuitable) as refused:
        Store(f"{scheme}://:sek{mark}ret@127.0.0.1:7000/0")

    assert "sek" not in refused.value.message and "ret@" not in refused.value.message
