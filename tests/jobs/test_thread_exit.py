"""A sync task that calls sys.exit ends its run, not its worker."""

from __future__ import annotations

import asyncio
import sys

import pytest

from aioinfra import task
from aioinfra.errors import JobFailed
from aioinfra.jobs.client import JobClient
from tests.jobs.kit import working


async def test_an_exit_in_a_thread_ends_the_run_alone(
    valkey_url: str, valkey_client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    def leave() -> None:
        sys.exit(3)

    @task(queue=queue)
    def stay() -> str:
        return "here"

    leave.client = stay.client = valkey_client
    async with working(valkey_url, leave, stay):
        gone = await leave.delay()
        with pytest.raises(JobFailed, match="SystemExit"):
            await gone.result(timeout=5)
        assert await (await stay.delay()).result(timeout=5) == "here"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, SystemExit])
async def test_neither_does_what_an_async_task_raises(
    valkey_url: str, valkey_client: JobClient, queue: str, kind: type[BaseException]
) -> None:
    runs = 0

    @task(queue=queue)
    async def leave() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        raise kind

    @task(queue=queue)
    async def stay() -> str:
        return "here"

    leave.client = stay.client = valkey_client
    async with working(valkey_url, leave, stay):
        gone = await leave.delay()
        with pytest.raises(JobFailed, match=kind.__name__):
            await gone.result(timeout=5)
        assert await (await stay.delay()).result(timeout=5) == "here"
    assert runs == 1
