"""Where a job goes that names no queue: routes by patterns of its task's name, at the producer and the worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from aioinfra import Service, task
from aioinfra.config import RedisUrl, Settings
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.client import ClientOptions, JobClient
from aioinfra.jobs.job import JobRequest
from aioinfra.jobs.routing import Routes
from aioinfra.service import ServiceOptions, WorkerSetup
from aioinfra.service.worker import queue_weights


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("shop.mail.*", ["shop.mail.send", "shop.mail.news.send"], ["shop.mail", "shop.mailing.send"]),
        ("*.send", ["shop.mail.send", ".send"], ["send", "shop.mail.send_all"]),
        ("shop.mail.send", ["shop.mail.send"], ["shop.mail.sender", "xshop.mail.send", "shopxmail.send"]),
        ("build_?", ["build_1"], ["build_", "build_12"]),
        ("build_[ab]", ["build_a"], ["build_c"]),
        ("Mail.*", ["Mail.send"], ["mail.send"]),
    ],
)
def test_a_pattern_matches_whole_names(pattern: str, matching: list[str], others: list[str]) -> None:
    routes = Routes({pattern: "found"})
    for _ in range(2):  # the second answer is a kept one
        assert [routes.queue_of(name) for name in matching] == ["found"] * len(matching)
        assert [routes.queue_of(name) for name in others] == [None] * len(others)


def test_the_first_pattern_that_matches_wins() -> None:
    routes = Routes({"shop.mail.urgent*": "now", "shop.mail.*": "email", "*": "rest"})
    names = ["shop.mail.urgent_note", "shop.mail.note", "report"]
    assert [routes.queue_of(name) for name in names] == ["now", "email", "rest"]
    assert Routes({"*": "rest", "shop.mail.*": "email"}).queue_of("shop.mail.note") == "rest"


def test_many_stars_do_not_take_long() -> None:
    before = time.thread_time()
    assert Routes({"*a" * 30 + "b": "q"}).queue_of("a" * 500) is None
    assert time.thread_time() - before < 1


@pytest.mark.parametrize(
    "routes",
    [
        {"": "email"},
        {"mail.*": ""},
        {"mail.*": None},
        {3: "email"},
        {"mail.*": "e\nmail"},
        ["mail.*"],
        "mail.*",
    ],
)
def test_wrong_routes_are_refused_where_they_are_written(routes: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^routes: "):
        ServiceOptions(routes=routes)  # type: ignore[arg-type]  # that is the point
    if isinstance(routes, dict):
        with pytest.raises(InvalidArgument, match=r"^routes: "):
            Service.from_env(routes=routes)
    with pytest.raises(InvalidArgument, match=r"^routes: "):
        ClientOptions(routes=routes)  # type: ignore[arg-type]  # that is the point


@pytest.fixture
async def routed(redis: RedisClient, prefix: str) -> AsyncIterator[JobClient]:
    """A client with routes, on both servers in turn."""
    routes = Routes({"shop.mail.*": f"{prefix}email", "reports.*": f"{prefix}reports"})
    client = JobClient(redis, options=ClientOptions(default_queue=f"{prefix}default", routes=routes))
    yield client
    await client.aclose()


async def test_the_closest_to_the_job_decides_its_queue(routed: JobClient, prefix: str) -> None:
    """options() before the task's own queue, before a route, before the default."""

    @task(name="shop.mail.send")
    async def send() -> None: ...

    @task(name="shop.mail.copy", queue=f"{prefix}own")
    async def copy() -> None: ...

    @task(name="tidy")
    async def tidy() -> None: ...

    for each in (send, copy, tidy):
        each.client = routed
    handles = [
        await send.delay(),
        await send.options(queue=f"{prefix}other")(),
        await copy.delay(),
        await copy.options(queue=f"{prefix}other")(),
        await tidy.delay(),
        *await routed.enqueue_many([send.job(), copy.job(), tidy.job()]),
        await routed.enqueue(JobRequest("reports.monthly")),
    ]
    queues = [handle.queue.removeprefix(prefix) for handle in handles]
    assert queues == ["email", "other", "own", "other", "default", "email", "own", "default", "reports"]
    waiting = await routed.depths([f"{prefix}{name}" for name in ("email", "other", "own", "default")])
    assert [depth.queued for depth in waiting.values()] == [2, 2, 2, 2]


async def test_a_worker_serves_the_queues_that_its_tasks_are_routed_to(valkey_url: str, prefix: str) -> None:
    @task(name=f"{prefix}mail.send")
    async def send(queue: str, timeout: float = 1.0) -> str:
        return f"{queue} {timeout:g}"

    options = ServiceOptions(
        settings=Settings(redis_url=RedisUrl(valkey_url)),
        routes={f"{prefix}mail.*": f"{prefix}email"},
        configure_logging=False,
    )
    service = Service(options)
    service.add_task(send)
    async with service:
        job = await send.delay("mine", timeout=3)
        assert job.queue == f"{prefix}email"
        await service.run_worker(WorkerSetup(burst=True))
        assert await job.result(timeout=0) == "mine 3"  # parameters named as options are the task's own


def test_routed_queues_have_the_weights_of_their_names() -> None:
    @task(name="shop.mail.send")
    async def send() -> None: ...

    @task(name="tidy", queue="cleanup")
    async def tidy() -> None: ...

    client_options = ClientOptions(routes=Routes({"shop.mail.*": "email", "*": "unused"}))
    weights = queue_weights([send, tidy], client_options.queue_of, {"more": 7}, WorkerSetup())
    assert weights == {"more": 7, "email": 3, "cleanup": 1}


async def test_a_worker_of_a_service_can_limit_a_queue_and_take_another_one_first(
    valkey_url: str, prefix: str
) -> None:
    order: list[str] = []
    running = most = 0

    @task(name=f"{prefix}slow", queue=f"{prefix}slow")
    async def slow() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        order.append("slow")

    @task(name=f"{prefix}urgent", queue=f"{prefix}urgent")
    async def urgent() -> None:
        order.append("urgent")

    settings = Settings(redis_url=RedisUrl(valkey_url))
    service = Service(ServiceOptions(settings=settings, configure_logging=False))
    for each in (slow, urgent):
        service.add_task(each)
    weights = {f"{prefix}urgent": 2, f"{prefix}slow": 1}
    async with service:
        await service.jobs.enqueue_many([slow.job() for _ in range(10)])
        await service.jobs.enqueue_many([urgent.job() for _ in range(10)])
        setup = WorkerSetup(weights, concurrency=5, burst=True, limits={f"{prefix}slow": 2}, strict=True)
        await service.run_worker(setup)
        with pytest.raises(InvalidArgument, match="limits"):
            service.worker(WorkerSetup(limits={f"{prefix}nowhere": 1}))
    assert order == ["urgent"] * 10 + ["slow"] * 10
    assert most == 2
