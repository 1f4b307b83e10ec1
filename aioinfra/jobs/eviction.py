"""A jobs server must not evict: a job that is evicted is lost without a word, whatever its database number."""

from __future__ import annotations

import asyncio
import logging

from aioinfra.backoff import Backoff
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import ConfigError, StoreError, StoreUnavailable

logger = logging.getLogger("aioinfra.jobs")

_RETRY = Backoff(tries=1_000_000, base=0.1, cap=1.0)


async def await_safe_server(client: RedisClient) -> None:
    """`refuse_eviction`, waiting for a server that is not there yet: it may start later than its workers.

    Raises:
        ConfigError: the server may evict keys.
        StoreError: it refuses the check, or the credentials.
    """
    failures = 0
    while True:
        try:
            return await refuse_eviction(client)
        except StoreUnavailable as error:
            failures += 1
            if failures == 1:
                logger.warning(
                    "the jobs server does not answer (%s: %s); waiting", type(error).__name__, error
                )
            await asyncio.sleep(_RETRY.delay(failures))


async def warn_of_eviction(client: RedisClient) -> None:
    """`refuse_eviction` as a warning, for workers that take a server as it is; silent when it does not answer."""
    try:
        await refuse_eviction(client)
    except ConfigError as error:
        logger.warning("%s", error)
    except StoreError as error:
        logger.debug("the jobs server's eviction policy is not known (%s)", type(error).__name__)


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
