"""Tasks with a process of their own: values, limits, crashes, and how they end with their worker."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import pytest

from aioinfra import bound
from aioinfra.errors import JobFailed
from aioinfra.jobs.arq import ArqWorker
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.handle import JobHandle
from aioinfra.jobs.processes import ProcessOptions
from aioinfra.jobs.task import Task
from aioinfra.testing.servers import RedisServer
from aioinfra.testing.worker_process import WorkerProcess, WorkerProcessOptions
from tests.fair_time import fair_time
from tests.jobs import process_tasks as shop
from tests.jobs.kit import engine, until, working

ROOT = Path(__file__).resolve().parent.parent.parent
TASKS = [value for value in vars(shop).values() if isinstance(value, Task)]

Enqueue = Any


@pytest.fixture
def enqueue(valkey_client: JobClient, queue: str) -> Enqueue:
    """Enqueue one of the tasks on this test's queue."""

    async def enqueue(task: Task[..., Any], *args: Any, **kwargs: Any) -> JobHandle[Any]:
        return await task.options(queue=queue)(*args, **kwargs)

    return enqueue


@asynccontextmanager
async def shop_worker(
    url: str, queue: str, slots: int = 2, max_jobs: int = 1_000
) -> AsyncIterator[ArqWorker]:
    from aioinfra.jobs.claim import QueueOptions

    options = engine(
        queues=QueueOptions({queue: 1}), processes=ProcessOptions(slots=slots, max_jobs=max_jobs), grace=5.0
    )
    async with working(url, *TASKS, options=options) as worker:
        yield worker


def children() -> set[int]:
    return {
        child.pid for child in psutil.Process().children(recursive=True) if "process_child" in _line(child)
    }


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_child_gets_typed_arguments_gives_typed_results_and_is_used_again(
    valkey_url: str, enqueue: Enqueue, queue: str
) -> None:
    async with shop_worker(valkey_url, queue, slots=1, max_jobs=2):
        pids = []
        for number in range(3):
            job = await enqueue(shop.ship, shop.Order(number, date(2026, 2, 3)))
            got, day, pid = await job.result(timeout=15)
            assert (got, day) == (number, date(2026, 2, 3))
            pids.append(pid)
        assert os.getpid() not in pids
        assert pids[0] == pids[1] != pids[2]  # two jobs a process
    await until(lambda: not children())


async def test_an_endless_loop_ends_within_a_second_of_its_limit_and_its_sibling_goes_on(
    valkey_url: str, enqueue: Enqueue, queue: str, tmp_path: Path
) -> None:
    async with shop_worker(valkey_url, queue):
        await asyncio.gather(*[(await enqueue(shop.sleep, 0.2)).result(timeout=20) for _ in range(2)])
        sibling = await enqueue(shop.sleep, 1.5)
        began, since = time.monotonic(), fair_time()
        spinning = await enqueue(shop.spin, str(tmp_path / "pid"))
        with pytest.raises(JobFailed, match=r"TimeoutError: the hard limit of 0.5 s is over"):
            await spinning.result(timeout=5)
        assert time.monotonic() - began >= 0.5
        assert fair_time() - since < 1.5
        await until(lambda: is_gone(int((tmp_path / "pid").read_text())), timeout=1)
        pid = await sibling.result(timeout=10)
        again = await asyncio.gather(*[(await enqueue(shop.sleep, 0.2)).result(timeout=20) for _ in range(2)])
        assert pid in again  # neither the worker nor the sibling has come to harm


async def test_a_call_into_c_and_what_a_job_has_started_end_at_the_limit(
    valkey_url: str, enqueue: Enqueue, queue: str, tmp_path: Path
) -> None:
    async with shop_worker(valkey_url, queue):
        holding = await enqueue(shop.hold, 30)
        job = await enqueue(shop.spawn_and_wait, str(tmp_path / "pid"))
        with pytest.raises(JobFailed, match="hard limit"):
            await job.result(timeout=15)
        await until(lambda: is_gone(int((tmp_path / "pid").read_text())))
        with pytest.raises(JobFailed, match="hard limit"):
            await holding.result(timeout=15)


async def test_a_soft_limit_is_raised_in_the_middle_of_a_computation(
    valkey_url: str, enqueue: Enqueue, queue: str
) -> None:
    async with shop_worker(valkey_url, queue):
        assert await (await enqueue(shop.spin_softly, cleans_up=True)).result(timeout=15) == "cleaned up"
        with pytest.raises(JobFailed, match=r"TimeoutError: the soft limit of 0.3 s is over"):
            await (await enqueue(shop.spin_softly, cleans_up=False)).result(timeout=15)


async def test_a_soft_limit_in_the_middle_of_a_message_leaves_the_connection_sound(
    valkey_url: str, enqueue: Enqueue, queue: str
) -> None:
    async with shop_worker(valkey_url, queue, slots=1):
        pids = {await (await enqueue(shop.chatter)).result(timeout=20) for _ in range(3)}
        assert pids == {await (await enqueue(shop.sleep, 0)).result(timeout=10)}


async def test_a_process_that_dies_fails_its_job_and_costs_a_try(
    valkey_url: str, enqueue: Enqueue, queue: str, tmp_path: Path
) -> None:
    async with shop_worker(valkey_url, queue):
        left, crashed, retried, exited = [
            await enqueue(shop.leave, 3),
            await enqueue(shop.crash),
            await enqueue(shop.crash_once, str(tmp_path / "marker")),
            await enqueue(shop.say_exit),
        ]
        with pytest.raises(JobFailed, match=r"JobProcessDied.*exit status 3"):
            await left.result(timeout=20)
        with pytest.raises(JobFailed, match=r"JobProcessDied.*SIGSEGV"):
            await crashed.result(timeout=20)
        assert await retried.result(timeout=20) == "second try"
        with pytest.raises(JobFailed, match="SystemExit"):
            await exited.result(timeout=20)


async def test_errors_keep_their_class_and_frames_and_the_policy_sees_them(
    valkey_url: str, enqueue: Enqueue, queue: str
) -> None:
    async with shop_worker(valkey_url, queue):
        assert await (await enqueue(shop.reserve, "some")).result(timeout=15) == 3
        with pytest.raises(JobFailed) as caught:
            await (await enqueue(shop.reserve, "final")).result(timeout=15)
        assert (caught.value.error_type, caught.value.error_message) == ("ValueError", "no such article")
        file, _, function = caught.value.traceback[-1]
        assert (Path(file).name, function) == ("process_tasks.py", "reserve")


async def test_progress_and_the_correlation_id_reach_where_they_belong(
    valkey_url: str, enqueue: Enqueue, queue: str
) -> None:
    async with shop_worker(valkey_url, queue):
        with bound(request_id="req-7"):
            job = await enqueue(shop.tell)
        assert await job.result(timeout=15) == "req-7"
        progress = await job.progress()
        assert progress is not None
        assert (progress.done, progress.total, progress.message) == (3, 10, "three of ten")


async def test_large_values_pass_and_what_cannot_be_stored_is_said(
    valkey_url: str, enqueue: Enqueue, queue: str
) -> None:
    async with shop_worker(valkey_url, queue):
        assert len(await (await enqueue(shop.large, 3_000_000)).result(timeout=15)) == 3_000_000
        assert await (await enqueue(shop.altered_keys)).result(timeout=15) == {1: 2}
        unfits = [await enqueue(shop.large, 17_000_000), await enqueue(shop.not_json)]
        for unfit in (*unfits, await enqueue(shop.untyped_keys)):
            with pytest.raises(JobFailed, match="EncodeError"):
                await unfit.result(timeout=20)


async def test_an_aborted_job_loses_its_process(
    valkey_url: str, enqueue: Enqueue, queue: str, tmp_path: Path
) -> None:
    async with shop_worker(valkey_url, queue) as worker:
        job = await enqueue(shop.spawn_and_wait, str(tmp_path / "pid"))
        sleeping = await enqueue(shop.sleep, 30)
        await until(lambda: len(children()) >= 2)
        engine_worker = worker._job_worker
        assert engine_worker is not None
        assert engine_worker.abort(sleeping.id)
        with pytest.raises(JobFailed, match="hard limit"):
            await job.result(timeout=15)
        await until(lambda: not engine_worker.running)


@pytest.fixture
async def worker_process(tmp_path: Path) -> AsyncIterator[tuple[WorkerProcess, JobClient]]:
    """`aioinfra worker` with a server of its own, and a client of it."""
    from aioinfra.connection.pool import RedisClient

    async with RedisServer() as server, RedisClient(server.url) as redis:
        env = {"REDIS_URL": server.url, "LOG_FORMAT": "json", "SERVICE_NAME": "shop"}
        options = WorkerProcessOptions(("--process-slots", "2"), env=env, cwd=ROOT)
        async with WorkerProcess("tests.jobs.process_service:service", options) as worker:
            client = JobClient(redis)
            yield worker, client
            await client.aclose()


async def test_a_child_logs_as_its_worker_does_and_dies_with_it(
    worker_process: tuple[WorkerProcess, JobClient], tmp_path: Path
) -> None:
    worker, client = worker_process
    with bound(request_id="req-8"):
        told = await client.enqueue(shop.tell.job())
    assert await told.result(timeout=20) == "req-8"
    await until(lambda: "told from a process" in worker.output)
    lines = [json.loads(line) for line in worker.output.splitlines() if "told from a process" in line]
    assert [(line["service"], line["request_id"], line["job_id"]) for line in lines] == [
        ("shop", "req-8", told.id)
    ]
    pid_file = tmp_path / "pid"
    await client.enqueue(shop.hold_long.job(60, str(pid_file)))
    await until(lambda: pid_file.exists() and pid_file.read_text())
    worker.kill()
    await until(lambda: is_gone(int(pid_file.read_text())), timeout=5)
