"""The operations pages: metrics, live, ready; under Starlette, mounted, and as a plain ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from aioinfra.metrics.instruments import Counter
from aioinfra.metrics.registry import MetricsRegistry
from aioinfra.web import routes as routes_module
from aioinfra.web.routes import health_routes, metrics_route


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


async def fine() -> Mapping[str, Any]:
    return {"status": "ok", "cache": {"status": "ok"}}


@pytest.mark.parametrize("prefix", ["", "/internal"])
async def test_the_pages_answer_where_they_are_put(prefix: str) -> None:
    registry = MetricsRegistry()
    Counter("app_total", "Things.", registry, ("kind",)).labels('a"b').inc()
    pages: list[Any] = [metrics_route(registry), *health_routes(fine)]
    app = Starlette(routes=[Mount(prefix, routes=pages)] if prefix else pages)
    async with client(app) as web:
        metrics = await web.get(f"{prefix}/metrics")
        live = await web.get(f"{prefix}/health/live")
        ready = await web.get(f"{prefix}/health/ready")
        refused = await web.post(f"{prefix}/metrics")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    (family,) = text_string_to_metric_families(metrics.text)
    assert family.samples[0].labels == {"kind": 'a"b'}
    assert (live.status_code, live.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "cache": {"status": "ok"}})
    assert refused.status_code == 405


@pytest.mark.parametrize(("status", "code"), [("ok", 200), ("degraded", 200), ("down", 503)])
async def test_ready_means_that_work_can_be_done(status: str, code: int) -> None:
    async def check() -> Mapping[str, Any]:
        return {"status": status}

    async with client(Starlette(routes=health_routes(check))) as web:
        ready, live = await web.get("/health/ready"), await web.get("/health/live")
    assert (ready.status_code, ready.json()["status"]) == (code, status)
    assert live.status_code == 200


async def test_a_check_that_hangs_is_down_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "_HEALTH_TIMEOUT", 0.05)

    async def hang() -> Mapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async with client(Starlette(routes=health_routes(hang))) as web:
        ready = await asyncio.wait_for(web.get("/health/ready"), 5)
        live = await web.get("/health/live")
    assert ready.status_code == 503
    assert ready.json()["status"] == "down"
    assert live.status_code == 200


async def test_a_check_that_raises_is_down_and_tells_no_secret() -> None:
    async def fail() -> Mapping[str, Any]:
        raise ConnectionError("redis://:hunter2-PLANTED@host refused")

    async with client(Starlette(routes=health_routes(fail))) as web:
        ready = await web.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["status"] == "down"
    assert "hunter2" not in ready.text
