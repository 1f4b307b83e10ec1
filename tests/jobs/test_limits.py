"""Soft and hard limits of coroutines and threads."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from aioinfra import Backoff, SoftTimeLimit, task
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument, JobFailed
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.limits import limited
from aioinfra.testing.servers import RedisServer
from aioinfra.testing.worker_process import WorkerProcess, WorkerProcessOptions
from tests.fair_time import fair_time
from tests.jobs import supervised_tasks
from tests.jobs.kit import until, working

ROOT = Path(__file__).resolve().parent.parent.parent


async def test_a_soft_limit_is_raised_in_the_job_which_can_clean_up(
    valkey_url: str, valkey_client: JobClient, queue: str
) -> None:
    @task(queue=queue, soft_limit=0.1, hard_limit=5)
    async def tidy() -> str:
        try:
            await asyncio.sleep(10)
        except SoftTimeLimit:
            await asyncio.sleep(0.01)  # cleaning up may wait
            return "tidied"
        return "slept"

    async with working(valkey_url, tidy):
        assert await (await tidy.delay()).result(timeout=3) == "tidied"


async def test_a_soft_limit_that_nobody_catches_is_an_error_for_the_retry_policy(
    valkey_url: str, valkey_client: JobClient, queue: str
) -> None:
    seen: list[int] = []

    @task(queue=queue, soft_limit=0.05, hard_limit=5, retry=Backoff(tries=2, base=0))
    async def slow() -> None:
        seen.append(1)
        try:
            await asyncio.sleep(10)
        except Exception:  # a loop that survives everything does not survive its limit
            await asyncio.sleep(10)

    async with working(valkey_url, slow):
        with pytest.raises(JobFailed, match=r"TimeoutError: the soft limit of 0.05 s is over"):
            await (await slow.delay()).result(timeout=5)
    assert len(seen) == 2


async def test_a_job_that_ignores_its_soft_limit_meets_the_hard_one(
    valkey_url: str, valkey_client: JobClient, queue: str
) -> None:
    @task(queue=queue, soft_limit=0.05, hard_limit=0.3)
    async def stubborn() -> None:
        try:
            await asyncio.sleep(10)
        except SoftTimeLimit:
            await asyncio.sleep(10)

    async with working(valkey_url, stubborn):
        began = fair_time()
        with pytest.raises(JobFailed, match=r"the hard limit of 0.3 s is over"):
            await (await stubborn.delay()).result(timeout=5)
        assert fair_time() - began < 1.3


async def test_a_soft_limit_ends_what_a_task_group_has_started() -> None:
    ended = asyncio.Event()

    async def child() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.set()

    async def job() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
        except SoftTimeLimit:
            assert ended.is_set()
            return "tidied"
        return "slept"

    assert await limited(job(), 5, 0.05) == "tidied"


@pytest.mark.parametrize("soft", [0.049, 0.05, 0.051])
async def test_a_timeout_inside_the_job_and_its_soft_limit_at_the_same_time_are_both_seen(
    soft: float,
) -> None:
    seen: list[str] = []

    async def job() -> None:
        try:
            async with asyncio.timeout(0.05):
                await asyncio.sleep(10)
        except TimeoutError:
            seen.append("timeout")
        except SoftTimeLimit:
            seen.append("soft")
            return
        try:
            await asyncio.sleep(10)
        except SoftTimeLimit:
            seen.append("soft")

    await limited(job(), 5, soft)
    assert seen in (["timeout", "soft"], ["soft"])
    current = asyncio.current_task()
    assert current is not None
    assert not current.cancelling()


async def test_a_soft_limit_does_not_take_the_place_of_a_cancellation() -> None:
    seen: list[type[BaseException]] = []

    async def job() -> None:
        try:
            await asyncio.sleep(10)
        except BaseException as error:
            seen.append(type(error))
            await asyncio.sleep(0.15)  # past the soft limit: the cancellation is still under way
            raise

    running = asyncio.create_task(limited(job(), 5, 0.1))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert seen == [asyncio.CancelledError]


async def test_a_thread_over_its_limit_fails_its_job_and_keeps_its_slot(
    valkey_url: str, valkey_client: JobClient, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    @task(queue=queue, hard_limit=0.2)
    def stuck() -> None:
        go_on.wait(20)

    @task(queue=queue)
    async def quick() -> str:
        return "ran"

    async with working(valkey_url, stuck, quick, concurrency=1):
        job = await stuck.delay()
        with pytest.raises(JobFailed, match=r"the hard limit of 0.2 s is over"):
            await job.result(timeout=2)
        waiting = await quick.delay()
        with pytest.raises(TimeoutError):
            await waiting.result(timeout=0.5)
        go_on.set()
        assert await waiting.result(timeout=3) == "ran"
    [line] = [record for record in caplog.records if "cannot be stopped" in record.getMessage()]
    assert line.levelname == "ERROR"


async def test_an_aborted_thread_gives_up_waiting_at_its_limit(
    valkey_url: str, valkey_client: JobClient, queue: str
) -> None:
    go_on, began = threading.Event(), threading.Event()

    @task(queue=queue, hard_limit=0.5)
    def stuck() -> None:
        began.set()
        go_on.wait(20)

    async with working(valkey_url, stuck) as worker:
        job = await stuck.delay()
        await until(began.is_set)
        assert worker._job_worker is not None
        worker._job_worker.abort(job.id)
        with pytest.raises(Exception, match="aborted"):
            await job.result(timeout=3)
        go_on.set()


async def test_a_worker_ends_although_a_thread_is_stuck_whose_job_has_long_been_retried(
    tmp_path: Path,
) -> None:
    async with RedisServer() as server, RedisClient(server.url) as redis:
        client = JobClient(redis)
        env = {"REDIS_URL": server.url, "TOLD": str(tmp_path / "told")}
        options = WorkerProcessOptions(("--grace", "0.2"), env=env, cwd=ROOT)
        async with WorkerProcess("tests.jobs.supervised_tasks:service", options) as worker:
            job = await client.enqueue(supervised_tasks.stuck_once.job())
            assert await job.result(timeout=20) == 2
            worker.terminate()
            assert await worker.exited(12) == 0
        await client.aclose()


def _sync() -> None: ...


async def _async() -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "argument"),
    [
        (_async, {"soft_limit": 5, "hard_limit": 5}, "soft_limit"),
        (_async, {"soft_limit": True}, "soft_limit"),
        (_async, {"soft_limit": 0}, "soft_limit"),
        (_sync, {"soft_limit": 5}, "soft_limit"),
        (_async, {"run_in": "process"}, "run_in"),
        (_sync, {"run_in": "fiber"}, "run_in"),
        (lambda: None, {"run_in": "process"}, "run_in"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused_at_the_declaration(
    function: Any, options: dict[str, Any], argument: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        task(**options)(function)
    assert caught.value.argument == argument
