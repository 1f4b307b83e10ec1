"""Middleware and hooks: their order, what each may do to a job, and that none of their failures loses one."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aioinfra import Backoff, Retry, Service, context, task
from aioinfra.config import RedisUrl, Settings
from aioinfra.errors import EncodeError, InvalidArgument, JobAborted, JobFailed
from aioinfra.jobs import hooks as hooks_module
from aioinfra.jobs.client import ClientOptions
from aioinfra.jobs.context import JobContext
from aioinfra.jobs.handle import JobHandle
from aioinfra.jobs.job import Failed, JobRequest, Outcome, Retried, Succeeded
from aioinfra.jobs.middleware import EnqueueNext, JobMiddleware, RunNext
from aioinfra.jobs.task import Task
from aioinfra.service import ServiceOptions, WorkerSetup
from tests.jobs.kit import running, until


def service_on(url: str, *middleware: JobMiddleware, tasks: tuple[Task[..., Any], ...] = ()) -> Service:
    settings = Settings(redis_url=RedisUrl(url))
    service = Service(ServiceOptions(settings=settings, configure_logging=False, middleware=middleware))
    for each in tasks:
        service.add_task(each)
    return service


async def run_all(service: Service) -> None:
    """Run what is enqueued, retries included, until nothing is left."""
    async with asyncio.timeout(15):
        assert await service.run_worker(WorkerSetup(burst=True)) == 0


class Layer(JobMiddleware):
    """Writes down when it is entered and left."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name = name
        self.said = said

    async def enqueue(self, request: JobRequest[Any], call_next: EnqueueNext) -> JobHandle[Any]:
        self.said.append(f"{self.name} before enqueue")
        handle = await call_next(request)
        self.said.append(f"{self.name} after enqueue")
        return handle

    async def run(self, job: JobContext, call_next: RunNext) -> object:
        self.said.append(f"{self.name} before run")
        value = await call_next()
        self.said.append(f"{self.name} after run")
        return value


class OnEnqueue(JobMiddleware):
    """Made of one function."""

    def __init__(self, function: Callable[[JobRequest[Any], EnqueueNext], Awaitable[JobHandle[Any]]]) -> None:
        self.function = function

    async def enqueue(self, request: JobRequest[Any], call_next: EnqueueNext) -> JobHandle[Any]:
        return await self.function(request, call_next)


class OnRun(JobMiddleware):
    """Made of one function."""

    def __init__(self, function: Callable[[JobContext, RunNext], Awaitable[object]]) -> None:
        self.function = function

    async def run(self, job: JobContext, call_next: RunNext) -> object:
        return await self.function(job, call_next)


# The order


async def test_the_whole_order_from_the_worker_s_start_to_its_end(redis_url: str, queue: str) -> None:
    said: list[str] = []

    @task(queue=queue)
    async def work() -> str:
        said.append("task")
        return "done"

    service = service_on(redis_url, Layer("outer", said), Layer("inner", said), tasks=(work,))

    for name in ("first", "second"):

        @service.on_startup
        async def start(name: str = name) -> None:
            said.append(f"{name} startup")

        @service.on_job_start
        async def begin(job: JobContext, name: str = name) -> None:
            said.append(f"{name} job start")

        @service.on_job_end
        async def end(job: JobContext, outcome: Outcome, name: str = name) -> None:
            assert isinstance(outcome, Succeeded)
            assert job.queue == queue
            said.append(f"{name} job end")

        @service.on_shutdown
        async def stop(name: str = name) -> None:
            said.append(f"{name} shutdown")

    async with service:
        job = await work.delay()
        await run_all(service)
        assert await job.result(timeout=0) == "done"
    assert said == [
        "outer before enqueue",
        "inner before enqueue",
        "inner after enqueue",
        "outer after enqueue",
        "first startup",
        "second startup",
        "first job start",
        "second job start",
        "outer before run",
        "inner before run",
        "task",
        "inner after run",
        "outer after run",
        "first job end",
        "second job end",
        "second shutdown",
        "first shutdown",
    ]


# Enqueues


async def test_a_middleware_carries_something_from_the_enqueue_to_the_run(
    valkey_url: str, queue: str
) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")

    class Tenant(JobMiddleware):
        async def enqueue(self, request: JobRequest[Any], call_next: EnqueueNext) -> JobHandle[Any]:
            headers = {**request.headers, "tenant": tenant.get()}
            return await call_next(dataclasses.replace(request, headers=headers))

        async def run(self, job: JobContext, call_next: RunNext) -> object:
            tenant.set(job.headers["tenant"])
            return await call_next()

    @task(queue=queue)
    async def on_the_loop() -> str:
        return tenant.get()

    @task(queue=queue)
    def in_a_thread() -> str:
        return tenant.get()

    async with service_on(valkey_url, Tenant(), tasks=(on_the_loop, in_a_thread)) as service:
        tenant.set("ada")
        first, second = await on_the_loop.delay(), await in_a_thread.options(delay=0.01)()
        tenant.set("grace")
        many = await service.jobs.enqueue_many([on_the_loop.job(), in_a_thread.job()])
        await run_all(service)
        found = [await job.result(timeout=0) for job in (first, second, *many)]
        assert found == ["ada", "ada", "grace", "grace"]


async def test_an_enqueue_can_be_refused_answered_or_sent_elsewhere(valkey_url: str, queue: str) -> None:
    async def judge(request: JobRequest[Any], call_next: EnqueueNext) -> JobHandle[Any]:
        match request.args:
            case ("refuse",):
                raise PermissionError("not you")
            case ("elsewhere",):
                return await call_next(dataclasses.replace(request, queue=f"{queue}:elsewhere"))
            case ("known",):
                return service.jobs.handle("known", queue)
        return await call_next(request)

    @task(queue=queue)
    async def work(what: str) -> None: ...

    async with service_on(valkey_url, OnEnqueue(judge)) as service:
        with pytest.raises(PermissionError):
            await work.delay("refuse")
        assert (await work.delay("elsewhere")).queue == f"{queue}:elsewhere"
        assert (await work.delay("known")).id == "known"
        handles = await service.jobs.enqueue_many([work.job("a"), work.job("known"), work.job("elsewhere")])
        assert [(handle.id == "known", handle.queue) for handle in handles] == [
            (False, queue),
            (True, queue),
            (False, f"{queue}:elsewhere"),
        ]
        depths = await service.jobs.depths([queue, f"{queue}:elsewhere"])
        assert [depth.queued for depth in depths.values()] == [1, 2]


async def test_a_bulk_of_which_one_is_refused_stores_nothing(valkey_url: str, queue: str) -> None:
    left: list[object] = []

    async def judge(request: JobRequest[Any], call_next: EnqueueNext) -> JobHandle[Any]:
        if request.args == (700,):
            raise PermissionError("not this one")
        try:
            return await call_next(request)
        finally:
            left.append(request.args)

    @task(queue=queue)
    async def work(number: int) -> None: ...

    async with service_on(valkey_url, OnEnqueue(judge)) as service:
        with pytest.raises(PermissionError):
            await service.jobs.enqueue_many([work.job(number) for number in range(1_000)])
        assert len(left) == 999  # nobody is left waiting
        assert (await service.jobs.depths([queue]))[queue].queued == 0
        handles = await service.jobs.enqueue_many([work.job(number) for number in range(600)])
        assert [handle.created for handle in handles] == [True] * 600
        assert await service.jobs.enqueue_many([]) == []
        with pytest.raises(InvalidArgument, match="request"):
            await service.jobs.enqueue_many([work.job(1), "work"])  # type: ignore[arg-type]  # that is the point
        with pytest.raises(InvalidArgument, match="requests"):
            await service.jobs.enqueue_many("work")  # type: ignore[arg-type]  # that is the point


async def test_the_store_s_refusal_of_a_bulk_reaches_its_layers_and_its_caller(
    valkey_url: str, queue: str
) -> None:
    seen: list[str] = []

    async def watch(request: JobRequest[Any], call_next: EnqueueNext) -> JobHandle[Any]:
        try:
            return await call_next(request)
        except EncodeError as error:
            seen.append(str(error).partition(":")[0])
            raise

    async with service_on(valkey_url, OnEnqueue(watch)) as service:
        requests = [JobRequest[Any]("work", (what,), queue=queue) for what in (1, {(1, 2): 3})]
        with pytest.raises(EncodeError, match="JSON"):
            await service.jobs.enqueue_many(requests)
        assert seen == ["args[0]"] * 2
        assert (await service.jobs.depths([queue]))[queue].queued == 0


async def test_a_bulk_that_is_cancelled_on_its_way_cancels_its_layers_and_stores_nothing(
    valkey_url: str, queue: str
) -> None:
    entered, cancelled = 0, 0

    async def layer(request: JobRequest[Any], call_next: EnqueueNext) -> JobHandle[Any]:
        nonlocal entered, cancelled
        entered += 1
        try:
            if request.args == (3,):
                await asyncio.Event().wait()
            return await call_next(request)
        except asyncio.CancelledError:
            cancelled += 1
            raise

    async with service_on(valkey_url, OnEnqueue(layer)) as service:
        requests = [JobRequest[Any]("work", (number,), queue=queue) for number in range(5)]
        bulk = asyncio.create_task(service.jobs.enqueue_many(requests))
        await until(lambda: entered == 5)
        bulk.cancel()
        await asyncio.wait([bulk], timeout=5)
        assert bulk.cancelled()
        assert cancelled == 5
        assert (await service.jobs.depths([queue]))[queue].queued == 0


async def test_a_layer_may_give_up_in_a_bulk_or_ask_twice(valkey_url: str, queue: str) -> None:
    async def layer(request: JobRequest[Any], call_next: EnqueueNext) -> JobHandle[Any]:
        if request.args == ("impatient",):
            try:
                async with asyncio.timeout(0):
                    return await call_next(request)
            except TimeoutError:
                return service.jobs.handle("given-up", queue)
        if request.args == ("twice",):
            await call_next(dataclasses.replace(request, args=("a copy",)))
        return await call_next(request)

    @task(queue=queue)
    async def work(what: str) -> None: ...

    async with service_on(valkey_url, OnEnqueue(layer)) as service:
        requests = [work.job("impatient"), work.job("twice"), work.job("plain")]
        handles = await service.jobs.enqueue_many(requests)
        assert handles[0].id == "given-up"
        assert (await service.jobs.depths([queue]))[queue].queued == 3  # twice, its copy, and plain


# Runs


@pytest.mark.parametrize("sync", [False, True])
async def test_a_run_s_layers_may_change_the_result_or_keep_the_task_from_running(
    valkey_url: str, queue: str, sync: bool
) -> None:
    ran: list[str] = []

    async def layer(job: JobContext, call_next: RunNext) -> object:
        if job.job_id.endswith("skip"):
            return "skipped"
        return f"<{await call_next()}>"

    if sync:

        @task(queue=queue, name=f"{queue}.work")
        def work(ctx: JobContext, name: str) -> str:
            ran.append(ctx.job_id)
            return name
    else:

        @task(queue=queue, name=f"{queue}.work")
        async def work(ctx: JobContext, name: str) -> str:
            ran.append(ctx.job_id)
            return name

    async with service_on(valkey_url, OnRun(layer), tasks=(work,)) as service:
        plain = await work.options(job_id=f"{queue}:plain")("ada")
        skip = await work.options(job_id=f"{queue}:skip")("ada")
        await run_all(service)
        assert await plain.result(timeout=0) == "<ada>"
        assert await skip.result(timeout=0) == "skipped"
    assert ran == [f"{queue}:plain"]


async def test_a_layer_s_error_is_the_job_s_and_goes_by_the_task_s_policy(
    valkey_url: str, queue: str
) -> None:
    tries: list[int] = []

    async def layer(job: JobContext, call_next: RunNext) -> object:
        tries.append(job.attempt)
        match job.task.removeprefix(f"{queue}."), job.attempt:
            case "asks", 1:
                raise Retry(delay=0)
            case "breaks", _:
                raise OSError("the layer's own")
        return await call_next()

    @task(queue=queue, name=f"{queue}.asks")
    async def asks() -> str:
        return "in the second try"

    @task(queue=queue, name=f"{queue}.breaks", retry=Backoff(tries=2, base=0.001, cap=0.001))
    async def breaks() -> None:
        raise AssertionError("never called")

    async with service_on(valkey_url, OnRun(layer), tasks=(asks, breaks)) as service:
        first, second = await asks.delay(), await breaks.delay()
        await run_all(service)
        assert await first.result(timeout=0) == "in the second try"
        with pytest.raises(JobFailed, match="the layer's own"):
            await second.result(timeout=0)
        [letter] = await service.jobs.dead_letters(queue)
        assert letter.reason == "exhausted"
    assert sorted(tries) == [1, 1, 2, 2]


async def test_layers_that_swallow_cancellations_or_never_return_leak_no_slot(
    valkey_url: str, queue: str
) -> None:
    entered = asyncio.Event()

    async def layer(job: JobContext, call_next: RunNext) -> object:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if job.job_id.endswith("stubborn"):
                return "swallowed"
            raise
        return await call_next()

    @task(queue=queue, hard_limit=0.01)
    async def work() -> str:
        return "the task itself"

    async with service_on(valkey_url, OnRun(layer), tasks=(work,)) as service:
        worker = service.worker(WorkerSetup(concurrency=1), handle_signals=False)
        async with running(worker):
            jobs = []
            for name in (
                "stubborn",
                "hangs",
                "stubborn too",
            ):  # one slot: each needs the one of the job before
                entered.clear()
                job = await work.options(job_id=f"{queue}:{name.replace(' too', ':stubborn')}")()
                await asyncio.wait_for(entered.wait(), 5)
                assert worker._job_worker is not None
                assert worker._job_worker.abort(job.id)
                jobs.append(job)
            assert [await job.result(timeout=5) for job in (jobs[0], jobs[2])] == ["swallowed"] * 2
            with pytest.raises(JobAborted):
                await jobs[1].result(timeout=5)
            await until(lambda: not worker.tasks)


async def test_an_error_that_a_layer_keeps_to_itself_is_a_success(valkey_url: str, queue: str) -> None:
    async def layer(job: JobContext, call_next: RunNext) -> object:
        try:
            return await call_next()
        except ZeroDivisionError:
            return "hidden"

    @task(queue=queue)
    async def work() -> Any:
        return 1 / 0

    async with service_on(valkey_url, OnRun(layer), tasks=(work,)) as service:
        job = await work.delay()
        await run_all(service)
        assert await job.result(timeout=0) == "hidden"


# Hooks


async def test_failing_hooks_are_reported_and_lose_no_job(
    valkey_url: str, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    @task(queue=queue)
    async def work(number: int) -> int:
        return number

    service = service_on(valkey_url, tasks=(work,))

    @service.on_job_start
    async def start_breaks(job: JobContext) -> None:
        raise OSError("start")

    @service.on_job_end
    async def end_breaks(job: JobContext, outcome: Outcome) -> None:
        raise OSError("end")

    @service.on_shutdown
    async def closes() -> None:
        called.append("closed")

    @service.on_shutdown
    async def stop_breaks() -> None:
        raise OSError("stop")

    @service.on_job_end
    async def is_still_told(job: JobContext, outcome: Outcome) -> None:
        called.append(job.job_id)

    async with service:
        jobs = [await work.delay(number) for number in range(3)]
        await run_all(service)
        assert [await job.result(timeout=0) for job in jobs] == [0, 1, 2]
    assert sorted(called[:-1]) == sorted(job.id for job in jobs)
    assert called[-1] == "closed"
    for event, name, count in (
        ("job start", "start_breaks", 3),
        ("job end", "end_breaks", 3),
        ("shutdown", "stop_breaks", 1),
    ):
        records = [record for record in caplog.records if f"{event} hook" in record.getMessage()]
        assert len(records) == count
        for record in records:
            assert name in record.getMessage()
            assert record.levelno == logging.ERROR
            assert record.exc_info


async def test_a_hook_that_does_not_return_is_cut_short(
    valkey_url: str, queue: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks_module, "LIMIT", 0.05)

    @task(queue=queue)
    async def work() -> str:
        return "done"

    service = service_on(valkey_url, tasks=(work,))

    @service.on_job_start
    async def hangs(job: JobContext) -> None:
        await asyncio.Event().wait()

    @service.on_job_end
    async def hangs_too(job: JobContext, outcome: Outcome) -> None:
        await asyncio.Event().wait()

    async with service:
        job = await work.delay()
        await run_all(service)
        assert await job.result(timeout=0) == "done"
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [str(error) for error in errors] == ["the hard limit of 0.05 s is over"] * 2


async def test_hooks_see_the_outcome_that_counts_under_the_job_s_id(valkey_url: str, queue: str) -> None:
    seen: dict[str, list[tuple[type, str | None]]] = {}

    @task(queue=queue, name=f"{queue}.again", retry=Backoff(tries=2, base=0.001, cap=0.001))
    async def again() -> None:
        raise ValueError

    @task(queue=queue, name=f"{queue}.unwritable")
    async def unwritable() -> Any:
        return object()

    @task(queue=queue, name=f"{queue}.misfit")
    async def misfit(number: int) -> None: ...

    service = service_on(valkey_url, tasks=(again, unwritable, misfit))

    @service.on_job_end
    async def note(job: JobContext, outcome: Outcome) -> None:
        name = job.task.removeprefix(f"{queue}.")
        seen.setdefault(name, []).append((type(outcome), context.request_id()))

    async with service:
        with context.bound(request_id="a-request"):
            await again.delay()
            await unwritable.delay()
            await service.jobs.enqueue(JobRequest(misfit.name, ("no number",), queue=queue))
        await run_all(service)
    assert seen == {
        "again": [(Retried, "a-request"), (Failed, "a-request")],
        "unwritable": [
            (Failed, "a-request")
        ],  # a success that cannot be stored is none; misfit never started
    }


async def test_an_aborted_start_hook_aborts_the_job_and_its_end_is_told(valkey_url: str, queue: str) -> None:
    entered, told = asyncio.Event(), asyncio.Event()

    @task(queue=queue)
    async def work() -> None:
        raise AssertionError("never called")

    service = service_on(valkey_url, tasks=(work,))

    @service.on_job_start
    async def waits(job: JobContext) -> None:
        entered.set()
        await asyncio.sleep(60)

    @service.on_job_end
    async def end(job: JobContext, outcome: Outcome) -> None:
        assert type(outcome).__name__ == "Aborted"
        told.set()

    async with service:
        worker = service.worker(handle_signals=False)
        async with running(worker):
            job = await work.delay()
            await asyncio.wait_for(entered.wait(), 5)
            assert worker._job_worker is not None
            assert worker._job_worker.abort(job.id)
            with pytest.raises(JobAborted):
                await job.result(timeout=5)
            await asyncio.wait_for(told.wait(), 5)


async def test_a_worker_that_stops_does_not_wait_for_end_hooks_and_records_the_job(
    valkey_url: str, queue: str
) -> None:
    entered = asyncio.Event()

    @task(queue=queue)
    async def work() -> str:
        return "done"

    service = service_on(valkey_url, tasks=(work,))

    @service.on_job_end
    async def waits(job: JobContext, outcome: Outcome) -> None:
        entered.set()
        await asyncio.sleep(60)

    async with service:
        worker = service.worker(WorkerSetup(grace=0), handle_signals=False)
        async with running(worker):
            job = await work.delay()
            await asyncio.wait_for(entered.wait(), 5)
        assert await job.result(timeout=0) == "done"
        assert (worker.jobs_complete, worker.jobs_retried) == (1, 0)


async def test_a_failed_startup_ends_the_worker_before_it_takes_a_job(valkey_url: str, queue: str) -> None:
    said: list[str] = []

    @task(queue=queue)
    async def work() -> None: ...

    service = service_on(valkey_url, tasks=(work,))

    @service.on_startup
    async def opens() -> None:
        said.append("opened")

    @service.on_startup
    async def breaks() -> None:
        raise OSError("no database")

    @service.on_shutdown
    async def closes() -> None:
        said.append("closed")

    async with service:
        await work.delay()
        with pytest.raises(OSError, match="no database"):
            await service.run_worker(WorkerSetup(burst=True))
        assert (await service.jobs.depths([queue]))[queue].queued == 1
        assert said == ["opened", "closed"]
        await service.worker(handle_signals=False).close()  # one that never started has nothing to shut down
        assert said == ["opened", "closed"]


# Without any


async def test_a_service_without_middleware_and_hooks_runs_its_tasks_bare(
    valkey_url: str, queue: str
) -> None:
    @task(queue=queue)
    async def work() -> None: ...

    class Nothing(JobMiddleware):
        """Both methods inherited: nothing to go through."""

    async def kinds(service: Service) -> str:
        async with service:
            [runnable] = service.worker(handle_signals=False).engine.runnables.values()
            return type(runnable).__name__

    hooked = service_on(valkey_url, tasks=(work,))

    @hooked.on_job_end
    async def end(job: JobContext, outcome: Outcome) -> None: ...

    assert await kinds(service_on(valkey_url, tasks=(work,))) == "TaskRunnable"
    assert await kinds(service_on(valkey_url, Nothing(), tasks=(work,))) == "TaskRunnable"
    assert await kinds(hooked) == "SurroundedRunnable"


@pytest.mark.parametrize("wrong", ["Layer", [object()], [Layer], 3, {"a": Layer("a", [])}])
def test_what_is_no_middleware_is_refused_at_construction(wrong: Any) -> None:
    for build in (ServiceOptions, ClientOptions, Service.from_env):
        with pytest.raises(InvalidArgument, match="middleware"):
            build(middleware=wrong)


def test_a_hook_must_be_a_coroutine_function() -> None:
    def plain(*told: object) -> None: ...

    service = Service()
    for name in ("on_startup", "on_shutdown", "on_job_start", "on_job_end"):
        with pytest.raises(InvalidArgument, match=name):
            getattr(service, name)(plain)
