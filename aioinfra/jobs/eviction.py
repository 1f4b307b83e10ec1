"""A jobs server must not evict: a job that is evicted is lost without a word, whatever its database number."""

from __future__ import annotations

import logging

from aioinfra.connection.pool import RedisClient
from aioinfra.errors import ConfigError

logger = logging.getLogger("aioinfra.jobs")


async def refuse_eviction(client: RedisClient) -> None:
    """Check the server's policy; read from INFO, since managed servers forbid CONFIG. One round trip.

    A policy that would evict is only warned of while there is no maxmemory to reach.

    Raises:
        ConfigError: the server may evict keys; says what to change.
        StoreError: it did not answer.
    """
    info: bytes = await client.execute("INFO", "memory")
    fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    policy = fields.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return
    if fields.get("maxmemory", "0") == "0":
        logger.warning(
            "the jobs server has maxmemory-policy %s: set noeviction before it gets a maxmemory", policy
        )
        return
    raise ConfigError(
        f"the jobs server has maxmemory-policy {policy} and would lose jobs without a word: set it to noeviction, "
        "or point JOBS_REDIS_URL to a server that has it"
    )
