"""One trace from a request to a nested job, as an in-memory exporter sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from aioinfra import context
from aioinfra.backoff import Backoff
from aioinfra.config import RedisUrl, Settings
from aioinfra.jobs.retry import Retry
from aioinfra.service import Service, ServiceOptions, WorkerSetup
from aioinfra.tracing import TracingOptions, context_headers, initialize, is_initialized, send_context
from aioinfra.tracing.setup import forget
from aioinfra.web import ServiceMiddleware

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
SECRET = "hunter2-PLANTED"

EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module")
def provider() -> Iterator[TracerProvider]:
    """OpenTelemetry takes one global provider a process, and FastAPI looks at the global one alone."""
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(EXPORTER))
    # By patches: `set_tracer_provider` cannot be undone, and every later test of this process would be traced.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", made)
        assert trace.get_tracer_provider() is made
        yield made


@pytest.fixture(autouse=True)
def tracing(provider: TracerProvider) -> Iterator[None]:
    EXPORTER.clear()
    initialize(TracingOptions(cache_sampling=1.0))
    yield
    forget()


def spans() -> list[ReadableSpan]:
    return list(EXPORTER.get_finished_spans())


def named(name: str) -> ReadableSpan:
    (found,) = [span for span in spans() if span.name == name]
    return found


def named_or_none(name: str) -> ReadableSpan | None:
    return next((span for span in spans() if span.name == name), None)


def below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    assert span.context is not None
    assert parent.context is not None
    return (
        span.parent is not None
        and span.parent.span_id == parent.context.span_id
        and span.context.trace_id == parent.context.trace_id
    )


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


class Shop:
    """Its request loads an item and enqueues a job, which is retried once and enqueues another."""

    def __init__(self, service: Service, queue: str) -> None:
        self.service = service
        self.seen: dict[str, dict[str, str]] = {}
        self.attempts = 0

        @service.task(name="outer", queue=queue)
        async def outer(text: str) -> None:
            self.note("outer")
            self.attempts += 1
            if self.attempts == 1:
                raise Retry(delay=0.001)
            await inner.delay(text)

        @service.task(name="inner", queue=queue)
        def inner(text: str) -> None:  # in a thread
            self.note("inner")

        @service.task(name="failing", queue=queue, retry_on=())
        async def failing() -> None:
            raise ValueError(SECRET)

        @service.cached(ttl=60, key_prefix=queue)
        async def load(item: str) -> str:
            self.note("loader")
            if item == "bad":
                raise LookupError(SECRET)
            return item

        self.outer, self.failing, self.load = outer, failing, load

    def note(self, place: str) -> None:
        self.seen[place] = context_headers()

    async def handle(self, item: str) -> dict[str, str]:
        self.note("handler")
        await self.load(item)
        await self.outer.delay(SECRET)
        return {"item": item}

    async def work(self) -> None:
        worker = self.service.worker(WorkerSetup(burst=True), handle_signals=False)
        try:
            await asyncio.wait_for(worker.async_run(), 20)
        finally:
            await worker.close()

    def application(self, kind: str) -> Any:
        async def endpoint(request: Request) -> Response:
            return JSONResponse(await self.handle(request.path_params["item"]))

        api = FastAPI()
        api.get("/items/{item}")(self.handle)
        app: Any = Starlette(routes=[Route("/items/{item}", endpoint), Mount("/api", api)])
        if kind == "FastAPI inside":
            api.add_middleware(ServiceMiddleware, service=self.service)
            return api
        if kind == "FastAPI not tracing":
            api = FastAPI(telemetry={"tracing": False})
            api.get("/items/{item}")(self.handle)
        return ServiceMiddleware(app if kind in ("Starlette", "mounted") else api, self.service)


@pytest.fixture
async def shop(valkey_url: str, prefix: str) -> AsyncIterator[Shop]:
    settings = Settings(redis_url=RedisUrl(valkey_url))
    service = Service(ServiceOptions(settings=settings, configure_logging=False))
    shop = Shop(service, f"{prefix}queue")
    async with service:
        yield shop


KINDS = ("Starlette", "mounted", "FastAPI", "FastAPI inside", "FastAPI not tracing")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_its_job_and_the_nested_job_are_one_trace(kind: str, shop: Shop) -> None:
    path = "/api/items/7" if kind == "mounted" else "/items/7"
    async with client(shop.application(kind)) as web:
        response = await web.get(path, headers={"traceparent": TRACEPARENT, "X-Request-ID": "one-id"})
    assert response.json() == {"item": "7"}
    await shop.work()

    [server] = [span for span in spans() if span.kind is SpanKind.SERVER]
    assert server.name == f"GET {path.replace('7', '{item}')}"
    assert server.parent is not None
    assert f"{server.parent.trace_id:032x}-{server.parent.span_id:016x}" == f"{TRACE_ID}-{PARENT_ID}"
    first, second = sorted(
        (span for span in spans() if span.name == "job outer"), key=lambda span: span.start_time or 0
    )
    inner, load = named("job inner"), named("cache load")
    assert below(inner, second)
    for child in (first, second, load):
        assert child.parent is not None
        assert is_under(child, server), f"{child.name} is under the request"
    assert first.parent == second.parent, "attempts stand beside each other"
    assert [span.attributes and span.attributes["aioinfra.attempt"] for span in (first, second)] == [1, 2]
    assert {f"{span.context.trace_id:032x}" for span in spans() if span.context} == {TRACE_ID}
    assert first.status.status_code is StatusCode.UNSET, "a retry that was asked for is no error"
    assert SECRET not in "".join(span.to_json() for span in spans())

    for place, headers in shop.seen.items():
        assert headers["x-request-id"] == "one-id", place
        assert headers["traceparent"][3:35] == TRACE_ID, place
    assert set(shop.seen) == {"handler", "loader", "outer", "inner"}
    for span in (first, second, inner, load):
        assert span.attributes is not None
        assert span.attributes["aioinfra.request_id"] == "one-id"


def is_under(span: ReadableSpan, ancestor: ReadableSpan) -> bool:
    by_id = {each.context.span_id: each for each in spans() if each.context}
    parent = span.parent
    while parent is not None and parent.span_id in by_id:
        if by_id[parent.span_id] is ancestor:
            return True
        parent = by_id[parent.span_id].parent
    return False


async def test_what_fails_is_marked_and_its_text_is_nowhere(shop: Shop) -> None:
    async def fail(_: Request) -> Response:
        with pytest.raises(LookupError):
            await shop.load("bad")
        raise RuntimeError(SECRET)

    async with client(ServiceMiddleware(Starlette(routes=[Route("/fail", fail)]), shop.service)) as web:
        assert (await web.get(f"/fail?token={SECRET}")).status_code == 500
    await shop.failing.delay()
    await shop.work()
    for name in ("GET /fail", "cache load", "job failing"):
        assert named(name).status.status_code is StatusCode.ERROR, name
    server, job = named("GET /fail"), named("job failing")
    assert server.attributes is not None
    assert (server.attributes["error.type"], server.attributes["http.response.status_code"]) == (
        "RuntimeError",
        500,
    )
    assert job.attributes is not None
    assert job.attributes["error.type"] == "ValueError"
    assert job.parent is None, "a job that nobody's trace asked for starts its own"
    assert SECRET not in "".join(span.to_json() for span in spans())


async def test_every_attempt_of_a_failing_job_is_a_span_under_its_request(shop: Shop, prefix: str) -> None:
    attempts = 0

    @shop.service.task(name="flaky", queue=f"{prefix}queue", retry=Backoff(tries=3, base=0.001))
    async def flaky() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectionError(SECRET)
        await shop.load(f"of attempt {attempts}")

    async def endpoint(_: Request) -> Response:
        await flaky.delay()
        return PlainTextResponse("accepted")

    async with client(ServiceMiddleware(Starlette(routes=[Route("/", endpoint)]), shop.service)) as web:
        await web.get("/")
    await shop.work()

    tries = sorted(
        (span for span in spans() if span.name == "job flaky"), key=lambda span: span.start_time or 0
    )
    assert [span.attributes and span.attributes["aioinfra.attempt"] for span in tries] == [1, 2, 3]
    assert all(is_under(span, named("GET /")) for span in tries)
    assert [span.status.status_code for span in tries] == [
        StatusCode.ERROR,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    assert [span.attributes and span.attributes.get("error.type") for span in tries] == [
        "ConnectionError",
        "ConnectionError",
        None,
    ]
    assert below(named("cache load"), tries[2]), "a loader that a job calls is below that attempt"
    assert SECRET not in "".join(span.to_json() for span in spans())


async def test_a_job_that_is_aborted_ends_its_span(shop: Shop, prefix: str) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    @shop.service.task(name="endless", queue=f"{prefix}queue")
    async def endless() -> None:
        begun.set()
        await never.wait()

    with trace.get_tracer("test").start_as_current_span("asks"):
        handle = await endless.delay()
    worker = asyncio.create_task(shop.work())
    await asyncio.wait_for(begun.wait(), 20)
    assert named_or_none("job endless") is None, "it runs"
    await handle.abort()
    await worker
    span = named("job endless")
    assert below(span, named("asks"))
    assert span.end_time is not None
    assert span.attributes is not None
    assert span.attributes["error.type"] == "CancelledError"
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert not span.events


async def test_a_bulk_carries_the_trace(shop: Shop) -> None:
    with trace.get_tracer("test").start_as_current_span("bulk"):
        await shop.service.jobs.enqueue_many([shop.outer.job(str(n)) for n in range(3)])
    shop.attempts = 1  # none is retried
    await shop.work()
    parent = named("bulk")
    jobs = [span for span in spans() if span.name == "job outer"]
    assert len(jobs) == 3
    assert all(below(job, parent) for job in jobs)


async def test_cache_operations_are_sampled_inside_of_a_trace(shop: Shop) -> None:
    await shop.service.cache.get("outside")
    with trace.get_tracer("test").start_as_current_span("some work"):
        await shop.service.cache.get("inside")
    assert below(named("cache get"), named("some work"))

    forget()
    tracing = initialize(TracingOptions(cache_sampling=0.0))
    assert tracing is not None
    EXPORTER.clear()
    shop.service.cache._plan.observer._tracing = tracing  # type: ignore[union-attr]  # the one that traces
    with trace.get_tracer("test").start_as_current_span("some work"):
        await shop.service.cache.get("inside")
    assert [span.name for span in spans()] == ["some work"]


async def test_whoever_has_made_a_server_span_makes_the_only_one(shop: Shop) -> None:
    async def show(_: Request) -> Response:
        return PlainTextResponse(context.traceparent() or "")

    app = ServiceMiddleware(Starlette(routes=[Route("/", show)]), shop.service)
    tracer = trace.get_tracer("an instrumentation around us")
    async with client(app) as web:
        with tracer.start_as_current_span("GET", kind=SpanKind.SERVER):
            await web.get("/")
    assert [span.name for span in spans() if span.kind is SpanKind.SERVER] == ["GET"]


async def test_the_trace_goes_out_with_httpx(shop: Shop) -> None:
    sent: list[httpx.Request] = []

    def other(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    hooks = {"request": [send_context("*.internal")]}
    async with httpx.AsyncClient(transport=httpx.MockTransport(other), event_hooks=hooks) as outgoing:
        with trace.get_tracer("test").start_as_current_span("call"), context.bound(request_id="one-id"):
            await outgoing.get("http://api.internal/")
            await outgoing.get("http://elsewhere.example/")
    ours, others = sent
    call = named("call")
    assert call.context is not None
    assert ours.headers["traceparent"][:52] == f"00-{call.context.trace_id:032x}-{call.context.span_id:016x}"
    assert ours.headers["x-request-id"] == "one-id"
    assert "traceparent" not in others.headers
    assert "x-request-id" not in others.headers
    assert is_initialized()
