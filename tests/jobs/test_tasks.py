"""A task's way from `delay` to its result, through a real worker."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import anyio.from_thread
import msgspec
import pytest

from aioinfra import context, task
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import (
    EncodeError,
    InvalidArgument,
    JobAborted,
    JobFailed,
    JobNotFound,
    NotInstalled,
    WrongType,
)
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.context import JobContext
from aioinfra.jobs.job import JobRequest, JobStatus, Progress, QueueDepth
from aioinfra.jobs.task import Task, tasks_of
from tests.fair_time import fair_time
from tests.jobs.kit import Recorder, engine, keys_of, run_burst, until, working


@dataclass
class Order:
    """A typical argument: nested, with types that JSON does not have."""

    number: int
    placed: datetime
    price: Decimal
    lines: dict[int, set[str]]
    note: bytes | None = None


@dataclass(slots=True)
class Receipt:
    order: uuid.UUID
    total: Decimal | None


ORDER = Order(7, datetime(2026, 1, 2, tzinfo=UTC), Decimal("9.90"), {1: {"a", "b"}, 2: set()}, b"\x00\xff")
RECEIPT = Receipt(uuid.UUID(int=5), None)


async def test_arguments_and_results_keep_their_types(redis_url: str, client: JobClient, queue: str) -> None:
    @task(queue=queue)
    async def bill(order: Order, *more: Order, rush: bool = False, **rest: tuple[int, str]) -> Receipt:
        assert [order, *more] == [ORDER, ORDER]
        assert rush
        assert rest == {"extra": (1, "one")}
        return RECEIPT

    async with working(redis_url, bill):
        job = await bill.delay(ORDER, ORDER, rush=True, extra=(1, "one"))
        assert await job.result(timeout=5) == RECEIPT
        assert await job.get(0) == RECEIPT
        [same] = await client.enqueue_many([bill.job(ORDER, ORDER, rush=True, extra=(1, "one"))])
        assert await same.result(timeout=5) == RECEIPT


async def test_sync_tasks_run_in_threads_side_by_side_and_keep_the_correlation_id(
    redis_url: str, client: JobClient, queue: str
) -> None:
    together = threading.Barrier(3)

    @task(queue=queue)
    def meet(ctx: JobContext, number: int) -> tuple[int, str | None]:
        together.wait(5)
        anyio.from_thread.run(ctx.progress, number, 3)
        assert threading.current_thread() is not threading.main_thread()
        return number, context.request_id()

    context.set_request_context(request_id="from-the-request")
    async with working(redis_url, meet):
        jobs = [await meet.delay(number) for number in range(3)]
        results = [await job.result(timeout=5) for job in jobs]
        assert results == [(number, "from-the-request") for number in range(3)]
        assert await jobs[2].progress() == Progress(2, 3)


async def test_a_plain_function_that_wraps_an_async_one_is_awaited(
    redis_url: str, client: JobClient, queue: str
) -> None:
    async def inner(number: int) -> int:
        await asyncio.sleep(0)
        return number + 1

    @task(queue=queue)
    def outer(number: int) -> Any:
        return inner(number)

    async with working(redis_url, outer):
        assert await (await outer.delay(1)).result(timeout=5) == 2


async def test_the_job_context_is_injected_wherever_it_stands(
    redis_url: str, client: JobClient, queue: str
) -> None:
    seen: list[JobContext] = []

    @task(queue=queue)
    async def first(ctx: JobContext, name: str) -> str:
        seen.append(ctx)
        return name

    @task(queue=queue)
    async def middle(name: str, ctx: JobContext | None = None, times: int = 2) -> str:
        assert ctx is not None
        return name * times

    @task(queue=queue)
    async def by_name(name: str, *, ctx: JobContext | None = None) -> str:
        assert ctx is not None
        return f"{name} {ctx.attempt}"

    requests: list[JobRequest[Any]] = [
        JobRequest(middle.name, ("a",), queue=queue),
        JobRequest[Any](middle.name, ("a", 3), queue=queue),
        JobRequest[Any](by_name.name, (), {"name": "a"}, queue=queue),
    ]
    before = time.time()
    async with working(redis_url, first, middle, by_name):
        job = await first.options(job_id=f"{queue}:chosen")("ada")
        assert await job.result(timeout=5) == "ada"
        handles = await client.enqueue_many(requests)
        assert [await handle.result(timeout=5) for handle in handles] == ["aa", "aaa", "a 1"]
    [ctx] = seen
    assert (ctx.job_id, ctx.queue, ctx.task) == (f"{queue}:chosen", queue, first.name)
    assert (ctx.attempt, ctx.stalls) == (1, 0)
    assert before - 0.01 <= ctx.enqueued_at <= time.time()


def test_a_context_that_type_checkers_would_demand_of_the_enqueuer_is_refused() -> None:
    async def middle(name: str, ctx: JobContext) -> None: ...
    async def by_name(name: str, *, ctx: JobContext) -> None: ...

    for function in (middle, by_name):
        with pytest.raises(InvalidArgument, match="ctx: must be the first parameter"):
            task(function)


async def test_progress_is_read_while_the_job_runs(redis_url: str, client: JobClient, queue: str) -> None:
    go_on = asyncio.Event()

    @task(queue=queue)
    async def build(ctx: JobContext) -> None:
        await ctx.progress(3, 10, "hashing")
        await go_on.wait()
        for wrong in (float("nan"), True, "3", None):
            with pytest.raises(InvalidArgument, match="done"):
                await ctx.progress(wrong)  # type: ignore[arg-type]  # that is the test

    async with working(redis_url, build):
        job = await build.delay()
        assert await until(job.progress) == Progress(3, 10, "hashing")
        assert await job.status() is JobStatus.RUNNING
        assert await client.depths([queue]) == {queue: QueueDepth(0, 0, 1)}
        go_on.set()
        await job.result(timeout=5)


async def test_status_follows_the_job_through_its_life(redis_url: str, client: JobClient, queue: str) -> None:
    go_on = asyncio.Event()

    @task(queue=queue)
    async def work(fail: bool = False) -> None:
        await go_on.wait()
        if fail:
            raise ValueError("no")

    good, bad = await work.delay(), await work.delay(True)
    late = await work.options(delay=60)()
    assert [await job.status() for job in (good, bad, late)] == ["queued", "queued", "deferred"]
    async with working(redis_url, work):
        await until(lambda: _is(good, JobStatus.RUNNING))
        go_on.set()
        await good.result(timeout=5)
        with pytest.raises(JobFailed, match="ValueError: no"):
            await bad.result(timeout=5)
    assert [await job.status() for job in (good, bad, late)] == ["succeeded", "failed", "deferred"]
    assert await client.handle("made-up", queue).status() is JobStatus.NOT_FOUND
    info = await good.info()
    assert info is not None
    assert (info.function, info.attempt, info.queue, info.job_id) == (work.name, 1, queue, good.id)
    assert info.enqueued_ms <= info.started_ms <= info.finished_ms


async def _is(job: Any, status: JobStatus) -> bool:
    return await job.status() is status


async def test_waiting_for_a_result_is_bounded_and_honest(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue, keep_result=0)
    async def forgotten() -> int:
        return 1

    unheard = await forgotten.delay()
    started = fair_time()
    with pytest.raises(TimeoutError):
        await unheard.result(timeout=0.05)
    with pytest.raises(TimeoutError):
        await unheard.result(timeout=0)
    assert fair_time() - started < 1
    for wrong in (-1, float("nan"), True, "1"):
        with pytest.raises(InvalidArgument, match="timeout"):
            await unheard.result(timeout=wrong)  # type: ignore[arg-type]  # that is the test
    async with working(redis_url, forgotten):
        with pytest.raises(JobNotFound):
            await unheard.result(timeout=5)
    with pytest.raises(JobNotFound):
        await client.handle("made-up", queue).result(timeout=5)


async def test_a_failure_shows_the_users_frames_first(redis_url: str, client: JobClient, queue: str) -> None:
    def deeper() -> None:
        raise KeyError("missing")

    @task(queue=queue)
    async def broken() -> None:
        await asyncio.sleep(0)
        deeper()

    @task(queue=queue)
    def broken_in_a_thread() -> None:
        deeper()

    async with working(redis_url, broken, broken_in_a_thread):
        for failing in (broken, broken_in_a_thread):
            with pytest.raises(JobFailed) as caught:
                await (await failing.delay()).result(timeout=5)
            assert (caught.value.error_type, caught.value.error_message) == ("KeyError", "'missing'")
            assert [frame[2] for frame in caught.value.traceback] == [failing.__name__, "deeper"]


async def test_the_hard_limit_ends_a_run_and_says_where_it_was(
    redis_url: str, client: JobClient, queue: str
) -> None:
    cleaned = asyncio.Event()

    @task(queue=queue, hard_limit=0.1)
    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)  # clean-up may await
            cleaned.set()

    @task(queue=queue, hard_limit=0.05)
    def endless_thread() -> None:
        time.sleep(0.2)

    @task(queue=queue, hard_limit=5)
    async def own_timeout() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    async with working(redis_url, endless, endless_thread, own_timeout) as worker:
        with pytest.raises(JobFailed, match=r"TimeoutError: the hard limit of 0\.1 s is over") as caught:
            await (await endless.delay()).result(timeout=5)
        assert cleaned.is_set()
        assert caught.value.traceback[0][2] == "endless"
        with pytest.raises(JobFailed, match="hard limit"):
            await (await endless_thread.delay()).result(timeout=5)
        with pytest.raises(JobFailed, match=r"TimeoutError: $"):
            await (await own_timeout.delay()).result(timeout=5)
        await until(lambda: worker.jobs_failed == 3)  # the thread keeps its slot until it returns


async def test_a_thousand_jobs_at_once(redis_url: str, client: JobClient, queue: str) -> None:
    seen = Recorder()

    @task(queue=queue)
    async def double(number: int) -> int:
        return number * 2

    handles = await client.enqueue_many([double.job(number) for number in range(1_000)])
    assert await client.depths([queue]) == {queue: QueueDepth(1_000, 0, 0)}
    async with working(redis_url, double, options=engine(observer=seen)):
        results = await asyncio.gather(*(handle.result(timeout=10) for handle in handles))
        assert results == [number * 2 for number in range(1_000)]
    assert len({handle.id for handle in handles}) == 1_000
    assert seen.outcomes == {"succeeded": 1_000}
    assert seen.claims == len(seen.starts) == sum(seen.batches) == 1_000


async def test_a_bulk_larger_than_what_may_wait_is_stored_whole(valkey: RedisClient, queue: str) -> None:
    from aioinfra.connection.batch import BatchLimits
    from aioinfra.jobs.client import ClientOptions

    small = JobClient(valkey, options=ClientOptions(batch=BatchLimits(max_items=10, max_waiting=25)))
    handles = await small.enqueue_many([JobRequest[Any]("t", queue=queue) for _ in range(203)])
    assert all(handle.created for handle in handles)
    assert (await small.depths([queue]))[queue].queued == 203
    await small.aclose()


async def test_a_chosen_id_is_stored_once_and_free_again_without_its_result(
    redis_url: str, redis: RedisClient, client: JobClient, queue: str
) -> None:
    runs: list[int] = []

    @task(queue=queue)
    async def count(number: int) -> int:
        runs.append(number)
        return number

    job_id = f"{queue}:once"
    many = await asyncio.gather(*(count.options(job_id=job_id)(number) for number in range(100)))
    assert [job.created for job in many].count(True) == 1
    async with working(redis_url, count):
        results = {await job.result(timeout=5) for job in many}
        again = await count.options(job_id=job_id)(101)
        assert not again.created
        assert await again.result(timeout=5) == results.pop()
        await redis.execute("DEL", f"arq:result:{job_id}")
        fresh = await count.options(job_id=job_id)(102)
        assert fresh.created
        assert await fresh.result(timeout=5) == 102
    assert len(runs) == 2
    assert await keys_of(redis, job_id) == {"arq:result"}


async def test_the_request_id_follows_the_job_into_the_jobs_that_it_enqueues(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def inner(ctx: JobContext) -> tuple[str | None, str]:
        assert ctx.request_id == context.request_id()
        return ctx.request_id, str(context.current()["job_id"])

    @task(queue=queue)
    async def outer() -> tuple[tuple[str | None, str], str]:
        job = await inner.delay()
        return await job.result(timeout=5), job.id

    async with working(redis_url, inner, outer):
        with context.bound(request_id="req-42"):
            job = await outer.delay()
        (request_id, seen_id), inner_id = await job.result(timeout=5)
        assert request_id == "req-42"
        assert seen_id == inner_id
        orphan, _ = await (await inner.delay()).result(timeout=5)
        assert context.is_valid_id(orphan)
        assert orphan != "req-42"


async def test_deferred_jobs_start_on_time(redis_url: str, client: JobClient, queue: str) -> None:
    started: dict[int, float] = {}

    @task(queue=queue)
    async def note(number: int) -> None:
        started[number] = time.time()

    due = {number: time.time() + 0.2 + number * 0.06 for number in range(8)}
    async with working(redis_url, note):
        jobs = [await note.options(at=at)(number) for number, at in due.items()]
        due[99] = time.time() + 0.3
        jobs.append(await note.options(delay=0.3)(99))
        await asyncio.gather(*(job.result(timeout=5) for job in jobs))
    lateness = sorted(started[number] - due[number] for number in due)
    assert lateness[0] > -0.002  # never early, but for what a millisecond's rounding does
    assert lateness[len(lateness) // 2] < 0.05


async def test_priorities_order_the_jobs_of_a_queue(redis_url: str, client: JobClient, queue: str) -> None:
    order: list[int] = []
    waited = Recorder()

    @task(queue=queue, priority=5)
    async def note(number: int) -> None:
        order.append(number)

    for number, priority in ((0, None), (1, 0), (2, 100), (3, 50), (4, None)):
        await note.options(priority=priority)(number)
        await asyncio.sleep(0.002)  # the due time's resolution is a millisecond
    await run_burst(redis_url, note, concurrency=1, options=engine(observer=waited))
    assert order == [2, 3, 0, 4, 1]
    assert max(waited.waited) < 5  # seconds since they were due, whatever the priority


async def test_a_job_that_waited_longer_than_it_may_is_not_run(
    redis_url: str, client: JobClient, queue: str
) -> None:
    ran: list[int] = []

    @task(queue=queue)
    async def note() -> None:
        ran.append(1)

    job = await note.options(expires=0.05)()
    await asyncio.sleep(0.1)
    await run_burst(redis_url, note)
    with pytest.raises(JobFailed, match="expired"):
        await job.result(timeout=5)
    assert not ran
    [letter] = await client.dead_letters(queue)
    assert (letter.reason, letter.payload) == ("expired", b"")


async def test_a_raised_cancellation_is_the_tasks_own_error(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def gives_up() -> None:
        raise asyncio.CancelledError

    @task(queue=queue)
    async def exits() -> None:
        raise SystemExit(3)

    @task(queue=queue)
    async def groups() -> None:
        raise BaseExceptionGroup("several", [asyncio.CancelledError(), ValueError("one")])

    async with working(redis_url, gives_up, exits, groups):
        for failing, kind in ((gives_up, "asyncio.exceptions.CancelledError"), (exits, "SystemExit"),
                              (groups, "BaseExceptionGroup")):  # fmt: skip
            with pytest.raises(JobFailed) as caught:
                await (await failing.delay()).result(timeout=5)
            assert caught.value.error_type == kind


async def test_what_is_wrong_with_a_request_is_said_before_any_io(prefix: str) -> None:
    nowhere = JobClient(RedisClient("unix:///does/not/exist"))

    @task
    async def f(a: int, timeout: float = 1.0, queue: str = "x") -> None: ...

    f.client = nowhere
    for wrong, names in (
        ({"delay": -1}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": True}, "delay"),
        ({"at": float("inf")}, "at"),
        ({"delay": 1, "at": 1}, "at"),
        ({"expires": 0}, "expires"),
        ({"priority": 101}, "priority"),
        ({"priority": True}, "priority"),
        ({"queue": ""}, "queue"),
        ({"queue": "a\nb"}, "queue"),
        ({"job_id": "x" * 513}, "job_id"),
        ({"job_id": "\ud800"}, "job_id"),
        ({"job_id": "nul\0"}, "job_id"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await f.options(**wrong)(1)
        assert caught.value.argument == names
    with pytest.raises(InvalidArgument, match="missing a required argument: 'a'"):
        await f.delay()  # type: ignore[call-arg]  # that is the test
    with pytest.raises(InvalidArgument, match="unexpected keyword"):
        f.job(1, delay=3)  # type: ignore[call-arg]  # that is the test
    secret = object()
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    for value in (secret, float("nan"), [float("inf")], {"a": {1: float("nan")}}, deep, cyclic, "\ud800"):
        with pytest.raises(EncodeError) as refused:
            await f.delay(value)  # type: ignore[arg-type]  # that is the test
        assert refused.value.argument == "args[0]"
        assert repr(secret) not in str(refused.value)
    with pytest.raises(InvalidArgument, match="bytes"):
        await f.delay(a=b"x" * 17_000_000)  # type: ignore[arg-type]  # that is the test
    await nowhere.aclose()


async def test_a_task_without_a_client_says_what_is_missing() -> None:
    @task
    async def f() -> None: ...

    with pytest.raises(NotInstalled, match="job client"):
        await f.delay()


async def test_one_callers_unusable_queue_does_not_fail_anothers_enqueue(
    redis: RedisClient, client: JobClient, queue: str, prefix: str
) -> None:
    wrong = f"{prefix}wrong"
    await redis.execute("SET", wrong, "x", "EX", 60)
    answers = await asyncio.gather(
        *(client.enqueue(JobRequest[Any]("t", queue=name)) for name in (queue, wrong, queue)),
        return_exceptions=True,
    )
    assert [type(answer).__name__ for answer in answers] == ["JobHandle", "WrongType", "JobHandle"]
    with pytest.raises(WrongType):
        await client.enqueue_many([JobRequest[Any]("t", queue=wrong)])


def test_a_task_is_still_its_function_and_says_what_cannot_be_one() -> None:
    @task
    async def f(a: int) -> int:
        """What it does."""
        return a

    @task(name="short", queue="reports", priority=3)
    def g(ctx: JobContext, a: int) -> int:
        return a

    assert asyncio.run(f(3)) == 3
    assert (f.__doc__, f.__name__, f.__wrapped__) == ("What it does.", "f", f.function)
    assert f.name == f"{__name__}.test_a_task_is_still_its_function_and_says_what_cannot_be_one.<locals>.f"
    assert (g.name, repr(g)) == ("short", "<Task short on reports>")

    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    for wrong in (generator, async_generator, f, 3, object()):
        with pytest.raises(InvalidArgument, match="function"):
            task(wrong)  # type: ignore[call-overload]  # that is the test
    for options, names in (
        ({"queue": ""}, "queue"),
        ({"hard_limit": 0}, "hard_limit"),
        ({"hard_limit": float("nan")}, "hard_limit"),
        ({"hard_limit": "1"}, "hard_limit"),
        ({"keep_result": -1}, "keep_result"),
        ({"priority": -1}, "priority"),
        ({"name": ""}, "name"),
        ({"retry_on": ValueError, "retry": 3}, "retry"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            task(**options)(g.function)
        assert names in str(caught.value.argument)


def test_the_tasks_of_a_module_are_found() -> None:
    import types

    module = types.ModuleType("some_tasks")

    @task
    async def one() -> None: ...

    module.one, module.other = one, 3  # type: ignore[attr-defined]  # a module made here
    found: list[Task[..., Any]] = tasks_of(module)
    assert found == [one]


async def test_abort_is_told_apart_from_a_failure(redis: RedisClient, client: JobClient, prefix: str) -> None:
    result = {"t": 1, "f": "f", "a": [], "k": {}, "et": 1, "s": False, "st": 1, "ft": 1,
              "r": {"type": "aioinfra.errors.JobAborted", "message": ""}}  # fmt: skip
    job_id = f"{prefix}aborted"
    await redis.execute("SET", f"arq:result:{job_id}", msgspec.json.encode(result), "EX", 60)
    with pytest.raises(JobAborted):
        await client.handle(job_id).result(timeout=1)
