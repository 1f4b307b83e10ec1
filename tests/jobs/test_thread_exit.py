"""A sync task that calls sys.exit ends its run, not its worker."""

from __future__ import annotations

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
