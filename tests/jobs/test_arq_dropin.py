"""`ArqWorker` in the place of `arq.Worker`: the same settings, functions, hooks, clients and messages."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import logging
import pickle
import re
import signal
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import urlsplit

import arq
import arq.worker
import pytest
from arq import Retry, cron, func
from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.jobs import DeserializationError, Job, JobResult, ResultNotFound
from arq.jobs import JobStatus as ArqStatus
from arq.worker import FailedJobs, JobExecutionFailed, RetryJob

from aioinfra import task
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.arq import ArqCodec, ArqWorker, EngineOptions, worker_from_settings
from aioinfra.jobs.arq.settings import url_of_pool
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.lease import LeaseOptions
from tests.conftest import OwnServerFactory
from tests.fair_time import fair_time
from tests.jobs.kit import running, until, working

pytestmark = [
    pytest.mark.filterwarnings("ignore:ArqWorker reads pickled jobs:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning"),  # arq's own worker
]

Ctx = dict[Any, Any]


@pytest.fixture
def settings(valkey_url: str, request: pytest.FixtureRequest) -> RedisSettings:
    return RedisSettings(unix_socket_path=urlsplit(valkey_url).path, database=getattr(request, "param", 0))


# `run_check` reads every result of its database, also those that other tests have written in other formats.
in_a_database_of_its_own = pytest.mark.parametrize("settings", [7], indirect=True, ids=["db7"])


@pytest.fixture
async def pool(settings: RedisSettings, queue: str) -> AsyncIterator[ArqRedis]:
    """A plain arq producer."""
    opened = await create_pool(settings, default_queue_name=queue)
    yield opened
    await opened.aclose(close_connection_pool=True)


@pytest.fixture
def make(settings: RedisSettings, queue: str) -> Callable[..., ArqWorker]:
    """A worker as an application of arq writes it."""

    def build(*functions: Any, **options: Any) -> ArqWorker:
        defaults: dict[str, Any] = {"redis_settings": settings, "queue_name": queue, "handle_signals": False}
        # A function inside a test has the test in its name.
        named = [func(f, name=f.__name__) if inspect.isfunction(f) else f for f in functions]
        return ArqWorker(named, **{**defaults, **options})

    return build


@asynccontextmanager
async def burst(worker: arq.worker.Worker) -> AsyncIterator[None]:
    """Run a worker to its end; it is closed after the block."""
    worker.burst = True
    try:
        async with asyncio.timeout(20):
            await worker.async_run()
        yield
    finally:
        await worker.close()


async def enqueue(pool: ArqRedis, function: str, *args: Any, **options: Any) -> Job:
    job = await pool.enqueue_job(function, *args, **options)
    assert job is not None
    return job


async def answer(job: Job) -> Any:
    return await job.result(timeout=5, poll_delay=0.02)


# The surface


async def test_every_setting_and_attribute_of_arqs_worker_is_there(settings: RedisSettings) -> None:
    async def f(ctx: Ctx) -> None: ...

    stock = arq.Worker([f], redis_settings=settings, handle_signals=False)
    ours = ArqWorker([f], redis_settings=settings, handle_signals=False)
    assert isinstance(ours, arq.Worker)
    missing = [name for name in vars(stock) if not hasattr(ours, name)]
    assert not missing
    parameters = inspect.signature(arq.Worker).parameters
    defaults = {
        name: p.default for name, p in parameters.items() if name not in ("functions", "redis_settings")
    }
    ArqWorker([f], redis_settings=settings, **{**defaults, "handle_signals": False})
    with pytest.raises(TypeError, match="no_such_setting"):
        ArqWorker([f], no_such_setting=1)
    with pytest.raises(RuntimeError, match="at least one function"):
        ArqWorker([])


async def test_pickle_is_warned_of_once_and_not_when_serialisers_are_given(settings: RedisSettings) -> None:
    async def f(ctx: Ctx) -> None: ...

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            ArqWorker([f], redis_settings=settings, handle_signals=False)
        ArqWorker([f], redis_settings=settings, handle_signals=False, job_deserializer=json.loads)
    assert [str(warning.message)[:30] for warning in caught] == ["ArqWorker reads pickled jobs, "]


async def test_functions_run_with_arqs_ctx_and_plain_clients_see_everything(
    make: Callable[..., ArqWorker], pool: ArqRedis, queue: str
) -> None:
    seen: list[Ctx] = []

    async def add(ctx: Ctx, a: int, b: int = 2) -> int:
        seen.append(ctx)
        return a + b

    async def fail(ctx: Ctx) -> None:
        raise ValueError("no")

    job = await enqueue(pool, "plus", 1, b=5)
    later = await enqueue(pool, "fail", _defer_by=0.2)
    assert [await job.status(), await later.status()] == [ArqStatus.queued, ArqStatus.deferred]
    async with running(make(func(add, name="plus"), fail, ctx={"db": "mine"}, max_jobs=7)):
        assert await answer(job) == 6
        with pytest.raises(ValueError, match="no"):
            await answer(later)
    [ctx] = seen
    assert {"db", "redis", "job_id", "job_try", "enqueue_time", "score"} == set(ctx)
    assert (ctx["db"], ctx["job_id"], ctx["job_try"]) == ("mine", job.job_id, 1)
    info = await job.result_info()
    assert info is not None
    assert (info.function, info.args, info.kwargs, info.success, info.result) == (
        "plus",
        (1,),
        {"b": 5},
        True,
        6,
    )
    assert (info.queue_name, info.job_id, info.job_try) == (queue, job.job_id, 1)
    assert info.enqueue_time == ctx["enqueue_time"]
    assert abs(ctx["enqueue_time"].timestamp() * 1000 - ctx["score"]) <= 2
    assert await job.status() is ArqStatus.complete


async def test_hooks_run_in_arqs_order_around_functions_and_life(
    make: Callable[..., ArqWorker], pool: ArqRedis
) -> None:
    order: list[str] = []

    def hook(name: str) -> Any:
        async def call(ctx: Ctx) -> None:
            order.append(f"{name} {ctx.get('job_try', '')}".strip())
            ctx[name] = True

        return call

    async def work(ctx: Ctx) -> str:
        order.append("work")
        assert ctx["startup"]
        assert ctx["start"]
        if ctx["job_try"] == 1:
            raise Retry
        nested = await ctx["redis"].enqueue_job("inner")
        assert nested is not None
        return str(nested.job_id)

    async def inner(ctx: Ctx) -> None:
        order.append("inner")

    async def after(ctx: Ctx) -> None:
        stored = await ctx["redis"].get(f"arq:result:{ctx['job_id']}")
        order.append(f"after {ctx['job_try']} {stored is not None} {ctx.get('end')}")

    job = await enqueue(pool, "work")
    worker = make(
        work, inner, max_jobs=1, on_startup=hook("startup"), on_shutdown=hook("shutdown"),
        on_job_start=hook("start"), on_job_end=hook("end"), after_job_end=after,
    )  # fmt: skip
    async with burst(worker):
        nested = Job(await answer(job), pool, pool.default_queue_name)
        assert await answer(nested) is None
    assert order == [
        "startup", "start 1", "work", "end 1", "after 1 False True", "start 2", "work", "end 2",
        "after 2 True True", "start 1", "inner", "end 1", "after 1 True True", "shutdown",
    ]  # fmt: skip
    assert (worker.jobs_complete, worker.jobs_retried, worker.jobs_failed) == (2, 1, 0)


@pytest.mark.parametrize("broken", ["on_job_start", "on_job_end", "after_job_end"])
async def test_a_hook_that_fails_does_not_lose_the_job(
    make: Callable[..., ArqWorker],
    pool: ArqRedis,
    broken: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aioinfra.jobs.arq.runnable._HOOK_RETRY", 0.05)

    async def hook(ctx: Ctx) -> None:
        if ctx["job_try"] == 1:
            raise RuntimeError("the hook's own")

    async def work(ctx: Ctx) -> int:
        return int(ctx["job_try"])

    job = await enqueue(pool, "work")
    async with running(make(work, **{broken: hook})):
        assert await answer(job) == (2 if broken == "on_job_start" else 1)
        await until(lambda: f"{broken} of job {job.job_id} failed" in caplog.text)
        assert "the hook's own" in caplog.text


async def test_a_start_hook_that_always_fails_is_the_jobs_error_in_the_end(
    make: Callable[..., ArqWorker], pool: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioinfra.jobs.arq.runnable._HOOK_RETRY", 0.01)

    async def hook(ctx: Ctx) -> None:
        raise RuntimeError("the hook's own")

    async def work(ctx: Ctx) -> None:
        raise AssertionError("it never runs")

    job = await enqueue(pool, "work")
    async with running(make(work, on_job_start=hook, max_tries=3)):
        with pytest.raises(RuntimeError, match="own"):
            await answer(job)
    info = await job.result_info()
    assert info is not None
    assert info.job_try == 3


async def test_the_timeout_is_the_functions_alone(make: Callable[..., ArqWorker], pool: ArqRedis) -> None:
    async def slow_hook(ctx: Ctx) -> None:
        await asyncio.sleep(0.15)

    async def quick(ctx: Ctx) -> str:
        await asyncio.sleep(0.01)
        return "in time"

    async def slow(ctx: Ctx) -> None:
        await asyncio.sleep(60)

    fine, late = await enqueue(pool, "quick"), await enqueue(pool, "slow")
    worker = make(
        quick, func(slow, name="slow", timeout=timedelta(seconds=0.05)), job_timeout=0.1, on_job_start=slow_hook,
        on_job_end=slow_hook,
    )  # fmt: skip
    async with running(worker):
        assert await answer(fine) == "in time"
        with pytest.raises(TimeoutError):
            await answer(late)


async def test_tries_count_as_in_arq(make: Callable[..., ArqWorker], pool: ArqRedis) -> None:
    tries: dict[str, list[int]] = {}

    def note(ctx: Ctx, name: str) -> None:
        tries.setdefault(name, []).append(ctx["job_try"])

    async def always(ctx: Ctx) -> None:
        note(ctx, "always")
        raise Retry(defer=0.01)

    async def error(ctx: Ctx) -> None:
        note(ctx, "error")
        raise ValueError("no retry for an ordinary error")

    async def again(ctx: Ctx) -> str:
        note(ctx, "again")
        if ctx["job_try"] < 3:
            raise RetryJob
        return "third"

    async def late(ctx: Ctx) -> int:
        note(ctx, "late")
        return int(ctx["job_try"])

    jobs = [await enqueue(pool, name) for name in ("always", "error", "again")]
    jobs.append(await enqueue(pool, "late", _job_try=4))
    async with running(make(func(always, name="always", max_tries=2), error, again, late)):
        with pytest.raises(JobExecutionFailed, match="max 2 retries exceeded"):
            await answer(jobs[0])
        with pytest.raises(ValueError, match="no retry"):
            await answer(jobs[1])
        assert await answer(jobs[2]) == "third"
        assert await answer(jobs[3]) == 4
    assert tries == {"always": [1, 2], "error": [1], "again": [1, 2, 3], "late": [4]}


@in_a_database_of_its_own
async def test_without_retry_jobs_a_retry_is_a_failure(
    make: Callable[..., ArqWorker], pool: ArqRedis
) -> None:
    async def again(ctx: Ctx) -> None:
        raise Retry

    job = await enqueue(pool, "again")
    worker = make(again, burst=True)
    with pytest.raises(FailedJobs):
        await worker.run_check(retry_jobs=False)
    with pytest.raises(Retry):
        await answer(job)
    await worker.close()


@in_a_database_of_its_own
async def test_run_check_counts_and_bursts_are_limited(
    make: Callable[..., ArqWorker], pool: ArqRedis
) -> None:
    async def work(ctx: Ctx) -> None:
        await asyncio.sleep(0.01)

    for _ in range(10):
        await enqueue(pool, "work")
    worker = make(work, burst=True)
    assert await worker.run_check(max_burst_jobs=3) == 3
    assert await pool.zcard(pool.default_queue_name) == 7
    assert await worker.run_check(max_burst_jobs=-1) == 10
    await worker.close()


async def test_results_are_kept_as_long_as_settings_say(
    make: Callable[..., ArqWorker], pool: ArqRedis
) -> None:
    async def f(ctx: Ctx) -> int:
        return 1

    functions = [
        func(f, name="default"), func(f, name="none", keep_result=0), func(f, name="short", keep_result=7),
        func(f, name="ever", keep_result_forever=True),
    ]  # fmt: skip
    jobs = [await enqueue(pool, function.name) for function in functions]
    async with burst(make(*functions, keep_result=timedelta(minutes=1))):
        ttls = [await pool.ttl(f"arq:result:{job.job_id}") for job in jobs]
    assert ttls == [60, -2, 7, -1]
    with pytest.raises(ResultNotFound):
        await answer(jobs[1])


async def test_abort_before_and_during_the_run(make: Callable[..., ArqWorker], pool: ArqRedis) -> None:
    started = asyncio.Event()
    cleaned: list[bool] = []

    async def endless(ctx: Ctx) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    deferred = await enqueue(pool, "endless", _defer_by=60)
    current = await enqueue(pool, "endless")
    async with running(make(endless, allow_abort_jobs=True)) as worker:
        await asyncio.wait_for(started.wait(), 5)
        assert await current.status() is ArqStatus.in_progress
        assert await current.abort(timeout=5, poll_delay=0.02)
        assert await deferred.abort(timeout=5, poll_delay=0.02)
        assert worker.jobs_failed == 2
    # arq's client makes a deferred job due before it asks for its abort: it may have started in between.
    assert cleaned in ([True], [True, True])
    assert await pool.zmscore("arq:abort", [current.job_id, deferred.job_id]) == [None, None]


# The same jobs on both workers


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not this one")


async def _ok(ctx: Ctx, text: str, n: int = 1) -> str:
    return text * n


async def _none(ctx: Ctx) -> None: ...


async def _fails(ctx: Ctx) -> None:
    error = ValueError("broken\nin two lines")
    error.extra = {"more": 1}  # type: ignore[attr-defined]  # arq logs it
    raise error


async def _unpicklable(ctx: Ctx) -> Any:
    raise Unpicklable("x")


async def _no_result(ctx: Ctx) -> Any:
    return lambda: None


async def _retries(ctx: Ctx) -> str:
    if ctx["job_try"] == 1:
        raise Retry(defer=0.01)
    return "second"


async def _cancels(ctx: Ctx) -> str:
    if ctx["job_try"] == 1:
        raise asyncio.CancelledError
    return "after a cancellation"


async def _too_often(ctx: Ctx) -> None:
    raise Retry(defer=0.01)


async def _times_out(ctx: Ctx) -> None:
    await asyncio.sleep(5)


FUNCTIONS: list[Any] = [
    _ok, _none, _fails, _unpicklable, _no_result, _retries, _cancels, func(_too_often, max_tries=2),
    func(_times_out, timeout=0.02),
]  # fmt: skip


async def _both_ways(worker: arq.worker.Worker, pool: ArqRedis, caplog: pytest.LogCaptureFixture) -> Any:
    """Enqueue the same jobs, run them to their end; answers results and log lines without what differs by run."""
    names = [(name.__name__ if inspect.isfunction(name) else name.name) for name in FUNCTIONS]
    jobs = [await enqueue(pool, name) for name in names[1:]]
    jobs.append(await enqueue(pool, "_ok", "ab", n=30))
    jobs.append(await enqueue(pool, "_ok", 3, 4, 5))  # too many arguments
    jobs.append(await enqueue(pool, "no_such_function"))
    jobs.append(await enqueue(pool, "_ok", "late", _job_try=9))
    for junk in (None, b"junk"):
        jobs.append(await enqueue(pool, "_ok", "x"))
        key = f"arq:job:{jobs[-1].job_id}"
        await (pool.delete(key) if junk is None else pool.set(key, junk))
    caplog.clear()
    async with burst(worker):
        results = [await job.result_info() for job in jobs]
    lines = sorted(_without_ids(record, jobs) for record in caplog.records if record.name == "arq.worker")
    lines = [line for line in lines if "redis_version" not in line]
    return [_summary(result) for result in results], lines


def _without_ids(record: logging.LogRecord, jobs: list[Job]) -> str:
    text = record.getMessage()
    for at, job in enumerate(jobs):
        text = text.replace(job.job_id, f"<{at}>")
    text = re.sub(r"at 0x[0-9a-f]+", "at", re.sub(r"\s*\d+\.\d+s", " T", text))
    extra = getattr(record, "extra", None)
    return f"{record.levelname} {text} {extra or ''} {'traceback' if record.exc_info else ''}"


def _summary(result: JobResult | None) -> Any:
    assert result is not None
    value = (type(result.result), str(result.result))
    return result.function, result.args, result.kwargs, result.success, result.job_try, value


async def test_results_and_messages_are_those_of_stock_arq(
    settings: RedisSettings, queue: str, pool: ArqRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options: dict[str, Any] = {"redis_settings": settings, "queue_name": queue, "handle_signals": False}
    stock_results, stock_lines = await _both_ways(
        arq.Worker(FUNCTIONS, poll_delay=0.02, **options), pool, caplog
    )
    our_results, our_lines = await _both_ways(ArqWorker(FUNCTIONS, **options), pool, caplog)
    differs = [
        (theirs, ours) for theirs, ours in zip(stock_results, our_results, strict=True) if theirs != ours
    ]
    timed_out = [pair for pair in differs if pair[0][0] == "_times_out"]
    assert [ours[5][0] for _, ours in timed_out] == [
        TimeoutError
    ]  # ours says which limit; arq's text is empty
    assert differs == timed_out
    stock_lines = [line.replace("TimeoutError: ", "TimeoutError:") for line in stock_lines]
    our_lines = [re.sub("TimeoutError: the hard.*over", "TimeoutError:", line) for line in our_lines]
    assert our_lines == stock_lines


async def test_what_ends_without_arqs_classes_can_be_loaded_by_a_client_without_ours(
    make: Callable[..., ArqWorker], pool: ArqRedis
) -> None:
    unknown = await enqueue(pool, "no_such_function")
    expired = await enqueue(pool, "_none")
    await pool.delete(f"arq:job:{expired.job_id}")
    broken = await enqueue(pool, "_none")
    await pool.set(f"arq:job:{broken.job_id}", b"junk")
    async with burst(make(_none)):
        for job, kind, text in (
            (unknown, JobExecutionFailed, "function 'no_such_function' not found"),
            (expired, JobExecutionFailed, "job expired"),
            (broken, DeserializationError, "unable to deserialize job"),
        ):
            with pytest.raises(kind, match=text):
                await answer(job)
            assert b"aioinfra" not in await pool.get(f"arq:result:{job.job_id}")


# Settings


class Base:
    max_jobs = 3
    ctx: ClassVar[Ctx] = {"from": "base"}

    async def on_startup(ctx: Ctx) -> None:  # type: ignore[misc]  # noqa: N805 - arq calls it as a plain function
        ctx["started"] = True

    @staticmethod
    async def on_job_end(ctx: Ctx) -> None:
        ctx["ended"] = True


class Inherited(Base):
    functions: ClassVar[list[Any]] = [func(_ok, name="ok"), "tests.jobs.test_arq_dropin._none"]
    cron_jobs: ClassVar[list[Any]] = [cron(_none, hour=3)]
    keep_result = 5
    something_else = "ignored"


async def test_settings_classes_count_with_what_they_inherit() -> None:
    worker = worker_from_settings(Inherited, handle_signals=False, max_tries=9)
    assert (worker.max_jobs, worker.keep_result_s, worker.max_tries) == (3, 5, 9)
    assert worker.ctx is Base.ctx
    assert set(worker.functions) == {"ok", "tests.jobs.test_arq_dropin._none", "cron:_none"}
    assert worker.on_startup is Base.on_startup
    assert worker.on_job_end is Base.on_job_end
    plain = worker_from_settings({"functions": [_ok], "queue_name": "q", "other": 1, "handle_signals": False})
    assert plain.queue_name == "q"
    with pytest.raises(InvalidArgument, match="neither functions nor cron_jobs"):
        worker_from_settings(Base)


def test_run_is_synchronous_and_ends_on_its_own_in_a_burst(valkey_url: str, queue: str) -> None:
    """As the command line calls it: its own loop, closed connections, no task left."""
    settings = RedisSettings(unix_socket_path=urlsplit(valkey_url).path)

    async def store() -> Job:
        pool = await create_pool(settings, default_queue_name=queue)
        job = await enqueue(pool, "_ok", "x")
        await pool.aclose(close_connection_pool=True)
        return job

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(store())
        worker = ArqWorker(
            [_ok],
            redis_settings=settings,
            queue_name=queue,
            burst=True,
            engine=EngineOptions(lease=LeaseOptions(5)),
        )
        worker.run()
        assert worker.jobs_complete == 1
        assert not asyncio.all_tasks(loop)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def test_arqs_signal_handlers_stop_the_worker(make: Callable[..., ArqWorker], pool: ArqRedis) -> None:
    started = asyncio.Event()
    stopped: list[signal.Signals] = []

    async def work(ctx: Ctx) -> str:
        started.set()
        await asyncio.sleep(0.2)
        return "done"

    for options, status in (
        ({"handle_signals": True, "job_completion_wait": 5}, ArqStatus.complete),
        ({"handle_signals": True}, ArqStatus.queued),
    ):
        job = await enqueue(pool, "work")
        started.clear()
        worker = make(work, **options)
        worker.on_stop = stopped.append
        run = asyncio.create_task(worker.async_run())
        await asyncio.wait_for(started.wait(), 5)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait([run], timeout=5)
        assert run.done()
        await worker.close()
        assert await job.status() is status
    assert stopped == [signal.SIGTERM] * 2
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().remove_signal_handler(number)


async def test_the_health_check_is_arqs(
    make: Callable[..., ArqWorker], pool: ArqRedis, settings: RedisSettings, queue: str
) -> None:
    worker = make(_none, health_check_interval=1)
    async with running(worker):
        assert await until(lambda: _healthy(settings, queue))
        text = await pool.get(f"{queue}:health-check")
        assert b"j_complete=0 j_failed=0 j_retried=0 j_ongoing=0 queued=0" in text
    assert not await _healthy(settings, queue)
    assert repr(worker) == "<Worker j_complete=0 j_failed=0 j_retried=0 j_ongoing=0>"


async def _healthy(settings: RedisSettings, queue: str) -> bool:
    import redis.asyncio

    client = redis.asyncio.Redis(unix_socket_path=settings.unix_socket_path or "")
    try:
        return bool(await client.exists(f"{queue}:health-check"))
    finally:
        await client.aclose()


# Cron


async def test_each_tick_of_a_cron_job_runs_once_in_a_fleet(make: Callable[..., ArqWorker]) -> None:
    ticks: list[tuple[str, int]] = []

    def tick(name: str) -> Any:
        async def run(ctx: Ctx) -> None:
            ticks.append((name, int(ctx["job_id"].rpartition(":")[2])))

        return run

    every_second = set(range(60))
    async with (
        running(make(cron_jobs=[cron(tick("one"), name="tick", second=every_second, microsecond=0)])),
        running(make(cron_jobs=[cron(tick("two"), name="tick", second=every_second, microsecond=0)])),
    ):
        await asyncio.sleep(3.6)
    planned = sorted(at for _, at in ticks)
    assert len(planned) >= 2
    assert all(
        later - earlier == 1_000 for earlier, later in itertools.pairwise(planned)
    )  # none twice, none left out


async def test_what_is_to_run_at_startup_runs_in_a_burst(make: Callable[..., ArqWorker]) -> None:
    ran: list[bool] = []

    async def job(ctx: Ctx) -> None:
        ran.append(True)

    async with burst(make(cron_jobs=[cron(job, hour=3, run_at_startup=True)])):
        assert ran == [True]


async def test_a_tick_that_could_not_be_enqueued_is_not_lost(
    own_server: OwnServerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    ticks: list[int] = []

    async def tick(ctx: Ctx) -> None:
        ticks.append(int(ctx["job_id"].rpartition(":")[2]))  # the planned time, however late it is enqueued

    every_second = set(range(60))
    settings = RedisSettings(unix_socket_path=str(server.socket_path))
    worker = ArqWorker(
        cron_jobs=[cron(tick, second=every_second, microsecond=0)],
        redis_settings=settings,
        handle_signals=False,
    )
    async with running(worker):
        await until(lambda: ticks)
        await asyncio.to_thread(server.kill)
        await until(lambda: "heart beat failed" in caplog.text)
        await asyncio.sleep(1.2)
        await asyncio.to_thread(server.start)
        known = len(ticks)
        await until(lambda: len(ticks) > known + 1)
    ticks.sort()
    assert all(later - earlier == 1_000 for earlier, later in itertools.pairwise(ticks))


# Codecs and foreign producers


async def test_a_plain_producer_with_json_serialisers_feeds_a_worker_of_tasks(
    valkey_url: str, settings: RedisSettings, queue: str
) -> None:
    @task(queue=queue, name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    def to_json(value: Any) -> bytes:
        return json.dumps(value).encode()

    pool = await create_pool(
        settings, default_queue_name=queue, job_serializer=to_json, job_deserializer=json.loads
    )
    async with working(valkey_url, add):
        before = fair_time()
        job = await enqueue(pool, "add", 1, b=2)
        assert await answer(job) == 3
        assert fair_time() - before < 0.5
        info = await job.info()
        assert info is not None
        assert (info.function, list(info.args), info.kwargs) == ("add", [1], {"b": 2})
        assert await job.status() is ArqStatus.complete
    await pool.aclose(close_connection_pool=True)


async def test_our_client_feeds_plain_and_own_workers_in_arqs_codec(
    settings: RedisSettings, make: Callable[..., ArqWorker], queue: str, valkey: RedisClient
) -> None:
    from aioinfra.errors import JobFailed
    from aioinfra.jobs.job import JobRequest

    client = JobClient(valkey, codec=ArqCodec())
    stock = arq.Worker(
        [_ok, _fails], redis_settings=settings, queue_name=queue, handle_signals=False, poll_delay=0.02
    )
    for worker in (stock, make(_ok, _fails)):
        job = await client.enqueue(JobRequest[Any]("_ok", ("ab",), {"n": 2}, queue=queue))
        bad = await client.enqueue(JobRequest[Any]("_fails", queue=queue))
        async with burst(worker):
            assert await job.result(timeout=5) == "abab"
            with pytest.raises(JobFailed, match="ValueError: broken"):
                await bad.result(timeout=5)
            assert await job.status() == "succeeded"
    await client.aclose()


async def test_a_pickled_job_with_headers_runs_on_a_plain_worker(
    settings: RedisSettings, queue: str, pool: ArqRedis
) -> None:
    payload = ArqCodec().encode_job("_ok", ("x",), {}, 1, {"request_id": "r"})
    assert pickle.loads(payload)["h"] == {"request_id": "r"}
    await pool.set(f"arq:job:{queue}:1", payload)
    await pool.zadd(queue, {f"{queue}:1": 1})
    async with burst(arq.Worker([_ok], redis_settings=settings, queue_name=queue, handle_signals=False)):
        assert await answer(Job(f"{queue}:1", pool, queue)) == "x"


async def test_a_thousand_jobs_held_by_plain_workers_do_not_delay_a_fresh_one(
    make: Callable[..., ArqWorker], pool: ArqRedis, queue: str
) -> None:
    started: list[float] = []

    async def note(ctx: Ctx) -> None:
        started.append(time.monotonic())

    held = [f"{queue}:held:{number}" for number in range(1_000)]
    await pool.zadd(queue, dict.fromkeys(held, 1))
    pipe = pool.pipeline(transaction=False)
    for job_id in held:
        pipe.set(f"arq:in-progress:{job_id}", b"1", ex=60)
    await pipe.execute()
    async with running(make(note)):
        latencies = []
        for number in range(10):
            before = time.monotonic()
            await enqueue(pool, "note")
            await until(lambda number=number: len(started) > number, every=0.001)
            latencies.append(started[-1] - before)
    assert sorted(latencies)[5] < 0.3  # the safety poll comes every second
    assert await pool.zscore(queue, held[0]) == 1


# Where arq's settings say the server is


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "redis://localhost:6379?db=0"),
        ({"host": "h", "port": 7, "db": 3}, "redis://h:7?db=3"),
        ({"host": "::1"}, "redis://[::1]:6379?db=0"),
        ({"username": "u:x", "password": "p@/ %"}, "redis://u%3Ax:p%40%2F%20%25@localhost:6379?db=0"),
        (
            {"unix_socket_path": "/a b", "db": 1, "username": "u", "password": "p&q"},
            "unix:///a%20b?db=1&username=u&password=p%26q",
        ),
        (
            {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False},
            "rediss://localhost:6379?db=0&ssl_cert_reqs=none&ssl_check_hostname=False",
        ),
        (
            {"ssl": True, "ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem", "ssl_check_hostname": True},
            "rediss://localhost:6379?db=0&ssl_cert_reqs=required&ssl_ca_certs=%2Fca.pem&ssl_check_hostname=True",
        ),
    ],
)
async def test_the_engine_connects_where_arqs_pool_does(options: dict[str, Any], url: str) -> None:
    made = url_of_pool(ArqRedis(**options))
    assert made == url
    theirs = ArqRedis(**options).connection_pool.connection_kwargs
    kind, ours = RedisClient(made)._address.async_connection()
    same = ("host", "port", "path", "db", "username", "password", "ssl_cert_reqs", "ssl_check_hostname")
    for name in same:
        if name in theirs and name in ours:
            assert (ours[name] or None) == (theirs[name] or None), name
    assert kind is ArqRedis(**options).connection_pool.connection_class


@pytest.mark.parametrize("option", [{"ssl": True, "ssl_ca_data": "..."}, {"credential_provider": object()}])
async def test_what_a_url_cannot_say_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="redis_settings"):
        url_of_pool(ArqRedis(**option))


async def test_a_server_that_evicts_is_warned_of(
    own_server: OwnServerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    settings = RedisSettings(unix_socket_path=str(server.socket_path))
    worker = ArqWorker([_ok], redis_settings=settings, burst=True, handle_signals=False)
    async with burst(worker):
        [line] = [record.getMessage() for record in caplog.records if "allkeys-lru" in record.getMessage()]
        assert "noeviction" in line
