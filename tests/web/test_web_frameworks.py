"""A service in FastAPI, Starlette and Litestar: its pages, its ids, and the templates that requests count under."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from litestar import Litestar, asgi, get
from litestar import Router as LitestarRouter
from litestar.params import FromPath
from prometheus_client import parser as plain_text
from prometheus_client.openmetrics import parser as openmetrics
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router

from aioinfra.config import RedisUrl, Settings
from aioinfra.service import Service, ServiceOptions
from aioinfra.web import ServiceMiddleware, operations_app, service_lifespan, service_routes
from tests.conftest import OwnServerFactory

FRAMEWORKS: Final = ("FastAPI", "Starlette", "Litestar", "operations_app alone")
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
GOOD_ID: Final = "a-request.1"


def service_at(url: str, **more: Any) -> Service:
    settings = Settings(redis_url=RedisUrl(url), **more)
    return Service(ServiceOptions(settings=settings, configure_logging=False, process_default=False))


async def show(_: Request) -> Response:
    return PlainTextResponse("shown")


async def fail(_: Request) -> Response:
    raise RuntimeError("planted")


def fastapi(service: Service) -> FastAPI:
    """Included in what is included, and an application in an application in it."""
    lines, shops, inner_routes = (APIRouter(prefix=p) for p in ("/orders", "/shops/{shop}", "/included"))

    @lines.get("/{order}/lines/{line}")
    async def line(shop: str, order: int, line: int) -> str:
        return f"{shop} {order} {line}"

    @inner_routes.get("/{item}")
    async def item(item: str) -> str:
        return item

    shops.include_router(lines)
    innermost, middle, app = FastAPI(), FastAPI(), FastAPI(lifespan=service_lifespan(service))
    app.include_router(shops, prefix="/v1")
    innermost.include_router(inner_routes, prefix="/deep")
    innermost.get("/fail/{item}")(_fail_at)
    app.get("/fail/{item}")(_fail_at)
    middle.mount("/inner", innermost)
    app.mount("/outer", middle)
    app.router.routes.extend(service_routes(service))
    return app


async def _fail_at(item: str) -> None:
    raise RuntimeError("planted")


def starlette(service: Service) -> Starlette:
    inner = Starlette(routes=[Route("/items/{item}", show)])
    routes = [
        Mount("/a", routes=[Mount("/b", routes=[Route("/c/{d}", show)])]),
        Mount("/app", app=inner),
        Mount("/router", app=Router([Route("/items/{item}", show)])),
        Mount("/tenants/{tenant}", routes=[Mount("/b", routes=[Route("/c/{d}", show)])]),
        Route("/fail/{item}", fail),
        *service_routes(service),
    ]
    return Starlette(routes=routes, lifespan=service_lifespan(service))


def litestar(service: Service) -> Litestar:
    @get("/lines/{line:int}")
    async def line(shop: FromPath[str], line: FromPath[int]) -> str:
        return f"{shop} {line}"

    @get("/fail/{item:str}")
    async def fail_at(item: FromPath[str]) -> str:
        raise RuntimeError("planted")

    pages = asgi("/", is_mount=True, copy_scope=True)(operations_app(service))
    nested = LitestarRouter(
        "/shops/{shop:str}", route_handlers=[LitestarRouter("/orders", route_handlers=[line])]
    )
    operations = LitestarRouter("/internal", route_handlers=[pages])
    return Litestar([nested, fail_at, operations], lifespan=[service_lifespan(service)], openapi_config=None)


def operations_alone(service: Service) -> Any:
    return operations_app(service)


APPLICATIONS: Final = dict(zip(FRAMEWORKS, (fastapi, starlette, litestar, operations_alone), strict=True))


class Web:
    """A client of an application of a service, and what the service counted."""

    def __init__(self, service: Service, http: httpx.AsyncClient, prefix: str) -> None:
        self.service = service
        self.http = http
        self.prefix = prefix

    def page(self, path: str) -> str:
        """Where an operations page is."""
        return f"{self.prefix}{path}"

    def counted(self) -> set[tuple[str, ...]]:
        """Method, route and status of all requests so far."""
        counter = self.service.metrics.counter("aioinfra_http_requests_total")
        return {slot.values for slot in counter.slots()}


@asynccontextmanager
async def web(kind: str, service: Service) -> AsyncIterator[Web]:
    app: Any = APPLICATIONS[kind](service)
    transport = httpx.ASGITransport(
        ServiceMiddleware(app, service, access_log=False), raise_app_exceptions=False
    )
    async with AsyncExitStack() as stack:
        if kind == "Litestar":
            await stack.enter_async_context(app.lifespan())
        elif kind == "operations_app alone":
            await stack.enter_async_context(service)
        else:
            await stack.enter_async_context(app.router.lifespan_context(app))
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://test"))
        yield Web(service, http, "/internal" if kind == "Litestar" else "")


@pytest.fixture(params=FRAMEWORKS)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def names_on(parser: Any, page: str) -> set[str]:
    return {family.name for family in parser.text_string_to_metric_families(page)}


async def test_the_pages_of_a_service(kind: str, valkey_url: str) -> None:
    service = service_at(valkey_url)
    async with web(kind, service) as client:
        await client.http.get("/nowhere")
        live, ready = [await client.http.get(client.page(f"/health/{page}")) for page in ("live", "ready")]
        text = await client.http.get(client.page("/metrics"))
        asked = await client.http.get(client.page("/metrics"), headers={"accept": OPENMETRICS})
        refused = await client.http.post(client.page("/metrics"))
    assert (live.status_code, live.json()) == (200, {"status": "ok"})
    assert ready.status_code == 200
    told = ready.json()
    assert (told["status"], told["jobs"]["ok"], told["cache"]["state"]) == ("ok", True, "healthy")
    assert refused.status_code == 405
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "aioinfra_http_requests" in names_on(plain_text, text.text)
    assert asked.headers["content-type"].startswith(OPENMETRICS)
    assert "aioinfra_http_requests" in names_on(openmetrics, asked.text)
    assert 'trace_id="' in asked.text, "a request's duration leads to its log lines"


async def test_ready_is_not_live(kind: str, own_server: OwnServerFactory, valkey_url: str) -> None:
    """The cache's server is gone: degraded, with its outage. The jobs' server is gone: down, but live."""
    cache = own_server()
    async with web(kind, service_at(cache.url, jobs_redis_url=valkey_url)) as client:
        cache.kill()
        assert await client.service.cache.set("key", 1)
        degraded = await client.http.get(client.page("/health/ready"))
    gone = own_server(start=False)
    async with web(kind, service_at(valkey_url, jobs_redis_url=gone.url)) as client:
        down = await client.http.get(client.page("/health/ready"))
        live = await client.http.get(client.page("/health/live"))
    told = degraded.json()
    assert (degraded.status_code, told["status"]) == (200, "degraded")
    assert (told["jobs"]["ok"], told["cache"]["ok"]) == (True, False)
    assert told["cache"]["state"] != "healthy"
    assert told["cache"]["outage_seconds"] >= 0
    assert (down.status_code, down.json()["status"], live.status_code) == (503, "down", 200)
    assert down.json()["cache"]["ok"] is True


async def test_a_service_that_is_not_open_is_not_ready(valkey_url: str) -> None:
    transport = httpx.ASGITransport(operations_app(service_at(valkey_url)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/health/ready")).status_code == 503
        assert (await http.get("/health/live")).status_code == 200


@pytest.mark.parametrize("kind", FRAMEWORKS[:3], indirect=True)
async def test_a_500_carries_the_requests_id(kind: str, valkey_url: str) -> None:
    async with web(kind, service_at(valkey_url)) as client:
        failed = await client.http.get("/fail/1", headers={"x-request-id": GOOD_ID})
        counted = client.counted()
    assert (failed.status_code, failed.headers.get_list("x-request-id")) == (500, [GOOD_ID])
    (route,) = [route for method, route, status in counted if (method, status) == ("GET", "500")]
    assert route.startswith("/fail/{item")


TEMPLATES: Final = {
    "FastAPI": {
        "/v1/shops/s{}/orders/{}/lines/{}": "/v1/shops/{shop}/orders/{order}/lines/{line}",
        "/outer/inner/deep/included/i{}": "/outer/inner/deep/included/{item}",
        "/outer/inner/fail/{}": "/outer/inner/fail/{item}",
        "/outer/inner/nowhere/{}": "__unmatched__",
        "/v1/shops/s{}/nowhere": "__unmatched__",
    },
    "Starlette": {
        "/a/b/c/{}": "/a/b/c/{d}",
        "/app/items/{}": "/app/items/{item}",
        "/router/items/{}": "/router/items/{item}",
        "/tenants/t{}/b/c/1": "/c/{d}",  # what a mount's parameters hold is in no label
        "/a/b/nowhere/{}": "/a/b/*",
        "/tenants/t{}/b/nowhere/{}": "/b/*",
        "/tenants/t{}/nowhere/{}": "/tenants/{tenant}/*",
    },
    "Litestar": {
        "/shops/s{}/orders/lines/{}": "/shops/{shop}/orders/lines/{line}",
        "/internal/nowhere/{}": "/internal/*",
        "/shops/s{}/nowhere": "__unmatched__",
    },
}


@pytest.mark.parametrize("kind", TEMPLATES, indirect=True)
async def test_every_path_counts_under_its_full_template(kind: str, valkey_url: str) -> None:
    wanted = TEMPLATES[kind] | {"/nowhere/{}": "__unmatched__", "/{}": "__unmatched__"}
    async with web(kind, service_at(valkey_url)) as client:
        for path, template in wanted.items():
            before = client.counted()
            for number in range(3):
                await client.http.get(path.replace("{}", str(number)))
            new = {route for _, route, _ in client.counted() - before}
            assert new <= {template}, path
            assert template in {route for _, route, _ in client.counted()}, path
