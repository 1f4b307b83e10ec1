"""`aioinfra worker --processes`: workers that crash, grow, get stuck or are restarted, and how all of them end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.errors import JobFailed
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobStatus
from aioinfra.testing.servers import RedisServer
from aioinfra.testing.worker_process import WorkerProcess, WorkerProcessOptions
from tests.jobs import supervised_tasks as tasks
from tests.jobs.kit import until

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = "tests.jobs.supervised_tasks:service"


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with RedisServer() as running:
        yield running


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[JobClient]:
    async with RedisClient(server.url) as redis:
        opened = JobClient(redis)
        yield opened
        await opened.aclose()


class Told:
    """What the tasks of all processes wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self, word: str = "") -> list[str]:
        """The lines of a word: itself and a pid."""
        return [line for line in self.path.read_text().splitlines() if line.split()[0] == word or not word]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "told")


@asynccontextmanager
async def supervisor(server: RedisServer, told: Told, *options: str) -> AsyncIterator[WorkerProcess]:
    """The command; none of its workers survives the block."""
    env = {
        "REDIS_URL": server.url,
        "TOLD": str(told.path),
        "LOG_LEVEL": "INFO,arq=WARNING,aioinfra.jobs=WARNING",
    }
    started = WorkerProcessOptions(("--lease", "1", "--grace", "1", *options), env=env, cwd=ROOT)
    async with WorkerProcess(TARGET, started) as process:
        try:
            yield process
        finally:
            left = workers_of(process) if process.running else []
            for worker in left:
                os.killpg(worker, signal.SIGKILL)


def workers_of(process: WorkerProcess) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children() if _works(child)]


def _works(child: psutil.Process) -> bool:
    try:
        return child.status() != psutil.STATUS_ZOMBIE and "worker" in child.cmdline()
    except psutil.Error:  # it has just ended
        return False


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_workers_survive_a_crash_and_a_restart_and_end_in_order(
    server: RedisServer, client: JobClient, told: Told, tmp_path: Path
) -> None:
    options = ("--processes", "2", "--concurrency", "1", "--grace", "2")
    async with supervisor(server, told, *options) as process:
        await _crash(process, client, tmp_path / "marker")
        await _restart(process, client, told)
        await _stop(process, client, told)


async def _crash(process: WorkerProcess, client: JobClient, marker: Path) -> None:
    jobs = [await client.enqueue(tasks.pid.job(0.5)) for _ in range(4)]
    before = {await job.result(timeout=20) for job in jobs}
    crashing = await client.enqueue(tasks.crash.job(str(marker)))
    assert await crashing.result(timeout=20) == "second run"  # a stall, which costs no try
    await until(lambda: len(workers_of(process)) == 2, timeout=15)
    assert len(before & set(workers_of(process))) == 1  # the sibling is well
    assert "exit status 7" in process.output


async def _restart(process: WorkerProcess, client: JobClient, told: Told) -> None:
    running = [await client.enqueue(tasks.linger.job(1.0)) for _ in range(2)]
    await until(lambda: len(told.lines("linger")) == 2, timeout=20)
    before = set(workers_of(process))
    os.kill(process.pid, signal.SIGHUP)
    assert {await job.result(timeout=20) for job in running} <= before
    await until(lambda: len(workers_of(process)) == 2 and not before & set(workers_of(process)), timeout=20)
    assert await (await client.enqueue(tasks.pid.job(0))).result(timeout=20) not in before
    assert len(told.lines("linger")) == 2  # nobody ran one of them again


async def _stop(process: WorkerProcess, client: JobClient, told: Told) -> None:
    long = await client.enqueue(tasks.linger.job(30))
    await until(lambda: len(told.lines("linger")) == 3)
    workers = workers_of(process)
    process.terminate()
    began = time.monotonic()
    assert await process.exited() == 0
    assert 1.9 < time.monotonic() - began < 6  # the grace
    assert all(is_gone(worker) for worker in workers)
    assert await long.status() is JobStatus.QUEUED


async def test_workers_are_replaced_after_so_many_jobs_and_none_is_lost_or_run_twice(
    server: RedisServer, client: JobClient, told: Told
) -> None:
    jobs = await client.enqueue_many([tasks.count.job(number) for number in range(25)])
    options = ("--max-jobs-per-child", "10", "--concurrency", "2")
    async with supervisor(server, told, *options, "--burst") as process:
        results = await asyncio.gather(*[job.result(timeout=30) for job in jobs])
        assert await process.exited() == 0  # a burst ends by itself
    runs = Counter(line.split()[0] for line in told.lines())
    assert runs == {f"count-{number}": 1 for number in range(25)}
    assert len(set(results)) >= 2


async def test_a_leak_of_a_megabyte_a_job_stays_under_the_limit_and_workers_end_with_a_killed_supervisor(
    server: RedisServer, client: JobClient, told: Told
) -> None:
    count, limit = 200, 180
    jobs = await client.enqueue_many([tasks.leak.job(number, 1 << 20) for number in range(count)])
    options = ("--max-rss", str(limit), "--concurrency", "4")
    async with supervisor(server, told, *options) as process:
        results = await asyncio.gather(*[job.result(timeout=40) for job in jobs])
        workers = workers_of(process)
        process.kill()
        await until(lambda: all(is_gone(worker) for worker in workers), timeout=5)
    assert max(rss for _, rss in results) < limit << 20
    assert len({pid for pid, _ in results}) >= 2
    runs = Counter(line.split()[0] for line in told.lines())
    assert runs == {f"leak-{number}": 1 for number in range(count)}


async def test_a_worker_with_a_stuck_thread_is_replaced(
    server: RedisServer, client: JobClient, told: Told
) -> None:
    async with supervisor(server, told, "--processes", "1", "--concurrency", "1", "--grace", "0.2"):
        stuck = await client.enqueue(tasks.stuck.job())
        with pytest.raises(JobFailed, match=r"the hard limit of 0.3 s is over"):
            await stuck.result(timeout=20)
        old = int(told.lines("stuck")[0].split()[1])
        assert await (await client.enqueue(tasks.pid.job(0))).result(timeout=8) != old


async def test_a_supervisor_of_nothing_that_works_says_so_and_ends(server: RedisServer, told: Told) -> None:
    options = WorkerProcessOptions(
        ("--processes", "1"), env={"REDIS_URL": server.url, "TOLD": str(told.path)}, cwd=ROOT
    )
    async with WorkerProcess("tests.jobs.supervised_tasks:nothing", options) as process:
        assert await process.exited() == 2
        assert "has no 'nothing'" in process.output
