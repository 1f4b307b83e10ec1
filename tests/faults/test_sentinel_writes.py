"""What survives a failover on request: with coordination all acknowledged writes, else all but the last second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import StoreUnavailable
from aioinfra.testing import SentinelSetup
from tests.connection.test_sentinel import sentinel_url, until

BEFORE = 2.0  # seconds of writing before the failover: the Sentinels have looked at the replicas by then
WINDOW = 2.5  # seconds; who only waits for the old master to be told loses ten


class Writer:
    """Adds numbers to a set, and remembers when each was acknowledged."""

    def __init__(self, client: RedisClient) -> None:
        self.acknowledged: dict[int, float] = {}
        self.errors: list[StoreUnavailable] = []
        self._client = client

    async def write(self, first: int) -> None:
        number = first
        while True:
            number += 1
            try:
                await self._client.execute("SADD", "written", number)
            except StoreUnavailable as error:
                self.errors.append(error)
            else:
                self.acknowledged[number] = time.monotonic()
            await asyncio.sleep(0.002)

    async def lost(self) -> list[float]:
        """When those were acknowledged that are gone."""
        kept = {int(number) for number in await self._client.execute("SMEMBERS", "written")}
        return [at for number, at in self.acknowledged.items() if number not in kept]


@asynccontextmanager
async def writing(client: RedisClient) -> AsyncIterator[Writer]:
    writer = Writer(client)
    tasks = [asyncio.create_task(writer.write(number * 1_000_000)) for number in range(3)]
    try:
        yield writer
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.mark.parametrize("coordinated", [True, False])
async def test_a_failover_on_request_loses_next_to_nothing(coordinated: bool) -> None:
    setup = SentinelSetup()
    async with setup, RedisClient(sentinel_url(setup), PoolOptions(socket_timeout=1.0)) as client:
        async with writing(client) as writer:
            await asyncio.sleep(BEFORE)
            await setup.failover(coordinated=coordinated)
            await until(lambda: client.figures().switches == 1)
            written = len(writer.acknowledged)
            await until(lambda: len(writer.acknowledged) > written + 200)
        lost = await writer.lost()
        assert len(writer.errors) < 10
        if coordinated:
            assert lost == []
        assert not lost or max(lost) - min(lost) < WINDOW
