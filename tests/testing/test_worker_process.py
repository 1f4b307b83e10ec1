"""The kit's worker process stands where it says, and what the server knows at each step is what the step means."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from arq.connections import ArqRedis

from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument, LifecycleError
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest
from aioinfra.testing.servers import RedisServer
from aioinfra.testing.worker_process import WorkerProcess, WorkerProcessOptions
from aioinfra.testing.worker_steps import Step
from tests.faults.workload import QUEUE, ROOT, Journal, worker

WORK = JobRequest[int]("faults.work", (0.01,), queue=QUEUE)


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


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


async def test_a_job_stands_at_each_step_in_turn(
    server: RedisServer, client: JobClient, journal: Journal
) -> None:
    async with worker(server.url, journal, stop_at="claim-sent") as process:
        await process.ready()
        job = await client.enqueue(WORK)
        seen = []
        for then in (*list(Step)[1:], None):
            step, jobs = await process.reached()
            assert jobs == (job.id,)
            leased = await server.admin("EXISTS", f"arq:in-progress:{job.id}")
            result = await server.admin("EXISTS", f"arq:result:{job.id}")
            seen.append((step, leased, len(journal.starts), len(journal.ends), result))
            process.release(then)
        assert seen == [
            ("claim-sent", 1, 0, 0, 0),
            ("claimed", 1, 0, 0, 0),
            ("started", 1, 0, 0, 0),
            ("ended", 1, 1, 1, 0),
            ("finish-sent", 0, 1, 1, 1),
            ("finished", 0, 1, 1, 1),
        ]
        assert await job.result(timeout=5) == process.pid
        again = await client.enqueue(WORK)
        assert await again.result(timeout=5) == process.pid


async def test_who_stands_stays_and_only_that_step_is_closed(
    server: RedisServer, client: JobClient, journal: Journal
) -> None:
    async with worker(server.url, journal, "--lease", "0.6") as process:
        await process.ready()
        assert await (await client.enqueue(WORK)).result(timeout=5) == process.pid
        await process.stop_at("started", skip=1)
        passed = await client.enqueue(WORK)
        assert await passed.result(timeout=5) == process.pid
        jobs = [await client.enqueue(WORK) for _ in range(3)]
        held = {(await process.reached()).jobs for _ in jobs}
        assert held == {(job.id,) for job in jobs}
        await asyncio.sleep(1.0)  # beyond the lease, which is renewed: the process lives
        assert await server.admin("EXISTS", *(f"arq:in-progress:{job.id}" for job in jobs)) == 3
        assert len(journal.starts) == 2
        process.release()
        assert {await job.result(timeout=5) for job in jobs} == {process.pid}
        assert len(journal.starts) == 5


async def test_a_worker_that_stands_can_be_frozen_thawed_and_killed(
    server: RedisServer, client: JobClient, journal: Journal
) -> None:
    async with worker(server.url, journal, stop_at="ended") as process:
        await process.ready()
        job = await client.enqueue(WORK)
        await process.reached()
        process.freeze()
        assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
        process.release("finish-sent")
        with pytest.raises(TimeoutError, match="not at claim-sent or claimed"):
            await process.reached(0.3)
        assert await job.status() == "running"
        process.thaw()
        assert (await process.reached()).step is Step.FINISH_SENT
        assert await job.status() == "succeeded"
        process.kill()
        assert await process.exited() == -signal.SIGKILL
        with pytest.raises(LifecycleError, match="ended with -9"):
            await process.reached()


async def test_sigterm_gives_back_what_stands_before_the_end(
    server: RedisServer, client: JobClient, journal: Journal
) -> None:
    async def story(step: str) -> None:
        queue = f"{QUEUE}-{step}"
        arguments = ("--grace", "0.2", "--queues", queue)
        async with worker(server.url, journal, *arguments, stop_at=step) as process:
            await process.ready()
            job = await client.enqueue(replace(WORK, queue=queue))
            await process.reached()
            process.terminate()
            assert await process.exited(30) == 0
            assert await job.status() == "queued"

    await asyncio.gather(story("claimed"), story("started"))
    assert journal.starts == []


async def test_the_end_of_a_broken_target_is_told_with_its_output(
    server: RedisServer, journal: Journal, tmp_path: Path
) -> None:
    options = WorkerProcessOptions(env={"REDIS_URL": server.url}, cwd=tmp_path)
    async with WorkerProcess("no_such_module:service", options) as process:
        with pytest.raises(LifecycleError, match=r"ended with 2(.|\n)*no_such_module"):
            await process.ready()
        assert not process.running


async def test_a_script_is_a_worker_too_and_its_output_is_bounded(
    server: RedisServer, tmp_path: Path
) -> None:
    script = tmp_path / "own_worker.py"
    script.write_text(
        "import sys\n"
        "from aioinfra.jobs.arq import ArqWorker\n"
        "from arq.connections import RedisSettings\n"
        "async def ping(ctx): return 'pong'\n"
        "print('x' * 300_000 + 'the newest')\n"
        "settings = RedisSettings.from_dsn(sys.argv[1])\n"
        "ArqWorker([ping], redis_settings=settings).run()\n"
    )
    options = WorkerProcessOptions((server.url,), stop_at="finished", output_limit=1_000)
    async with WorkerProcess(str(script), options) as process, RedisClient(server.url) as redis:
        await process.ready()
        arq = ArqRedis.from_url(server.url)
        job = await arq.enqueue_job("ping")
        assert job is not None
        assert (await process.reached()).jobs == (job.job_id,)
        assert await redis.execute("EXISTS", f"arq:result:{job.job_id}") == 1
        await arq.aclose()
        assert "the newest" in process.output
        assert len(process.output) == 1_000


PARENT = """
import asyncio, sys
from aioinfra.testing.worker_process import WorkerProcess, WorkerProcessOptions
async def main():
    async with WorkerProcess(sys.argv[1]) as process:
        process.freeze()  # a stopped child hears nothing
        print(process.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


def test_no_worker_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "sleeper.py"
    script.write_text("import time; time.sleep(60)")
    command = [sys.executable, "-c", PARENT, str(script)]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 2
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"arguments": "--lease 2"}, "arguments"),
        ({"stop_at": "lunch"}, "stop_at"),
        ({"skip": -1}, "skip"),
        ({"skip": True}, "skip"),
        ({"output_limit": 1.5}, "output_limit"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], argument: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        WorkerProcessOptions(**options)  # type: ignore[arg-type]  # that is the point
    assert refused.value.argument == argument
