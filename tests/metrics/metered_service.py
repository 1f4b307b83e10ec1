"""A service that touches what the dashboards show: cache, jobs that end in every way, a blocked loop."""

from __future__ import annotations

import asyncio
import os

from aioinfra import Backoff, Service, cached, task

QUEUE = os.environ.get("METERED_QUEUE", "metered")


@cached(ttl=60, key_prefix=QUEUE)
async def load(number: int) -> str:
    return "x" * 5_000 + str(number)


@task(queue=QUEUE)
async def work(number: int) -> int:
    """Who has done it."""
    await load(number)
    await asyncio.sleep(0)
    return os.getpid()


@task(queue=QUEUE, retry=Backoff(tries=2, base=0))
async def fail() -> None:
    raise RuntimeError


service = Service.from_env(include=[__name__])
