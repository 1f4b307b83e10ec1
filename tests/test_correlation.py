"""One correlation id from a request to its cache loader, its job, the retry, the nested job, to outgoing calls.

And nothing but a sound id: what a header must not hold is in no line, answer, metric, stored job or outgoing call.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest
import redis.asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aioinfra import Service, bound, get_logger, setup_logging
from aioinfra.config import RedisUrl, Settings
from aioinfra.context import is_valid_id
from aioinfra.jobs.retry import Retry
from aioinfra.service import ServiceOptions, WorkerSetup
from aioinfra.tracing import send_context
from aioinfra.web import ServiceMiddleware, service_routes

ID: Final = "one-id.7"
TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT: Final = f"00-{TRACE}-00f067aa0ba902b7-01"
OPENMETRICS: Final = {"accept": "application/openmetrics-text"}
PLANTED: Final = "PLANTED"

log = get_logger("tests.correlation")


@dataclass
class Elsewhere:
    """Another service: answers every request with 204, and keeps the heads as they came."""

    port: int = 0
    heads: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode("latin-1"))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    def sent(self, header: str) -> dict[str, list[str]]:
        """A header's values by path."""
        found: dict[str, list[str]] = {}
        for head in self.heads:
            first, *lines = head.splitlines()
            values = [line.partition(": ")[2] for line in lines if line.lower().startswith(f"{header}: ")]
            found[first.split()[1]] = values
        return found


@pytest.fixture
async def elsewhere() -> AsyncIterator[Elsewhere]:
    made = Elsewhere()
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    await server.wait_closed()


class Shop:
    """A request loads a price and enqueues a job, which is retried once and enqueues another."""

    def __init__(self, service: Service, queue: str, elsewhere: Elsewhere) -> None:
        self.service = service
        self._base = f"http://127.0.0.1:{elsewhere.port}"

        @service.cached(ttl=60, key_prefix=queue)
        async def load_price(item: str) -> str:
            log.info("price loads")
            await self.call("/price")
            return item

        @service.task(name=f"{queue}.pack", queue=queue)
        async def pack(item: str) -> None:
            attempts.append(item)
            log.info("pack runs")
            await self.call(f"/pack{len(attempts)}")
            if len(attempts) == 1:
                raise Retry(delay=0.001)
            await notify.delay(item)

        @service.task(name=f"{queue}.notify", queue=queue)
        def notify(item: str) -> None:  # in a thread
            log.info("notify runs")

        attempts: list[str] = []
        self._load_price, self._pack = load_price, pack

    async def call(self, path: str) -> None:
        hooks: Any = {"request": [send_context("127.0.0.1")]}
        async with httpx.AsyncClient(event_hooks=hooks, base_url=self._base, trust_env=False) as http:
            await http.get(path)

    async def order(self, request: Request) -> JSONResponse:
        log.info("order runs")
        await self._load_price("lamp")
        await self._pack.delay("lamp")
        await self.call("/order")
        return JSONResponse({})

    def app(self, **options: Any) -> ServiceMiddleware:
        routes = [Route("/order", self.order), *service_routes(self.service)]
        return ServiceMiddleware(Starlette(routes=routes), self.service, **options)

    async def work(self) -> None:
        worker = self.service.worker(WorkerSetup(burst=True), handle_signals=False)
        try:
            await asyncio.wait_for(worker.async_run(), 30)
        finally:
            await worker.close()


@dataclass
class Stage:
    """A shop, with what it wrote and where it calls."""

    shop: Shop
    elsewhere: Elsewhere
    text: io.StringIO
    logs: Any

    async def lines(self) -> list[dict[str, Any]]:
        await self.logs.aflush()
        return [json.loads(line) for line in self.text.getvalue().splitlines()]


@pytest.fixture
async def stage(valkey_url: str, prefix: str, elsewhere: Elsewhere) -> AsyncIterator[Stage]:
    settings = Settings(redis_url=RedisUrl(valkey_url))
    service = Service(ServiceOptions(settings=settings, configure_logging=False, process_default=False))
    text = io.StringIO()
    logs = setup_logging(log_level="info,httpx=warning", log_format="json", stream=text)
    try:
        shop = Shop(service, f"{prefix}queue", elsewhere)
        async with service:
            yield Stage(shop, elsewhere, text, logs)
    finally:
        logs.uninstall()


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as made:
        yield made


async def test_the_same_id_in_every_line_and_every_outgoing_call(stage: Stage) -> None:
    async with client(stage.shop.app()) as web:
        answer = await web.get("/order", headers={"x-request-id": ID, "traceparent": TRACEPARENT})
        await stage.shop.work()
        page = (await web.get("/metrics", headers=OPENMETRICS | {"x-request-id": "another"})).text
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, ID)
    ids: dict[str, list[str | None]] = {}
    for line in await stage.lines():
        if line["logger_name"] in {"tests.correlation", "aioinfra.jobs", "api.access"}:
            ids.setdefault(line["message"], []).append(line["request_id"])
    assert ids.pop("request") == [ID, "another"]
    for message, count in {
        "order runs": 1,
        "price loads": 1,
        "pack runs": 2,
        "notify runs": 1,
        "job started": 3,
        "job retried": 1,
        "job succeeded": 2,
    }.items():
        assert ids.pop(message, None) == [ID] * count, message
    paths = {"/order", "/price", "/pack1", "/pack2"}
    assert stage.elsewhere.sent("x-request-id") == {path: [ID] for path in paths}
    parents = stage.elsewhere.sent("traceparent")
    traces = {path: [value[3:35] for value in values] for path, values in parents.items()}
    assert traces == {path: [TRACE] for path in paths}, "beside the id, not instead of it"
    assert f'trace_id="{ID}"' in page


async def test_requests_at_the_same_time_keep_their_ids_apart(stage: Stage) -> None:
    ids = [f"request-{number}" for number in range(20)]
    async with client(stage.shop.app()) as web:
        answers = await asyncio.gather(*(web.get("/order", headers={"x-request-id": each}) for each in ids))
        await stage.shop.work()
    assert [answer.headers["x-request-id"] for answer in answers] == ids
    lines = await stage.lines()
    by_message = {
        message: sorted(line["request_id"] for line in lines if line["message"] == message)
        for message in ("order runs", "request", "notify runs")
    }
    assert set(by_message["order runs"]) == set(by_message["request"]) == set(ids)
    assert by_message["notify runs"] == sorted(ids), "each job's own"


HOSTILE_IDS: Final = {
    "8 KB": b"%s" % (PLANTED.encode() * 1_171),
    "CR LF": f"a\r\nset-cookie: {PLANTED}".encode(),
    "LF first": f"\n{PLANTED}".encode(),
    "CR last": f"{PLANTED}\r".encode(),
    "NUL": f"{PLANTED}\0".encode(),
    "ANSI": f"\x1b[31m{PLANTED}".encode(),
    "129 characters": (PLANTED + "x" * 122).encode(),
    "a line of JSON": f'","level":"{PLANTED}'.encode(),
    "not ASCII": f"é{PLANTED}".encode(),
    "a label": f'"}} 1\n{PLANTED}{{a="'.encode(),
}
HEADERS: Final = (b"x-request-id", b"x-correlation-id", b"traceparent", b"tracestate")


async def ask(app: Any, headers: list[tuple[bytes, bytes]], client: str = "203.0.113.9") -> list[Any]:
    """As a server would that lets everything pass: an HTTP client refuses to send such headers."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": "/order", "query_string": b"", "headers": headers}
    await app({**scope, "client": (client, 4711)}, receive, send)
    return sent


def answered_id(sent: list[Any]) -> str:
    (value,) = [value for name, value in sent[0]["headers"] if name == b"x-request-id"]
    text: str = value.decode()
    return text


@pytest.mark.parametrize("kind", HOSTILE_IDS)
async def test_a_header_that_is_no_id_appears_nowhere(
    kind: str, stage: Stage, valkey_url: str, prefix: str
) -> None:
    given = HOSTILE_IDS[kind]
    app = stage.shop.app()
    sent = [await ask(app, [(header, given)]) for header in HEADERS]
    sent.append(await ask(app, [(header, given) for header in HEADERS]))
    stored = await everything_stored(valkey_url, prefix)
    assert stored.count(b"lamp") >= len(sent), "the jobs are looked at before they run"
    await stage.shop.work()
    async with client(app) as web:
        pages = (await web.get("/metrics")).text + (await web.get("/metrics", headers=OPENMETRICS)).text
    lines = await stage.lines()
    ids = [answered_id(messages) for messages in sent]
    assert len(set(ids)) == len(ids), "each has one of its own"
    assert all(is_valid_id(each) and len(each) == 32 for each in ids)
    assert set(ids) <= {line["request_id"] for line in lines}
    everything = {
        "answers": repr(sent),
        "lines": stage.text.getvalue(),
        "metrics": pages,
        "stored": repr(stored) + repr(await everything_stored(valkey_url, prefix)),
        "outgoing": "".join(stage.elsewhere.heads),
    }
    for place, text in everything.items():
        assert PLANTED not in text, place
        assert "\x1b" not in text, place


async def everything_stored(url: str, prefix: str) -> bytes:
    """Keys and values of this test, as the server has them."""
    server = redis.asyncio.Redis.from_url(url)
    found = []
    try:
        async for key in server.scan_iter(match=f"*{prefix}*", count=1_000):
            found += [key, await server.dump(key) or b""]
        async for key in server.scan_iter(match="arq:job:*", count=1_000):
            value = await server.dump(key) or b""
            if prefix.encode() in value:
                found += [key, value]
    finally:
        await server.aclose()
    return b"\n".join(found)


UNSOUND_TRACES: Final = {
    "upper case": TRACEPARENT.upper(),
    "no trace": f"00-{'0' * 32}-00f067aa0ba902b7-01",
    "no parent": f"00-{TRACE}-{'0' * 16}-01",
    "version ff": f"ff{TRACEPARENT[2:]}",
    "more than version 00 has": f"{TRACEPARENT}-more",
    "too short": TRACEPARENT[:-1],
    "surrounded by blanks": f" {TRACEPARENT} ",
    "twice in one": f"{TRACEPARENT},{TRACEPARENT}",
}


@pytest.mark.parametrize("kind", UNSOUND_TRACES)
async def test_a_traceparent_that_is_not_sound_is_ignored_whole_and_the_id_stays(
    kind: str, stage: Stage
) -> None:
    given = UNSOUND_TRACES[kind].encode()
    headers = [(b"x-request-id", ID.encode()), (b"traceparent", given), (b"tracestate", PLANTED.encode())]
    assert answered_id(await ask(stage.shop.app(), headers)) == ID
    assert stage.elsewhere.sent("x-request-id") == {"/order": [ID], "/price": [ID]}
    for head in stage.elsewhere.heads:
        assert TRACE not in head.lower()
        assert PLANTED not in head


@pytest.mark.parametrize("trust", [False, lambda scope: scope["client"][0].startswith("10.")])
async def test_headers_of_whom_nobody_trusts_are_not_read(trust: Any, stage: Stage) -> None:
    app = stage.shop.app(trust_headers=trust)
    headers = [(b"x-request-id", b"PLANTED-id"), (b"traceparent", TRACEPARENT.encode())]
    stranger = answered_id(await ask(app, headers))
    neighbour = answered_id(await ask(app, headers, client="10.1.2.3"))
    await stage.shop.work()
    assert (len(stranger), neighbour == "PLANTED-id") == (32, trust is not False)
    lines = [line for line in await stage.lines() if line["message"] in {"request", "order runs"}]
    assert [line["request_id"] for line in lines] == [stranger, stranger, neighbour, neighbour]
    first = stage.elsewhere.heads[0]
    assert PLANTED not in first
    assert TRACE not in first


async def test_a_caller_who_has_set_the_header_keeps_it_and_other_hosts_get_none(
    elsewhere: Elsewhere,
) -> None:
    base = f"http://127.0.0.1:{elsewhere.port}"
    to_here: Any = {"request": [send_context("127.0.0.1")]}
    to_others: Any = {"request": [send_context("*.internal")]}
    with bound(request_id=ID):
        async with httpx.AsyncClient(event_hooks=to_here, base_url=base, trust_env=False) as http:
            await http.get("/own", headers={"X-Request-ID": "its-own"})
        async with httpx.AsyncClient(event_hooks=to_others, base_url=base, trust_env=False) as http:
            await http.get("/other")
    assert elsewhere.sent("x-request-id") == {"/own": ["its-own"], "/other": []}
