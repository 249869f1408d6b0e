"""Redis servers for tests and campaigns: one alone, a primary with replicas under sentinels, a cluster.

Nothing here is asynchronous. What takes seconds (``settle``, ``fail_over``) may be run in a thread that stays; see
``redis_node`` for who has to start a node.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from redis.exceptions import RedisError

from tests.processes import until
from tests.redis_node import RedisNode

__all__ = [
    "SERVICE",
    "Cluster",
    "How",
    "RedisNode",
    "Sentinels",
    "Single",
    "cluster",
    "sentinel",
    "single",
]

SERVICE = "sibyl"  #: what the sentinels call the primary and its replicas
SLOTS = 16384
_SETTLE_LIMIT_S = 60.0  # sentinels look at replicas every ten seconds only

How = Literal["kill", "pause", "ask"]


class Single:
    """A server alone."""

    def __init__(self, node: RedisNode) -> None:
        self.node = node
        self.url = node.url
        self.nodes = [node]

    def flush(self) -> None:
        """Empty it."""
        self.node.ask("FLUSHALL")


class Sentinels:
    """A primary and its replicas, watched by sentinels."""

    def __init__(self, nodes: Sequence[RedisNode], sentinels: Sequence[RedisNode]) -> None:
        self.nodes = list(nodes)
        self.sentinels = list(sentinels)
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}"

    def primary(self) -> RedisNode:
        """The node that most sentinels call the primary."""
        named = [port for port in map(self._named, self.sentinels) if port]
        if not named:
            raise RuntimeError("No sentinel answers.")
        port = max(set(named), key=named.count)
        return next(node for node in self.nodes if node.port == port)

    def replicas(self) -> list[RedisNode]:
        """The others."""
        primary = self.primary()
        return [node for node in self.nodes if node is not primary]

    def flush(self) -> None:
        """Empty it."""
        self.primary().ask("FLUSHALL")

    def settle(self, limit_s: float = _SETTLE_LIMIT_S) -> None:
        """Wait until all nodes are in step and every sentinel knows all of them: a failover may come."""
        try:
            until(self._settled, limit_s=limit_s, what="primary, replicas and sentinels know each other")
        except TimeoutError as error:
            roles = [f"{node} {_facts(node).get('role')}" for node in self.nodes]
            error.add_note(f"{', '.join(roles)}; named: {[self._named(sentinel) for sentinel in self.sentinels]}")
            error.add_note(self.sentinels[0].log()[-3000:])
            raise

    def fail_over(self, how: How = "kill", limit_s: float = _SETTLE_LIMIT_S) -> RedisNode:
        """Have another node take over and return it, once all sentinels name it.

        Args:
            how: ``kill`` the primary (``start`` it again yourself), ``pause`` it (``resume`` it yourself), or ``ask``
                the sentinels, with both alive.
        """
        old = self.primary()
        match how:
            case "kill":
                old.kill()
            case "pause":
                old.pause()
            case "ask":
                until(lambda: self._asked(), limit_s=limit_s, what="the sentinels take the order")
        until(lambda: self._moved_from(old), limit_s=limit_s, what="the sentinels name another primary")
        return self.primary()

    def _asked(self) -> bool:
        with contextlib.suppress(RedisError):  # NOGOODSLAVE, INPROG: a moment later it may be otherwise
            return bool(self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE) == "OK")
        return False

    def _moved_from(self, old: RedisNode) -> bool:
        named = {self._named(sentinel) for sentinel in self.sentinels if sentinel.running}
        if len(named) != 1 or named & {old.port, 0}:
            return False
        new = next(node for node in self.nodes if node.port in named)
        return _facts(new).get("role") == "master"

    def _named(self, sentinel: RedisNode) -> int:
        with contextlib.suppress(RedisError, OSError):
            return int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
        return 0

    def _settled(self) -> bool:
        primary = self.primary()
        facts = _facts(primary)
        if facts.get("role") != "master" or facts.get("connected_slaves") != len(self.nodes) - 1:
            return False
        for replica in self.nodes:
            if replica is primary:
                continue
            facts = _facts(replica)
            if (facts.get("master_link_status"), facts.get("master_port")) != ("up", primary.port):
                return False
        return all(self._knows_all(sentinel, primary) for sentinel in self.sentinels)

    def _knows_all(self, sentinel: RedisNode, primary: RedisNode) -> bool:
        fields = _pairs(sentinel.ask("SENTINEL", "MASTER", SERVICE))
        replicas = [_pairs(replica) for replica in sentinel.ask("SENTINEL", "REPLICAS", SERVICE)]
        return (
            fields["port"] == str(primary.port)
            and fields["flags"] == "master"
            and int(fields["num-other-sentinels"]) == len(self.sentinels) - 1
            and len(replicas) == len(self.nodes) - 1
            and all(replica["flags"] == "slave" for replica in replicas)
        )


class Cluster:
    """Primaries that share the slots, with their replicas."""

    def __init__(self, nodes: Sequence[RedisNode], primaries: int) -> None:
        self.nodes = list(nodes)
        self._primaries = primaries
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)

    def form(self) -> None:
        """Make one cluster of nodes that know nothing of each other."""
        primaries, replicas = self.nodes[: self._primaries], self.nodes[self._primaries :]
        for place, node in enumerate(primaries):
            mine = range(SLOTS * place // len(primaries), SLOTS * (place + 1) // len(primaries))
            node.ask("CLUSTER", "ADDSLOTS", *mine)
        for place, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        until(
            lambda: all(f"cluster_known_nodes:{len(self.nodes)}" in node.ask("CLUSTER", "INFO") for node in self.nodes),
            limit_s=_SETTLE_LIMIT_S,
            what="the nodes of the cluster know each other",
        )
        for place, replica in enumerate(replicas):
            replica.ask("CLUSTER", "REPLICATE", _id_of(primaries[place % len(primaries)]))
        self.settle()

    def settle(self, limit_s: float = _SETTLE_LIMIT_S) -> None:
        """Wait until every node finds the cluster whole, and replicas are in step."""
        until(lambda: all(map(self._finds_whole, self.nodes)), limit_s=limit_s, what="a whole cluster")

    def primaries(self) -> list[RedisNode]:
        """The nodes that have slots."""
        return [self._node(port) for port in {port for _, _, port in self._ranges()}]

    def owner(self, slot: int, seen_by: RedisNode | None = None) -> RedisNode:
        """The node that has this slot, as some node or this one sees it."""
        return self._node(next(port for first, last, port in self._ranges(seen_by) if first <= slot <= last))

    def slot(self, key: str) -> int:
        """The slot of a key."""
        return int(self.nodes[0].ask("CLUSTER", "KEYSLOT", key))

    def flush(self) -> None:
        """Empty it."""
        for node in self.primaries():
            node.ask("FLUSHALL")

    def move_slot(self, slot: int, to: RedisNode | None = None, *, pause_s: float = 0.0, batch: int = 10) -> RedisNode:
        """Move a slot with its keys, as resharding does, and return its new owner.

        Args:
            to: the new owner; none: some other primary.
            pause_s: rest between batches of ``batch`` keys, while which the slot lies on two nodes.
        """
        source = self.owner(slot)
        target = to or next(node for node in self.primaries() if node is not source)
        self.begin_move(slot, target)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, batch):
            self.move_keys(slot, target, *keys)
            time.sleep(pause_s)
        self.end_move(slot, target)
        return target

    def begin_move(self, slot: int, target: RedisNode) -> None:
        """Let a slot lie on two nodes."""
        source = self.owner(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", _id_of(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", _id_of(target))

    def move_keys(self, slot: int, target: RedisNode, *keys: str) -> None:
        """Move keys of such a slot."""
        self.owner(slot).ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def end_move(self, slot: int, target: RedisNode) -> None:
        """Give the slot to its new owner, with the keys that are left."""
        source = self.owner(slot)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.move_keys(slot, target, *keys)
        for node in dict.fromkeys((target, source, *self.nodes)):
            if _facts(node).get("role") == "master":
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", _id_of(target))

    def _node(self, port: int) -> RedisNode:
        return next(node for node in self.nodes if node.port == port)

    def _ranges(self, seen_by: RedisNode | None = None) -> list[tuple[int, int, int]]:
        alive = seen_by or next(node for node in self.nodes if node.running)
        return [(first, last, owner[1]) for first, last, owner, *_ in alive.ask("CLUSTER", "SLOTS")]

    def _finds_whole(self, node: RedisNode) -> bool:
        said = node.ask("CLUSTER", "INFO")
        facts = _facts(node)
        in_step = facts.get("role") == "master" or facts.get("master_link_status") == "up"
        return in_step and "cluster_state:ok" in said and f"slots_ok:{SLOTS}" in said


@contextlib.contextmanager
def single(directory: Path, *flags: str) -> Iterator[Single]:
    """A server alone, while the block runs."""
    with _running([RedisNode(directory / "node", *flags)]) as nodes:
        yield Single(nodes[0])


@contextlib.contextmanager
def sentinel(directory: Path, replicas: int = 1, sentinels: int = 3, *flags: str) -> Iterator[Sentinels]:
    """A primary, its replicas and sentinels that see a failure within half a second, while the block runs.

    Args:
        flags: lines for the configuration of primary and replicas.
    """
    nodes = [RedisNode(directory / "node-0", *flags)]
    of = f"replicaof 127.0.0.1 {nodes[0].port}"
    nodes += [RedisNode(directory / f"node-{place}", *flags, of) for place in range(1, replicas + 1)]
    watching = [
        f"sentinel monitor {SERVICE} 127.0.0.1 {nodes[0].port} {sentinels // 2 + 1}",
        f"sentinel down-after-milliseconds {SERVICE} 500",
        f"sentinel failover-timeout {SERVICE} 2000",
    ]
    passwords = [flag.split()[1] for flag in flags if flag.startswith("requirepass ")]
    watching += [f"sentinel auth-pass {SERVICE} {password}" for password in passwords]
    watchers = [RedisNode(directory / f"sentinel-{place}", *watching) for place in range(sentinels)]
    with _running([*nodes, *watchers]):
        group = Sentinels(nodes, watchers)
        group.settle()
        yield group


@contextlib.contextmanager
def cluster(directory: Path, primaries: int = 3, replicas: int = 0, *flags: str) -> Iterator[Cluster]:
    """A cluster that sees a failure within a second, while the block runs.

    Args:
        replicas: of all primaries together; they are given out in turn.
        flags: lines for the configuration of each node.
    """
    each = ("cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-node-timeout 1000", *flags)
    nodes = [RedisNode(directory / f"node-{place}", *each) for place in range(primaries + replicas)]
    with _running(nodes):
        group = Cluster(nodes, primaries)
        group.form()
        yield group


@contextlib.contextmanager
def _running(nodes: list[RedisNode]) -> Iterator[list[RedisNode]]:
    try:
        for node in nodes:
            node.start()
        yield nodes
    finally:
        for node in nodes:
            if node.running:
                node.kill()


def _facts(node: RedisNode) -> dict[str, Any]:
    """What INFO says; nothing when it does not answer."""
    with contextlib.suppress(RedisError, OSError):
        return node.facts()
    return {}


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _id_of(node: RedisNode) -> str:
    return str(node.ask("CLUSTER", "MYID"))
