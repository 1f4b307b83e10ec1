"""A task that forks: its child ends where it leaves the task, and the worker knows nothing of it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest
from tests.jobs.test_worker_command import command

WAYS = {
    "returns": "return 'child'",
    "raises": "raise ValueError('child')",
    "exits": "sys.exit(0)",
    "waits": "await SHARED.wait()\n            tell('child-went-on')",
}


def tasks(way: str) -> str:
    return f"""
import sys
SHARED = asyncio.Event()

@task(queue=os.environ["QUEUE"], name="forking")
async def forking():
    if os.fork() == 0:
        try:
            {WAYS[way]}
        finally:
            tell("child-left")
    await asyncio.sleep(0.3)
    tell("parent")
    return "parent"

@task(queue=os.environ["QUEUE"], name="beside")
async def beside(seconds: float) -> int:
    pid = os.getpid()
    await asyncio.sleep(seconds)
    assert os.getpid() == pid
    tell("beside")
    return 7
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("way", WAYS)
async def test_a_forked_child_touches_no_other_job_and_the_worker_goes_on(
    tmp_path: Path, valkey_url: str, valkey_client: JobClient, queue: str, way: str
) -> None:
    async with command(tmp_path, valkey_url, queue, more=tasks(way)) as worker:
        bystanders = [
            await valkey_client.enqueue(JobRequest[int]("beside", (0.5,), queue=queue)) for _ in range(5)
        ]
        job = await valkey_client.enqueue(JobRequest[str]("forking", queue=queue))
        assert await job.result(timeout=20) == "parent"
        assert [await other.result(timeout=10) for other in bystanders] == [7] * 5
        later = await valkey_client.enqueue(JobRequest[int]("beside", (0.0,), queue=queue))
        assert await later.result(timeout=5) == 7
        assert await worker.ends(within=3) == 0
        told = worker.told()
        assert (told.count("parent"), told.count("beside"), told.count("child-went-on")) == (1, 6, 0)


async def test_a_worker_that_is_not_running_leaves_forks_alone(valkey_url: str) -> None:
    async with RedisClient(valkey_url) as redis:
        await redis.ping()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import os, aioinfra.jobs.worker\npid = os.fork()\nos._exit(3) if pid == 0 else None\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3",
    )
    assert await child.wait() == 0
