"""arq's periodic duties beside the engine's loop: the health record, cron jobs, aborts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss
from redis.exceptions import RedisError

from aioinfra.jobs.worker import JobWorker

logger = logging.getLogger("arq.worker")

HEARTBEAT = 0.5
"""Seconds between two rounds of the duties."""

_DUTY_LIMIT = 10.0


async def surviving(duty: Awaitable[None]) -> bool:
    """Await a duty; whether it went well. An outage of the server is waited out."""
    try:
        async with asyncio.timeout(_DUTY_LIMIT):
            await duty
    except (RedisError, OSError) as error:
        logger.warning("heart beat failed: %s", type(error).__name__)
        return False
    except Exception:
        logger.exception("heart beat failed")
        return False
    return True


@contextlib.asynccontextmanager
async def beating(beat: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Call ``beat`` every `HEARTBEAT` seconds while the body runs. It is ended before this returns."""
    heart = asyncio.create_task(_beat_forever(beat), name="aioinfra-arq-heartbeat")
    try:
        yield
    finally:
        while not heart.done():  # again and again: redis-py may swallow a cancellation in Python 3.11
            heart.cancel()
            await asyncio.wait([heart], timeout=HEARTBEAT)


async def _beat_forever(beat: Callable[[], Awaitable[None]]) -> None:
    while True:
        await beat()
        await asyncio.sleep(HEARTBEAT)


async def cancel_aborted(pool: ArqRedis, worker: JobWorker | None) -> None:
    """Cancel the running jobs that arq clients asked to abort. One round trip, and one more if there are some."""
    requested = [
        job_id.decode("utf-8", "surrogateescape") for job_id in await pool.zrange(abort_jobs_ss, 0, -1)
    ]
    aborted = [job_id for job_id in requested if worker is not None and worker.abort(job_id)]
    if aborted:
        await pool.zrem(abort_jobs_ss, *(job_id.encode("utf-8", "surrogateescape") for job_id in aborted))
