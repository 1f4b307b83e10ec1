"""The jobs server is gone for longer than a lease, under a hundred running jobs.

`make chaos` lets it be away for 30 s, twice the default lease; `make test` for two, with a lease of one.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest
from aioinfra.testing.servers import RedisServer
from tests.faults.full_count import full_count
from tests.faults.workload import QUEUE, Journal, worker
from tests.jobs.kit import until

RUNNING, WAITING = 100, 200
_RECORDED = re.compile(rb"\r\nset\r\n\$\d+\r\narq:result:([^\r]+)\r\n", re.IGNORECASE)


def _work(seconds: float) -> JobRequest[int]:
    return JobRequest("faults.work", (seconds,), queue=QUEUE)


def _recorded(server: RedisServer) -> Counter[str]:
    """How often each job's result was written, by the server's append-only file."""
    found: Counter[str] = Counter()
    for path in server.directory.rglob("*.aof"):
        found.update(job_id.decode() for job_id in _RECORDED.findall(path.read_bytes()))
    return found


@pytest.mark.timeout(240)
async def test_every_job_has_one_recorded_result_after_an_outage_of_twice_the_lease(
    tmp_path: Path, seed: int, pytestconfig: pytest.Config, request: pytest.FixtureRequest
) -> None:
    full, draw = full_count(pytestconfig), random.Random(seed)
    outage, lease = (30.0, 15.0) if full else (2.0, 1.0)
    journal = Journal(tmp_path / "journal")
    options = ("--concurrency", str(RUNNING // 2), "--lease", str(lease))
    async with (
        RedisServer() as server,
        RedisClient(server.url) as redis,
        worker(server.url, journal, *options) as first,
        worker(server.url, journal, *options) as second,
    ):
        await asyncio.gather(first.ready(), second.ready())
        client = JobClient(redis)
        # All run when the server dies; some end before the lease does, some before the server is back, some later.
        long = [_work(draw.uniform(0.1, 1.3) * outage + 1.5) for _ in range(RUNNING)]
        jobs = [job.id for job in await client.enqueue_many(long)]
        await until(lambda: len(journal.starts) >= RUNNING)
        jobs += [job.id for job in await client.enqueue_many([_work(0.2) for _ in range(WAITING)])]
        await client.aclose()
        await asyncio.sleep(draw.uniform(0, 0.3))  # workers may claim a few ahead
        leases = await redis.pipeline([("EXISTS", f"arq:in-progress:{job_id}") for job_id in jobs])
        unclaimed = {job_id for job_id, held in zip(jobs, leases, strict=True) if not held}
        assert len(journal.starts) - len(journal.ends) == RUNNING
        await server.kill()
        await asyncio.sleep(outage)
        await server.restart()
        answered = time.time()
        resumed = await until(lambda: [one.at for one in journal.starts if one.job_id in unclaimed])

        async def drained() -> bool:
            return bool(await redis.execute("ZCARD", QUEUE) == 0)

        await until(drained, timeout=120, every=0.1)
        for process in (first, second):
            assert process.running
            process.terminate()
            assert await process.exited() == 0
        assert _recorded(server) == dict.fromkeys(jobs, 1)
        results = await redis.pipeline([("EXISTS", f"arq:result:{job_id}") for job_id in jobs])
        assert set(results) == {1}
    runs = Counter(one.job_id for one in journal.starts)
    request.node.user_properties.append(("resumed after, s", round(min(resumed) - answered, 3)))
    request.node.user_properties.append(("jobs that ran twice", sum(count > 1 for count in runs.values())))
    assert set(runs) == set(jobs)
    assert {one.attempt for one in journal.starts} == {1}
    assert 0 < min(resumed) - answered <= 1.0
