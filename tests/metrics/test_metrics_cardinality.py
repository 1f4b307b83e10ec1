"""Whoever asks for paths that do not exist gets no series for it; what exists counts under its template."""

from __future__ import annotations

import random
import string
from typing import Any, Final

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from aioinfra.metrics.exposition import render_now
from aioinfra.metrics.observers import HttpMetrics
from aioinfra.metrics.registry import MetricsRegistry
from aioinfra.web import RequestMiddleware

TEMPLATES: Final = {
    "/shops/{shop}": "/shops/7",
    "/api/v1/shops/{shop}/items/{item}": "/api/v1/shops/7/items/x",
    "/inner/things/{thing}": "/inner/things/a",
    "/plain/{name}": "/plain/b",
}
"""Included, nested, mounted and mounted plain: template and a path that it answers."""


def application() -> FastAPI:
    async def show(_: Request) -> Response:
        return PlainTextResponse("")

    def routed(path: str) -> APIRouter:
        router = APIRouter()
        router.add_api_route(path, show, methods=["GET"])
        return router

    app, inner = FastAPI(), FastAPI()
    app.include_router(routed("/shops/{shop}"))
    middle, outer = APIRouter(prefix="/shops/{shop}"), APIRouter(prefix="/v1")
    middle.include_router(routed("/{item}"), prefix="/items")
    outer.include_router(middle)
    app.include_router(outer, prefix="/api")
    inner.include_router(routed("/{thing}"), prefix="/things")
    app.mount("/inner", inner)
    app.router.routes.append(Mount("/plain", app=Starlette(routes=[Route("/{name}", show)])))
    return app


class Visitor:
    """Sends requests into an application, without a server between."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.answers: dict[int, int] = {}

    async def ask(self, method: str, path: str) -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.answers[message["status"]] = self.answers.get(message["status"], 0) + 1

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
        }
        await self._app(scope, receive, send)


def series(registry: MetricsRegistry) -> set[tuple[str, tuple[str, ...]]]:
    """What requests have made: counters and histograms by their labels."""
    counters = registry.counter("aioinfra_http_requests_total").slots()
    histograms = registry.histogram("aioinfra_http_request_seconds").slots()
    return {("counter", slot.values) for slot in counters} | {
        ("histogram", slot.values) for slot in histograms
    }


@pytest.mark.timeout(180)
async def test_ten_thousand_random_paths_add_at_most_ten_series() -> None:
    registry, draw = MetricsRegistry(), random.Random(5)
    visitor = Visitor(RequestMiddleware(application(), HttpMetrics(registry), access_log=False))
    for path in TEMPLATES.values():
        await visitor.ask("GET", path)
    before = series(registry)
    assert {("counter", ("GET", template, "200")) for template in TEMPLATES} <= before

    def word() -> str:
        return "".join(
            draw.choices(string.ascii_letters + string.digits + '%-._~{}"\\', k=draw.randint(1, 12))
        )

    for _ in range(2_000):
        await visitor.ask("GET", f"/{word()}/{word()}/{word()}")
        await visitor.ask("GET", f"/api/v1/shops/{word()}/{word()}")
        await visitor.ask("GET", f"/inner/{word()}")
        await visitor.ask("POST", f"/shops/{word()}")
        await visitor.ask(word().upper(), f"/api/v1/shops/{word()}/items/{word()}")
    assert visitor.answers == {200: len(TEMPLATES), 404: 6_000, 405: 4_000}
    added = series(registry) - before
    assert 4 <= len(added) <= 10, added
    total = sum(slot.value for slot in registry.counter("aioinfra_http_requests_total").slots())
    assert total == 10_000 + len(TEMPLATES), "each is counted"
    assert b"__other__" not in render_now(registry)
