"""The jobs server is killed and comes back, under producers and workers that go on."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import EnqueueUncertain, StoreUnavailable
from aioinfra.jobs.client import ClientOptions, JobClient
from aioinfra.jobs.job import JobRequest
from aioinfra.testing.servers import RedisServer
from tests.faults.workload import QUEUE, Journal, worker
from tests.jobs.kit import until

pytest_plugins = ["aioinfra.testing.pytest_plugin"]


class Producers:
    """Producers that enqueue until told to stop, and what each of them was told."""

    def __init__(
        self, url: str, count: int, draw: random.Random, *, patience: tuple[float, ...], pause: float
    ) -> None:
        self.acknowledged: list[str] = []
        self.uncertain: list[str] = []
        self.refused: list[str] = []
        self.duplicates: list[str] = []
        self._pause = pause
        self._over = asyncio.Event()
        self._pools = [RedisClient(url, PoolOptions(socket_timeout=1.0)) for _ in patience]
        self._clients = [
            JobClient(pool, options=ClientOptions(timeout=seconds))
            for pool, seconds in zip(self._pools, patience, strict=True)
        ]
        self._tasks = [
            asyncio.create_task(
                self._produce(self._clients[at % len(patience)], at, random.Random(draw.random()))
            )
            for at in range(count)
        ]

    async def _produce(self, client: JobClient, producer: int, draw: random.Random) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            job_id = f"{producer}:{number}"
            request = JobRequest[int]("faults.work", (draw.uniform(0, 0.02),), queue=QUEUE, job_id=job_id)
            try:
                job = await client.enqueue(request)
            except EnqueueUncertain as error:
                self.uncertain += error.job_ids
            except StoreUnavailable:
                self.refused.append(job_id)
            else:
                (self.acknowledged if job.created else self.duplicates).append(job.id)
            await asyncio.sleep(draw.uniform(0, self._pause))

    async def stop(self) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)
        for client, pool in zip(self._clients, self._pools, strict=True):
            await client.aclose()
            await pool.aclose()


async def test_nothing_is_lost_or_recorded_twice_and_no_worker_dies(
    tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> None:
    draw = random.Random(seed)
    outage = draw.uniform(0.2, 3.0)
    journal = Journal(tmp_path / "journal")
    async with (
        RedisServer() as server,
        worker(server.url, journal, "--concurrency", "10") as first,
        worker(server.url, journal, "--concurrency", "10") as second,
        RedisClient(server.url) as redis,
    ):
        await asyncio.gather(first.ready(), second.ready())
        producers = Producers(server.url, 8, draw, patience=(outage + 5,), pause=0.02)
        await until(lambda: len(journal.ends) > 100)
        await asyncio.sleep(draw.uniform(0, 0.1))
        await server.kill()
        await asyncio.sleep(outage)
        await server.restart()
        answered = time.time()
        resumed = await until(lambda: [one.at for one in journal.starts if one.at > answered])
        request.node.user_properties.append(("resumed after, s", round(min(resumed) - answered, 3)))
        assert min(resumed) - answered <= 1.0
        await until(lambda: len(producers.acknowledged) > 200)
        await producers.stop()

        async def drained() -> bool:
            return bool(await redis.execute("ZCARD", QUEUE) == 0)

        await until(drained)
        ended = Counter(one.job_id for one in journal.ends)
        stored = set(producers.acknowledged) | (set(producers.uncertain) & set(ended))
        assert (producers.refused, producers.duplicates) == ([], [])  # there was time to wait for the server
        assert set(ended) == stored
        assert set(ended.values()) == {1}
        assert {one.attempt for one in journal.starts} == {1}
        results = await redis.pipeline([("EXISTS", f"arq:result:{job_id}") for job_id in stored])
        assert set(results) == {1}
        assert first.running
        assert second.running
        for process in (first, second):
            process.terminate()
            assert await process.exited() == 0


async def test_enqueue_says_what_it_knows_while_its_server_crashes_again_and_again(seed: int) -> None:
    """20 producers, half of which give up before the server is back. They do not rest, so that a crash is likely
    to come between a batch's write and its reply, which is what tempts a client to call its own job a duplicate."""
    draw = random.Random(seed)
    async with RedisServer() as server:
        producers = Producers(server.url, 20, draw, patience=(0.15, 4.0), pause=0.001)
        for crash in range(1, 4):
            await until(lambda least=300 * crash: len(producers.acknowledged) > least)
            await asyncio.sleep(draw.uniform(0, 0.02))
            await server.kill()
            await asyncio.sleep(draw.uniform(0.1, 0.4))
            await server.restart()
        await until(lambda: len(producers.acknowledged) > 1_200)
        await producers.stop()
        members = await server.admin("ZRANGE", QUEUE, 0, -1)
        payloads = await server.admin("EXISTS", *(b"arq:job:" + member for member in members))
    stored = {member.decode() for member in members}
    assert payloads == len(stored)
    assert producers.duplicates == []
    assert set(producers.acknowledged) <= stored
    assert stored <= {*producers.acknowledged, *producers.uncertain}
    assert not stored & set(producers.refused)
    assert producers.uncertain or producers.refused  # the crashes were noticed
