"""A service as an application uses it: opened, used through the module-level conveniences, closed."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aioinfra import (
    CacheManager,
    CacheOptions,
    JobContext,
    NearOptions,
    Service,
    cached,
    get_logger,
    setup_logging,
    task,
)
from aioinfra.config import RedisUrl, Settings
from aioinfra.errors import ConfigError, InvalidArgument, LifecycleError, NotInstalled, StoreUnavailable
from aioinfra.jobs.arq import ArqWorker
from aioinfra.metrics.exposition import render
from aioinfra.service import CacheSetup, ServiceOptions, WorkerSetup
from aioinfra.web import ServiceMiddleware, service_routes
from tests.conftest import OwnServerFactory

log = get_logger("tests.service")


@pytest.fixture
def queue(prefix: str) -> str:
    return f"{prefix}queue"


def service_on(url: str, **options: object) -> Service:
    """A service on a test server, without any look at the environment."""
    settings = Settings(redis_url=url, **options)  # type: ignore[arg-type]  # text is what variables hold
    return Service(ServiceOptions(settings=settings, configure_logging=False))


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """A module for tasks that can be named in ``include``."""
    made = types.ModuleType("tasks_of_a_test")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


async def run_beside(worker: ArqWorker) -> asyncio.Task[None]:
    return asyncio.create_task(worker.async_run())


async def test_conveniences_work_while_the_service_is_open(valkey_url: str, prefix: str) -> None:
    loads = 0

    @cached(ttl=60, key_prefix=prefix)
    async def load(number: int) -> int:
        nonlocal loads
        loads += 1
        return number * 2

    with pytest.raises(NotInstalled):
        await load(1)
    async with service_on(valkey_url) as service:
        assert [await load(1), await load(1)] == [2, 2]
        assert service.cache.get_stats()["hits"] == 1
    assert loads == 1
    with pytest.raises(NotInstalled):
        await load(1)


async def test_a_closed_service_says_so_and_can_be_opened_again(valkey_url: str) -> None:
    service = service_on(valkey_url)
    with pytest.raises(LifecycleError):
        _ = service.cache
    for _ in range(2):
        async with service:
            assert (await service.health())["status"] == "ok"
            with pytest.raises(LifecycleError):
                await service.__aenter__()
    with pytest.raises(LifecycleError):
        _ = service.jobs


async def test_a_second_open_service_is_refused_and_leaves_nothing_behind(valkey_url: str) -> None:
    async with service_on(valkey_url):
        second = service_on(valkey_url)
        with pytest.raises(LifecycleError):
            await second.__aenter__()
        assert not second.is_open
    async with second:
        assert second.is_open


async def test_two_services_in_one_process_keep_to_their_own(own_server: OwnServerFactory) -> None:
    """What is bound to a service uses it, whichever is the process default."""
    services = [
        Service(
            ServiceOptions(
                settings=Settings(redis_url=RedisUrl(own_server().url)),
                configure_logging=False,
                process_default=False,
            )
        )
        for _ in range(2)
    ]
    first, second = services
    calls: list[str] = []

    @first.cached(ttl=60)
    async def load(name: str) -> str:
        calls.append(name)
        return name

    @first.task(name="send", queue="email")
    async def send(name: str) -> str:
        return name

    with pytest.raises(LifecycleError):
        await load("a")
    with pytest.raises(NotInstalled):
        await send.delay("a")
    async with first, second:
        assert [await load("a"), await load("a")] == ["a", "a"]
        assert await second.cache.exists(load.key_for("a")) is False
        assert await first.cache.exists(load.key_for("a")) is True
        await send.delay("a")
        assert (await first.jobs.depths(["email"]))["email"].queued == 1
        assert (await second.jobs.depths(["email"]))["email"].queued == 0
        assert [task.name for task in first.tasks] == ["send"]
    assert calls == ["a"]


async def test_two_embedded_users_share_and_nobody_else_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("REDIS_URL", "REDIS_HOST", "JOBS_REDIS_URL", "ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings()
    async with Service(ServiceOptions(settings=settings, configure_logging=False)) as service:
        assert await service.cache.set("key", "value")
        assert (await service.health())["status"] == "ok"
    assert (tmp_path / ".aioinfra").is_dir()


async def test_production_without_redis_is_an_error_that_names_the_variable() -> None:
    service = Service(ServiceOptions(settings=Settings(environment="production"), configure_logging=False))
    with pytest.raises(ConfigError, match="REDIS_URL"):
        await service.__aenter__()


async def test_a_missing_module_is_named(valkey_url: str) -> None:
    options = ServiceOptions(
        ["no_such_module_here"], settings=Settings(redis_url=RedisUrl(valkey_url)), configure_logging=False
    )
    with pytest.raises(ConfigError, match="no_such_module_here"):
        await Service(options).__aenter__()


async def test_a_missing_package_of_a_module_is_named(valkey_url: str) -> None:
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        async with Service(ServiceOptions(include=("nowhere.tasks",), redis_url=valkey_url)):
            pass


def test_a_url_stays_out_of_the_options_repr() -> None:
    assert "secret" not in repr(ServiceOptions(redis_url="redis://:secret@localhost"))


async def test_a_queue_that_no_task_names_is_pointed_out(
    valkey_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    @task(queue=f"{prefix}email", name=f"{prefix}send")
    async def send() -> None: ...

    service = service_on(valkey_url)
    service.add_task(send)
    async with service:
        service.worker(WorkerSetup(queues={f"{prefix}email": 1, f"{prefix}emial": 1}), handle_signals=False)
    assert [record.getMessage() for record in caplog.records] == [
        f"no task of the service names the queue '{prefix}emial', which this worker is to serve"
    ]


def test_bad_options_are_named() -> None:
    with pytest.raises(InvalidArgument, match="include"):
        Service.from_env(include="shop.tasks")
    with pytest.raises(InvalidArgument, match="weights"):
        Service.from_env(queues={"email": 0})


def test_a_cache_setup_that_does_not_fit_is_named_and_shows_no_secret() -> None:
    with pytest.raises(InvalidArgument, match="serialization"):
        CacheSetup(serialization="yaml")  # type: ignore[arg-type]  # what a slip in the code looks like
    with pytest.raises(InvalidArgument, match="signing_key"):
        CacheSetup(serialization="pickle", signing_key="short")
    with pytest.raises(InvalidArgument, match="namespace"):
        CacheSetup(namespace="")
    with pytest.raises(InvalidArgument, match="memory_cache_size"):
        CacheSetup(memory_cache_size=-1)
    with pytest.raises(InvalidArgument, match="CacheSetup"):
        Service.from_env(cache="shop:")  # type: ignore[arg-type]  # the same
    assert "hunter2" not in repr(ServiceOptions(cache=CacheSetup(signing_key="hunter2 hunter2 hunter2")))


async def test_the_cache_of_a_service_is_what_its_setup_says(valkey_url: str, prefix: str) -> None:
    """Another cache with the same arguments reads its values; L1 is off, so nothing is kept here."""
    signing_key = "a secret of 16 bytes or more"
    setup = CacheSetup(
        namespace=prefix,
        serialization="pickle",
        signing_key=signing_key,
        options=CacheOptions(near=NearOptions(enabled=False)),
    )
    service = Service(
        ServiceOptions(
            settings=Settings(redis_url=RedisUrl(valkey_url), cache_namespace=f"{prefix}not-this-one:"),
            configure_logging=False,
            cache=setup,
        )
    )
    async with (
        service,
        CacheManager(valkey_url, serialization="pickle", signing_key=signing_key, namespace=prefix) as other,
    ):
        assert service.cache.namespace == prefix
        await service.cache.set("point", 1 + 2j)
        assert await other.get("point") == 1 + 2j
        assert (await service.health())["cache"]["l1"] == "off"


async def test_the_settings_choose_the_caches_namespace_and_secrets(valkey_url: str, prefix: str) -> None:
    settings = Settings(
        redis_url=RedisUrl(valkey_url),
        cache_namespace=prefix,
        cache_signing_key=SecretStr("a new secret of 16 bytes, an old secret of 16 bytes"),
    )
    pickled = ServiceOptions(
        settings=settings, configure_logging=False, cache=CacheSetup(serialization="pickle")
    )
    old = CacheManager(
        valkey_url, serialization="pickle", signing_key="an old secret of 16 bytes", namespace=prefix
    )
    async with old, Service(pickled) as service:
        await old.set("point", 1 + 2j)
        assert await service.cache.get("point") == 1 + 2j
    bare = replace(pickled, settings=Settings(redis_url=RedisUrl(valkey_url)))
    with pytest.raises(ConfigError, match="CACHE_SIGNING_KEY"):
        await Service(bare).__aenter__()


async def test_a_service_keeps_as_many_values_in_memory_as_its_setup_says(
    valkey_url: str, prefix: str
) -> None:
    setup = CacheSetup(namespace=prefix, memory_cache_size=2)
    settings = Settings(redis_url=RedisUrl(valkey_url))
    async with Service(ServiceOptions(settings=settings, configure_logging=False, cache=setup)) as service:
        await service.cache.mset({str(number): number for number in range(5)})
        for number in range(5):
            assert await service.cache.get(str(number)) == number
        assert service.cache.get_stats()["l1_entries"] <= 2


async def test_two_tasks_of_one_name_are_refused() -> None:
    service = Service()

    @task(name="same")
    async def one() -> None: ...

    @task(name="same")
    async def two() -> None: ...

    service.add_task(one)
    service.add_task(one)
    with pytest.raises(InvalidArgument, match="same"):
        service.add_task(two)


async def test_a_server_that_evicts_is_refused_for_jobs(own_server: OwnServerFactory) -> None:
    server = own_server("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")

    @task
    async def anything() -> None: ...

    service = service_on(server.url)
    service.add_task(anything)
    async with service:
        with pytest.raises(ConfigError, match="noeviction"):
            await service.run_worker(WorkerSetup(burst=True))


async def test_health_tells_degraded_from_down(own_server: OwnServerFactory, valkey_url: str) -> None:
    server = own_server()
    async with service_on(server.url, jobs_redis_url=valkey_url) as service:
        server.kill()
        health = await service.health()
        assert health["status"] == "degraded"
        assert health["jobs"]["ok"]
        assert await service.cache.set("key", 1)
        assert await service.cache.get("key") == 1
    gone = own_server(start=False)
    async with service_on(gone.url) as service:
        assert (await service.health())["status"] == "down"
        with pytest.raises(StoreUnavailable):
            await task(name="x")(_nothing).delay()


async def _nothing() -> None: ...


async def test_one_id_from_the_request_to_the_lines_of_its_jobs(
    valkey_url: str, queue: str, module: types.ModuleType
) -> None:
    """The HTTP request's id is in the job's log lines, and in those of the job that the job enqueues."""

    @task(name=f"{queue}.second", queue=queue)
    def second(ctx: JobContext) -> str | None:
        log.info("second runs")
        return ctx.request_id

    @task(name=f"{queue}.first", queue=queue)
    async def first() -> str | None:
        log.info("first runs")
        return await (await second.delay()).result(timeout=10)

    module.first, module.second = first, second  # type: ignore[attr-defined]  # a module made for this test

    async def enqueue(_: Request) -> JSONResponse:
        job = await first.delay()
        return JSONResponse({"id": await job.result(timeout=10)})

    lines = io.StringIO()
    settings = Settings(redis_url=RedisUrl(valkey_url))
    service = Service(ServiceOptions([module.__name__], settings=settings, configure_logging=False))
    app = ServiceMiddleware(Starlette(routes=[Route("/", enqueue), *service_routes(service)]), service)
    logs = setup_logging(log_level="info", log_format="json", stream=lines)
    try:
        async with service:
            worker = service.worker(handle_signals=False)
            running = await run_beside(worker)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as web:
                answer = await web.get("/", headers={"x-request-id": "a-request"})
                page = (await web.get("/metrics")).text
            await worker.close()
            await asyncio.wait([running])
        await logs.aflush()
    finally:
        logs.uninstall()
    assert answer.json() == {"id": "a-request"}
    assert answer.headers["x-request-id"] == "a-request"
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    for message in ("first runs", "second runs", "job started", "job succeeded", "request"):
        matching = [line for line in said if line["message"] == message]
        assert matching, message
        assert "a-request" in {line["request_id"] for line in matching}, message
    assert (
        f'aioinfra_jobs_finished_total{{queue="{queue}",task="{queue}.first",outcome="succeeded"}} 1' in page
    )
    assert (await render(service.metrics)).decode().count("# TYPE") == page.count("# TYPE")
