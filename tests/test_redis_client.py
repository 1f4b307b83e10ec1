"""The raw client of a service: injected, figures on the metrics page, ended with the service, one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI

from aioinfra.config import Settings
from aioinfra.connection.default import get_redis_client
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import ConfigError, LifecycleError, NotInstalled, WrongEventLoop
from aioinfra.metrics.exposition import render
from aioinfra.service import Service, ServiceOptions
from tests.conftest import OwnServerFactory

Client = Annotated[RedisClient, Depends(get_redis_client)]


def service_on(url: str, **options: object) -> Service:
    settings = Settings(redis_url=url, **options)  # type: ignore[arg-type]  # text is what variables hold
    return Service(ServiceOptions(settings=settings, configure_logging=False))


async def test_the_default_client_is_there_while_the_service_is_open(redis_url: str, prefix: str) -> None:
    with pytest.raises(NotInstalled, match="Redis client"):
        get_redis_client()
    async with service_on(redis_url) as service:
        client = get_redis_client()
        assert client is service.redis
        assert 0 < await client.ping() < 5
        await client.execute("SET", f"{prefix}k", b"v", "EX", 60)
        assert await client.raw.get(f"{prefix}k") == b"v"
        assert client.figures().size >= 1
    with pytest.raises(NotInstalled):
        get_redis_client()
    with pytest.raises(LifecycleError, match="closed"):
        await client.ping()
    with pytest.raises(LifecycleError):
        _ = service.redis


async def test_a_second_loop_gets_a_clear_error(redis_url: str) -> None:
    async def elsewhere() -> float:
        return await get_redis_client().ping()

    async with service_on(redis_url):
        await get_redis_client().ping()
        with pytest.raises(WrongEventLoop, match="another event loop: make one client per loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        assert await get_redis_client().ping() > 0


async def test_fastapi_injects_it(redis_url: str, prefix: str) -> None:
    service = service_on(redis_url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/count")
    async def count(client: Client) -> int:
        found: int = await client.execute("INCR", f"{prefix}count")
        return found

    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://x") as web,
    ):
        answers = await asyncio.gather(*[web.get("/count") for _ in range(20)])
        assert sorted(answer.json() for answer in answers) == list(range(1, 21))


def shown(page: str, pool: str, state: str) -> float:
    (line,) = [
        line
        for line in page.splitlines()
        if line.startswith("aioinfra_redis_connections{")
        and f'pool="{pool}"' in line
        and f'state="{state}"' in line
    ]
    return float(line.rpartition(" ")[2])


async def test_pool_figures_are_on_the_metrics_page(redis_url: str, prefix: str) -> None:
    service = service_on(redis_url, redis_max_connections=7)
    for _ in range(2):  # opened again it shows them, too
        async with service:
            page = (await render(service.metrics)).decode()
            assert shown(page, "app", "idle") == shown(page, "app", "in_use") == 0
            blocked = [
                asyncio.create_task(get_redis_client().execute("BLPOP", f"{prefix}empty", 1, reply_timeout=5))
                for _ in range(3)
            ]
            await get_redis_client().ping()
            page = (await render(service.metrics)).decode()
            figures = get_redis_client().figures()
            assert figures.in_use == 3
            assert shown(page, "app", "in_use") == 3
            assert shown(page, "app", "idle") == figures.idle == 1
            assert shown(page, "cache", "idle") + shown(page, "cache", "in_use") >= 1
            for pool in ("app", "cache", "jobs"):
                assert f'aioinfra_redis_connections_limit{{pool="{pool}"}} 7' in page
            await asyncio.gather(*blocked)
        page = (await render(service.metrics)).decode()
        assert shown(page, "app", "idle") == shown(page, "cache", "in_use") == 0


async def test_its_blocking_commands_do_not_starve_the_cache(redis_url: str, prefix: str) -> None:
    async with service_on(redis_url, redis_max_connections=2) as service:
        blocked = [
            asyncio.create_task(get_redis_client().execute("BLPOP", f"{prefix}empty", 1, reply_timeout=5))
            for _ in range(2)
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(0.9):
            await service.cache.set(f"{prefix}k", 1)
            assert await service.cache.get(f"{prefix}k", consistency="strong") == 1
        assert await asyncio.gather(*blocked) == [None, None]


async def where(service: Service) -> tuple[str, str, str]:
    """The sockets that application, cache and jobs work on."""
    async with service:
        health = await service.health()
        return service.redis.location, health["cache"]["server"], health["jobs"]["server"]


async def test_cache_and_jobs_share_the_base_or_have_their_own(
    redis_url: str, own_server: OwnServerFactory
) -> None:
    one, other = own_server("--appendonly", "no"), own_server("--appendonly", "no")
    base, cache, jobs = (RedisClient(url).location for url in (redis_url, one.url, other.url))
    assert await where(service_on(redis_url)) == (base, base, base)
    assert await where(service_on(redis_url, jobs_redis_url=other.url)) == (base, base, jobs)
    apart = service_on(redis_url, cache_redis_url=one.url, jobs_redis_url=other.url)
    assert await where(apart) == (base, cache, jobs)
    settings = Settings(cache_redis_url=one.url, celery_broker_url=other.url)  # type: ignore[arg-type]  # as above
    assert await where(Service(ServiceOptions(settings=settings, configure_logging=False))) == (
        cache,
        cache,
        jobs,
    )
    # What the options say wins over all settings.
    settings = Settings(redis_url=one.url, cache_redis_url=one.url, jobs_redis_url=one.url)  # type: ignore[arg-type]  # as above
    named = ServiceOptions(
        settings=settings, redis_url=redis_url, jobs_redis_url=other.url, configure_logging=False
    )
    assert await where(Service(named)) == (base, base, jobs)
    named = ServiceOptions(settings=settings, cache_redis_url=other.url, configure_logging=False)
    assert await where(Service(named)) == (cache, jobs, cache)
    assert other.url not in repr(named)


def test_variables_of_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_REDIS_URL", "redis://:secret@cache:6379/0")
    settings = Settings.from_env(None)
    for found in (settings.own_cache_url(), settings.cache_url()):
        assert found is not None
        assert (found[0].location, found[1]) == ("redis://cache:6379/0", "CACHE_REDIS_URL")
    monkeypatch.setenv("REDIS_HOST", "base")
    found = Settings.from_env(None).cache_url()
    assert found is not None
    assert found[1] == "REDIS_HOST"
    monkeypatch.setenv("CACHE_REDIS_URL", "http://:secret@cache")
    with pytest.raises(ConfigError, match="CACHE_REDIS_URL: must be redis://") as raised:
        Settings.from_env(None)
    assert "secret" not in str(raised.value)
