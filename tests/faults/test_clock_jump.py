"""This machine's wall clock jumps by an hour, as by an administrator or NTP; the server's does not."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from arq import cron
from arq.connections import RedisSettings

from aioinfra import task
from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.arq import ArqWorker
from aioinfra.jobs.client import JobClient
from aioinfra.testing import RedisServer, VirtualClock
from aioinfra.testing.servers import ServerOptions
from tests.jobs.kit import engine, running, until, working

HOUR = 3_600.0


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["ahead", "back"])
async def test_deferred_jobs_are_neither_early_nor_late(seed: int, jump: float) -> None:
    draw = random.Random(seed)
    started: list[float] = []
    async with VirtualClock(flows=True) as clock, RedisServer() as server, RedisClient(server.url) as redis:

        @task(queue="deferred")
        async def note() -> None:
            started.append(clock.monotonic())

        client = note.client = JobClient(redis, clock=clock)
        began = clock.monotonic()
        delay = draw.uniform(120, 1_800)
        async with working(server.url, note, options=engine(clock=clock)):
            await note.options(delay=delay)()
            clock.set_wall(clock.time() + jump)
            await note.options(delay=delay)()
            await clock.jump(delay - 60)
            await clock.until(lambda: True)
            assert not started
            await clock.jump(60)
            await until(lambda: len(started) == 2)
        assert all(delay <= at - began < delay + 10 for at in started)
        await client.aclose()


@pytest.mark.filterwarnings("ignore:ArqWorker reads pickled jobs:RuntimeWarning")
async def test_each_tick_of_a_cron_job_runs_once_over_jumps(seed: int) -> None:
    draw = random.Random(seed)
    ticks: list[str] = []

    async def tick(ctx: dict[Any, Any]) -> None:
        ticks.append(ctx["job_id"])

    async with VirtualClock(flows=True) as clock, RedisServer(ServerOptions(unix=True)) as server:
        worker = ArqWorker(
            cron_jobs=[cron(tick, name="tick", second=0, unique=True)],
            redis_settings=RedisSettings(unix_socket_path=str(server.socket_path)),
            handle_signals=False,
            engine=engine(clock=clock),
        )
        async with running(worker):
            for jump in (0.0, HOUR, -HOUR, 0.0):
                clock.set_wall(clock.time() + jump)
                await clock.advance(draw.uniform(60, 100), patience=0.003)
            await until(lambda: len(ticks) >= 3)
        assert max(Counter(ticks).values()) == 1
