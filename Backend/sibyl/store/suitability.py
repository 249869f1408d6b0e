"""Whether a Redis may be used, by what its servers say of themselves: version, eviction, append-only file, replicas."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sibyl.core.errors import StoreUnsuitable

logger = logging.getLogger(__name__)

MIN_VERSION = (6, 2)


def suitable(servers: Sequence[Mapping[str, Any]], *, ha: bool) -> str:
    """Return name and version of the first of these servers, given what INFO says of each.

    Raises:
        StoreUnsuitable: one is too old or would evict keys.
    """
    names = []
    for info in servers:
        name = "Valkey" if "valkey_version" in info else "Redis"
        version = str(info.get("valkey_version") or info.get("redis_version", "0"))
        names.append(f"{name} {version}")
        if tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2]) < MIN_VERSION:
            raise StoreUnsuitable(f"{name} {version} is too old: Sibyl needs Redis 6.2 or newer, or Valkey.")
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreUnsuitable(
                f"{name} has maxmemory-policy {policy} and would drop answers when memory is short. "
                "Set it to noeviction: redis-cli CONFIG SET maxmemory-policy noeviction"
            )
    if not all(info.get("aof_enabled") for info in servers):
        logger.warning(
            "%s runs without an append-only file: accepted tasks are lost when it restarts. "
            "Set appendonly yes, unless your provider keeps the data in another way.",
            names[0],
            extra={"action": "store_without_aof"},
        )
    if ha and not all("min_slaves_good_slaves" in info for info in servers):
        # It is said by INFO exactly when the setting is not 0.
        logger.warning(
            "Durability is ha, and %s has no min-replicas-to-write: a primary that was cut off goes on taking writes, "
            "which nobody will see. Set min-replicas-to-write 1 on primary and replicas.",
            names[0],
            extra={"action": "store_without_min_replicas"},
        )
    if ha and not all(info.get("connected_slaves") for info in servers):
        logger.warning(
            "Durability is ha, and %s has no replica: nothing will be accepted before it has one.",
            names[0],
            extra={"action": "store_without_replica"},
        )
    return names[0]
