"""`aioinfra worker` as a process: how it starts without a server, and how it always ends when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest
from tests.conftest import OwnServerFactory, free_port
from tests.fair_time import fair_time
from tests.jobs.kit import keys_of, until

ROOT = Path(__file__).resolve().parent.parent.parent

MODULE = """
import asyncio, os, time
from pathlib import Path
from aioinfra import Service, task

TOLD = Path(os.environ["TOLD"])

def tell(word):
    with TOLD.open("a") as file:
        file.write(word + "\\n")

@task(queue=os.environ["QUEUE"], name="stubborn")
async def stubborn():
    tell("started")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            tell("cancelled")

@task(queue=os.environ["QUEUE"], name="blocking")
def blocking(seconds: float):
    tell("started")
    time.sleep(seconds)
    tell("ended")

@task(queue=os.environ["QUEUE"], name="quick")
async def quick():
    tell("quick")

service = Service.from_env(include=[__name__])
"""


class Command:
    """The running command, and what its tasks tell."""

    def __init__(self, process: asyncio.subprocess.Process, told: Path) -> None:
        self.process = process
        self._told = told
        self.lines: list[str] = []

    def told(self) -> list[str]:
        return self._told.read_text().split() if self._told.exists() else []

    async def hears(self, word: str) -> None:
        await until(lambda: word in self.told(), timeout=20)

    async def said(self, text: str) -> None:
        await until(lambda: any(text in line for line in self.lines), timeout=20)

    async def ends(self, within: float) -> int:
        """Its exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        began = fair_time()
        status = await asyncio.wait_for(self.process.wait(), 30)
        assert fair_time() - began < within
        return status

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode(errors="replace"))


@asynccontextmanager
async def command(
    tmp_path: Path, url: str, queue: str, *options: str, more: str = ""
) -> AsyncIterator[Command]:
    """`aioinfra worker` on the module above and ``more`` of it; killed if it survives the block."""
    (tmp_path / "stories.py").write_text(MODULE + more)
    told = tmp_path / "told"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aioinfra", "worker", "stories:service", *options),
        cwd=tmp_path,
        env={
            **os.environ,
            "REDIS_URL": url,
            "QUEUE": queue,
            "TOLD": str(told),
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    running = Command(process, told)
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def test_it_waits_for_a_server_that_starts_later(
    tmp_path: Path, own_server: OwnServerFactory, queue: str
) -> None:
    server = own_server(tcp=True, start=False)
    async with command(tmp_path, server.url, queue) as worker:
        await worker.said("does not answer")
        server.start()
        async with RedisClient(server.url) as redis:
            client = JobClient(redis)
            await client.enqueue(JobRequest[Any]("quick", queue=queue))
            await worker.hears("quick")
            await client.aclose()
        assert await worker.ends(within=3) == 0


async def test_sigterm_ends_it_while_it_waits_for_a_server(tmp_path: Path, queue: str) -> None:
    async with command(tmp_path, f"redis://127.0.0.1:{free_port()}/0", queue) as worker:
        await worker.said("does not answer")
        assert await worker.ends(within=3) == 0


async def test_sigterm_ends_it_while_its_server_hangs(
    tmp_path: Path, own_server: OwnServerFactory, queue: str
) -> None:
    server = own_server(tcp=True)
    server.stop_process()
    try:
        async with command(tmp_path, server.url, queue) as worker:
            await worker.said("does not answer")
            assert await worker.ends(within=12) == 0
    finally:
        server.continue_process()


async def test_a_task_that_swallows_its_cancellation_is_given_back_and_left(
    tmp_path: Path, valkey_url: str, valkey: RedisClient, valkey_client: JobClient, queue: str
) -> None:
    async with command(tmp_path, valkey_url, queue, "--grace", "0.2") as worker:
        job = await valkey_client.enqueue(JobRequest[Any]("stubborn", queue=queue))
        await worker.hears("started")
        assert await worker.ends(within=9) == 0
        assert "cancelled" in worker.told()
        assert await keys_of(valkey, job.id) == {"arq:job"}
        assert any("do not end when cancelled" in line for line in worker.lines)


async def test_a_thread_that_outlives_the_grace_is_given_back_and_left(
    tmp_path: Path, valkey_url: str, valkey: RedisClient, valkey_client: JobClient, queue: str
) -> None:
    async with command(tmp_path, valkey_url, queue, "--grace", "0.2") as worker:
        job = await valkey_client.enqueue(JobRequest[Any]("blocking", (60.0,), queue=queue))
        await worker.hears("started")
        assert await worker.ends(within=9) == 0
        assert await keys_of(valkey, job.id) == {"arq:job"}
        score = await valkey.execute("ZSCORE", queue, job.id)
        assert float(score) <= time.time() * 1000


async def test_a_thread_that_ends_soon_after_the_grace_is_recorded(
    tmp_path: Path, valkey_url: str, valkey: RedisClient, valkey_client: JobClient, queue: str
) -> None:
    async with command(tmp_path, valkey_url, queue, "--grace", "0.2") as worker:
        job = await valkey_client.enqueue(JobRequest[Any]("blocking", (1.5,), queue=queue))
        await worker.hears("started")
        assert await worker.ends(within=9) == 0
        assert worker.told() == ["started", "ended"]
        assert await keys_of(valkey, job.id) == {"arq:result"}
        assert not any("finisher is closed" in line for line in worker.lines)
