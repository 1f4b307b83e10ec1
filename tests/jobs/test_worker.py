"""A worker's life: when it looks, how it stops, what it gives back, and what idling costs."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import Any

import anyio
import pytest

from aioinfra import task
from aioinfra.backoff import Backoff
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument, JobNotFound
from aioinfra.jobs.arq import ArqWorker
from aioinfra.jobs.claim import QueueOptions
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.context import JobContext
from aioinfra.jobs.job import JobRequest, QueueDepth
from aioinfra.jobs.lease import LeaseOptions
from aioinfra.jobs.run import RunOptions
from aioinfra.jobs.worker import WorkerOptions
from tests.conftest import OwnServerFactory
from tests.fair_time import fair_time
from tests.jobs.kit import Recorder, engine, keys_of, run_burst, running, until, worker_of, working


@task(name="tests.idle")
async def idle() -> None:
    """A job that does nothing."""


class Gate:
    """A task whose runs wait until they are let through, and tell what happened to them."""

    def __init__(self, queue: str, *, stubborn: bool = False) -> None:
        self.open = asyncio.Event()
        self.started: list[int] = []
        self.attempts: list[tuple[int, int]] = []
        self.cancelled: list[int] = []

        @task(queue=queue, name=f"{queue}.gate")
        async def gate(ctx: JobContext, number: int) -> int:
            self.started.append(number)
            self.attempts.append((ctx.attempt, ctx.stalls))
            while True:
                try:
                    await self.open.wait()
                except asyncio.CancelledError:
                    self.cancelled.append(number)
                    if not stubborn:
                        raise
                else:
                    return number

        self.task = gate


async def stop_by(worker: ArqWorker, run: asyncio.Task[None], *signals: signal.Signals) -> float:
    """Signal a worker as its loop's handler would; returns the seconds until it had ended."""
    before = time.monotonic()
    for number in signals:
        worker.handle_sig(number)
        await asyncio.sleep(0.02)
    async with asyncio.timeout(15):
        await asyncio.gather(run, return_exceptions=True)
    return time.monotonic() - before


async def test_sigterm_lets_running_jobs_finish_within_the_grace_and_claims_no_more(
    redis_url: str, client: JobClient, queue: str
) -> None:
    gate = Gate(queue)
    jobs = [await gate.task.delay(number) for number in range(3)]
    worker = worker_of(redis_url, gate.task, options=engine(grace=5.0), concurrency=2)
    run = asyncio.create_task(worker.async_run())
    await until(lambda: len(gate.started) == 2)
    asyncio.get_running_loop().call_later(0.1, gate.open.set)
    assert 0.09 < await stop_by(worker, run, signal.SIGTERM) < 2
    assert sorted([await job.status() for job in jobs]) == ["queued", "succeeded", "succeeded"]
    assert not gate.cancelled
    await worker.close()


async def test_what_outlasts_the_grace_is_given_back_without_a_try_or_a_stall(
    redis_url: str, redis: RedisClient, client: JobClient, queue: str
) -> None:
    gate = Gate(queue)
    job = await gate.task.delay(7)
    before = await redis.execute("ZSCORE", queue, job.id)
    worker = worker_of(redis_url, gate.task, options=engine(grace=0.2))
    run = asyncio.create_task(worker.async_run())
    await until(lambda: gate.started)
    assert 0.19 < await stop_by(worker, run, signal.SIGTERM) < 2
    assert gate.cancelled == [7]
    assert await redis.execute("ZSCORE", queue, job.id) == before
    assert await keys_of(redis, job.id) == {"arq:job"}
    await worker.close()
    gate.open.set()
    async with working(redis_url, gate.task):
        assert await job.result(timeout=5) == 7
    assert gate.attempts == [(1, 0), (1, 0)]


@pytest.mark.parametrize("grace", [30.0, 0.0])
async def test_a_second_signal_or_no_grace_gives_back_at_once(
    redis_url: str, client: JobClient, queue: str, grace: float
) -> None:
    gate = Gate(queue)
    job = await gate.task.delay(1)
    worker = worker_of(redis_url, gate.task, options=engine(grace=grace))
    run = asyncio.create_task(worker.async_run())
    await until(lambda: gate.started)
    signals = [signal.SIGTERM, signal.SIGTERM] if grace else [signal.SIGTERM]
    assert await stop_by(worker, run, *signals) < 2
    assert await job.status() == "queued"
    await worker.close()


async def test_a_cancelled_worker_gives_back_what_it_claimed_last(
    own_server: OwnServerFactory, queue: str
) -> None:
    """Cancelled while the claim call is on its way: the jobs that it brings belong to nobody else."""
    server = own_server()
    async with RedisClient(server.url) as redis:
        client = JobClient(redis)
        worker = worker_of(
            server.url, idle, options=engine(queues=QueueOptions({queue: 1}), safety_poll=0.05)
        )
        run = asyncio.create_task(worker.async_run())
        await until(lambda: worker._job_worker)
        await asyncio.sleep(0.1)
        await redis.execute("CLIENT", "PAUSE", 600, "WRITE")
        stored = asyncio.create_task(client.enqueue_many([JobRequest[Any](idle.name, queue=queue)] * 20))
        await asyncio.sleep(0.3)
        worker.handle_sig(signal.SIGTERM)
        await asyncio.gather(run, return_exceptions=True)
        jobs = await stored
        await asyncio.sleep(0.05)
        for job in jobs:
            assert await keys_of(redis, job.id) in ({"arq:job"}, {"arq:result"})
        await worker.close()
        await client.aclose()


async def test_a_loop_at_its_end_gives_jobs_back_and_buries_none(
    redis_url: str, redis: RedisClient, client: JobClient, queue: str
) -> None:
    """asyncio.run cancels every task when its main function raises: no job may fail of that."""
    gate = Gate(queue)
    jobs = [await gate.task.delay(number) for number in range(3)]

    async def crash() -> None:
        worker = worker_of(redis_url, gate.task)
        run = asyncio.create_task(worker.async_run())
        gate.open = asyncio.Event()
        tidying = asyncio.create_task(tidy(worker, run))
        await until(lambda: len(gate.started) == 3)
        assert not run.done()
        assert not tidying.done()
        raise RuntimeError("the application's own")

    async def tidy(worker: ArqWorker, run: asyncio.Task[None]) -> None:
        """Close the sockets that such an application leaves to the garbage collector."""
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.wait([run])
            await worker.pool.aclose(close_connection_pool=True)

    with pytest.raises(RuntimeError, match="own"):
        await asyncio.to_thread(asyncio.run, crash())
    assert {await job.status() for job in jobs} <= {"queued", "deferred"}
    assert await client.dead_letters(queue) == []
    for job in jobs:
        assert await keys_of(redis, job.id) == {"arq:job"}


async def test_a_job_that_ignores_its_cancellation_does_not_keep_the_worker(
    redis_url: str,
    client: JobClient,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("aioinfra.jobs.worker._CANCEL_GRACE", 0.2)
    gate = Gate(queue, stubborn=True)
    await gate.task.delay(1)
    worker = worker_of(redis_url, gate.task, options=engine(grace=0.05))
    run = asyncio.create_task(worker.async_run())
    await until(lambda: gate.started)
    assert await stop_by(worker, run, signal.SIGTERM) < 2
    assert "1 jobs do not end when cancelled" in caplog.text
    await worker.close()
    stray = [other for other in asyncio.all_tasks() if "_run" in repr(other.get_coro())]
    gate.open.set()
    await asyncio.gather(*stray)


async def test_a_pause_claims_nothing_and_lets_running_jobs_go_on(
    redis_url: str, client: JobClient, queue: str
) -> None:
    gate = Gate(queue)
    first = await gate.task.delay(1)
    async with working(redis_url, gate.task) as worker:
        await until(lambda: gate.started)
        worker.allow_pick_jobs = False
        second = await gate.task.delay(2)
        gate.open.set()
        assert await first.result(timeout=5) == 1
        await asyncio.sleep(0.1)
        assert await second.status() == "queued"
        worker.allow_pick_jobs = True
        assert await second.result(timeout=5) == 2


async def test_claims_taken_ahead_are_given_back_when_runs_get_long(
    redis_url: str, client: JobClient, queue: str
) -> None:
    """One long job must not keep the others from a worker that is idle."""
    gate = Gate(queue)
    seen = Recorder()
    options = engine(observer=seen, queues=QueueOptions({queue: 1}))
    async with working(redis_url, idle, gate.task, options=options, concurrency=2):
        await client.enqueue_many([JobRequest[Any](idle.name, queue=queue)] * 300)
        await until(lambda: seen.outcomes["succeeded"] == 300)  # short runs: it takes claims ahead now
        jobs = await client.enqueue_many([gate.task.job(number) for number in range(10)])
        await until(lambda: len(gate.started) == 2)
        since = fair_time()
        await until(lambda: seen.claims == 304)
        async with working(redis_url, gate.task):
            await until(lambda: len(gate.started) == 10)
            assert fair_time() - since < 1
            gate.open.set()
            assert sorted([await job.result(timeout=5) for job in jobs]) == list(range(10))
    assert set(gate.attempts) == {(1, 0)}
    assert len(gate.started) == 10


async def test_a_job_whose_lease_lapsed_here_is_not_run_twice_here(
    redis_url: str, redis: RedisClient, client: JobClient, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After a long outage a worker's own claim call finds the jobs that it is running."""
    gate = Gate(queue)
    job = await gate.task.delay(1)
    async with working(redis_url, gate.task):
        await until(lambda: gate.started)
        await redis.execute("DEL", f"arq:in-progress:{job.id}")
        await redis.execute("ZADD", queue, 1, job.id)
        await until(lambda: "had lapsed" in caplog.text)
        gate.open.set()
        assert await job.result(timeout=5) == 1
    assert gate.started == [1]
    assert await keys_of(redis, job.id) == {"arq:result"}


async def test_a_worker_is_woken_by_an_enqueue_and_not_by_polling(
    redis_url: str, client: JobClient, queue: str
) -> None:
    started: list[float] = []

    @task(queue=queue)
    async def note() -> None:
        started.append(time.monotonic())

    async with working(redis_url, note, options=engine(safety_poll=30.0)):
        latencies = []
        for number in range(20):
            await asyncio.sleep(0.01)
            before = time.monotonic()
            await (await note.delay()).result(timeout=5)
            latencies.append(started[number] - before)
    assert sorted(latencies)[10] < 0.02


async def test_where_tracking_is_refused_the_safety_poll_finds_new_jobs_and_results_are_polled(
    own_server: OwnServerFactory, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    async with RedisClient(server.url) as admin:
        rules = ("on", ">secret", "~*", "+@all", "-client|tracking", "resetchannels", "-info")
        await admin.execute("ACL", "SETUSER", "worker", *rules)
    url = f"unix://worker:secret@{server.socket_path}?db=0"

    @task(queue=queue)
    async def answer(number: int) -> int:
        return number

    async with RedisClient(url) as redis:
        client = JobClient(redis)
        answer.client = client
        async with working(url, answer):
            await until(lambda: "refuses client tracking" in caplog.text)
            await asyncio.sleep(0.3)
            before = fair_time()
            assert await (await answer.delay(3)).result(timeout=5) == 3
            assert fair_time() - before < 1.6
            late = time.time() + 0.3
            job = await answer.options(at=late)(4)
            assert await job.result(timeout=5) == 4
        await client.aclose()
    assert "secret" not in caplog.text


async def test_an_idle_worker_costs_at_most_ten_commands_a_second(own_server: OwnServerFactory) -> None:
    server = own_server(kind="redis")
    queues = QueueOptions({"reports": 5, "email": 3, "analytics": 2, "cleanup": 1})

    async def commands(redis: RedisClient) -> int:
        info = dict(
            line.split(":", 1)
            for line in (await redis.execute("INFO", "stats")).decode().split()
            if ":" in line
        )
        return int(info["total_commands_processed"])

    async with RedisClient(server.url) as redis, working(server.url, idle, options=engine(queues=queues)):
        await asyncio.sleep(1.0)  # it has started
        before = await commands(redis)
        await asyncio.sleep(2.0)
        assert (await commands(redis) - before) / 2.0 <= 10


async def test_the_observer_hears_of_every_step(redis_url: str, client: JobClient, queue: str) -> None:
    seen = Recorder()

    @task(queue=queue, retry=Backoff(tries=2, base=0))
    async def work(fail: bool) -> None:
        if fail:
            raise ValueError

    observed = JobClient(client._store._client, observer=seen)  # type: ignore[attr-defined]  # the store's own pool
    await observed.enqueue_many([work.job(False), work.job(True)])
    await run_burst(redis_url, work, options=engine(observer=seen))
    assert seen.stored == 2
    assert seen.claims == len(seen.starts) == 3
    assert seen.outcomes == {"succeeded": 1, "retried": 1, "dead": 1}
    assert sum(seen.batches) == 3
    assert seen.depths[queue] >= 0
    assert all(0 <= waited < 5 for waited in seen.waited)
    await observed.aclose()


async def test_an_observer_and_a_log_that_fail_do_not_touch_the_jobs(
    redis_url: str, redis: RedisClient, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"no {name}")

    broken: Any = Broken()

    @task(queue=queue)
    async def work() -> int:
        return 1

    work.client = JobClient(redis, observer=broken)
    async with working(redis_url, work, options=engine(observer=broken, log=broken)) as worker:
        for _ in range(3):
            assert await (await work.delay()).result(timeout=5) == 1
        assert worker.jobs_complete == 3
    assert caplog.text.count("the observer's finished failed") == 1
    assert "could not be run here" not in caplog.text
    await work.client.aclose()


async def test_a_rolling_restart_loses_nothing_and_costs_no_try(
    redis_url: str, client: JobClient, queue: str
) -> None:
    completed: list[int] = []
    attempts: set[tuple[int, int]] = set()

    @task(queue=queue)
    async def work(ctx: JobContext, number: int) -> int:
        attempts.add((ctx.attempt, ctx.stalls))
        await asyncio.sleep(0.05 if number % 20 else 0.5)  # some outlast the grace
        completed.append(number)
        return number

    def start() -> tuple[ArqWorker, asyncio.Task[None]]:
        worker = worker_of(redis_url, work, options=engine(grace=0.1), concurrency=10)
        return worker, asyncio.create_task(worker.async_run())

    fleet = [start() for _ in range(3)]
    jobs = await client.enqueue_many([work.job(number) for number in range(300)])
    for _ in range(3):
        await asyncio.sleep(0.15)
        old, run = fleet.pop(0)
        fleet.append(start())
        old.handle_sig(signal.SIGTERM)
        await asyncio.gather(run, return_exceptions=True)
        await old.close()
    assert [await job.result(timeout=10) for job in jobs] == list(range(300))
    assert sorted(completed) == list(range(300))
    assert attempts == {(1, 0)}
    for worker, run in fleet:
        await worker.close()
        await asyncio.gather(run, return_exceptions=True)


async def test_tasks_may_use_every_structure_of_asyncio_under_their_hard_limit(
    redis_url: str, client: JobClient, queue: str
) -> None:
    """The first step of a task is made before its timer is set: nobody may notice."""

    @task(queue=queue, hard_limit=5)
    async def structured(first: str) -> list[str]:
        if first == "await":
            await asyncio.sleep(0)
        said = [first]
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.001))
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(60)
        said.append(f"moved on {scope.cancelled_caught}")
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            said.append("own timeout")
        async with anyio.create_task_group() as other:
            other.start_soon(anyio.sleep, 60)
            other.cancel_scope.cancel()
        child = asyncio.create_task(asyncio.sleep(60))
        child.cancel()
        try:
            await child
        except asyncio.CancelledError:
            said.append("child cancelled")
        current = asyncio.current_task()
        said.append(f"cancelling {current.cancelling() if current else None}")
        return said

    async with working(redis_url, structured):
        for first in ("plain", "await"):
            said = await (await structured.delay(first)).result(timeout=5)
            assert said == [first, "moved on True", "own timeout", "child cancelled", "cancelling 0"]


async def test_a_worker_starts_before_its_server_does(
    own_server: OwnServerFactory, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = own_server(start=False)

    @task(queue=queue)
    async def answer() -> int:
        return 42

    async with working(server.url, answer):
        await until(lambda: "cannot claim jobs" in caplog.text)
        server.start()
        async with RedisClient(server.url) as redis:
            client = JobClient(redis)
            answer.client = client
            before = fair_time()
            assert await (await answer.delay()).result(timeout=5) == 42
            assert fair_time() - before < 1.5
            await client.aclose()
    assert "claiming jobs again" in caplog.text


async def test_a_burst_waits_for_deferred_jobs_and_for_what_it_started(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def slow(number: int) -> int:
        await asyncio.sleep(0.05)
        return number

    jobs = [await slow.delay(1), await slow.options(delay=0.2)(2)]
    worker = await run_burst(redis_url, slow)
    assert [await job.result(timeout=0) for job in jobs] == [1, 2]
    assert worker.jobs_complete == 2

    jobs = [await slow.delay(number) for number in range(5)]
    worker = await run_burst(redis_url, slow, max_burst_jobs=3)
    assert worker.jobs_complete == 3
    assert await client.depths([queue]) == {queue: QueueDepth(2, 0, 0)}


async def test_a_worker_of_many_tasks_serves_all_their_queues(
    redis_url: str, client: JobClient, prefix: str
) -> None:
    @task(queue=f"{prefix}a")
    async def one() -> int:
        return 1

    @task(queue=f"{prefix}b")
    async def two() -> int:
        return 2

    async with working(redis_url, one, two):
        jobs = [await one.delay(), await two.delay(), await one.options(queue=f"{prefix}b")()]
        assert [await job.result(timeout=5) for job in jobs] == [1, 2, 1]


async def test_nothing_is_left_behind_after_many_jobs(redis_url: str, client: JobClient, queue: str) -> None:
    @task(queue=queue, keep_result=0, retry=Backoff(tries=2, base=0))
    async def work(number: int) -> None:
        if number % 10 == 0:
            raise ValueError

    worker = worker_of(redis_url, work)
    async with running(worker):
        jobs = await client.enqueue_many([work.job(number) for number in range(500)])
        await asyncio.gather(*(job.result(timeout=10) for job in jobs), return_exceptions=True)
        await until(lambda: worker.jobs_complete + worker.jobs_failed == 500)
        engine_worker = worker._job_worker
        assert engine_worker is not None
        slots, leases = engine_worker._slots, engine_worker._parts.leases
        await until(lambda: not leases._held)
        assert [len(kept) for kept in (slots._runs, slots._by_id, slots._ahead, slots.tasks)] == [0] * 4
        assert engine_worker._parts.finisher.outstanding == 0
        assert not client._replies._waiting
    with pytest.raises(JobNotFound):
        await jobs[1].result(timeout=1)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: WorkerOptions(concurrency=0), "concurrency"),
        (lambda: WorkerOptions(concurrency=True), "concurrency"),
        (lambda: WorkerOptions(safety_poll=0), "safety_poll"),
        (lambda: WorkerOptions(grace=-1), "grace"),
        (lambda: WorkerOptions(grace=float("nan")), "grace"),
        (lambda: LeaseOptions(duration=0.1), "duration"),
        (lambda: LeaseOptions(stall_limit=0.5), "stall_limit"),
        (lambda: RunOptions(max_stalls=-1), "max_stalls"),
        (lambda: RunOptions(unknown_task_grace=float("inf")), "unknown_task_grace"),
    ],
)
def test_wrong_options_are_named(make: Any, argument: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make()
    assert caught.value.argument == argument
