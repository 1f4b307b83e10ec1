"""The middleware around real Starlette applications: ids, context, access log, metrics by route."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import random
import string
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from aioinfra import context
from aioinfra.logs import Logging, get_logger, setup_logging
from aioinfra.metrics.exposition import render_now
from aioinfra.metrics.observers import HttpMetrics
from aioinfra.metrics.registry import MetricsRegistry
from aioinfra.web.middleware import RequestMiddleware

GOOD_ID = "abc-DEF_1.2"


class Observed:
    """Every request as the observer was told of it."""

    def __init__(self) -> None:
        self.started = 0
        self.finished: list[tuple[str, str, int]] = []

    def request_started(self) -> None:
        self.started += 1

    def request_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.finished.append((method, route, status))


async def answer(request: Request) -> Response:
    context.set_request_context(user_id=7)
    get_logger("app").info("handling")
    return JSONResponse({"request_id": context.request_id()}, headers={"X-Request-ID": "application's own"})


def answer_in_a_thread(request: Request) -> Response:
    context.set_request_context(user_id="from a thread")
    return PlainTextResponse(context.request_id() or "")


async def fail(request: Request) -> Response:
    raise RuntimeError("planted")


async def stream(request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        yield (context.request_id() or "").encode()
        await asyncio.sleep(0)
        yield (context.request_id() or "").encode()

    return StreamingResponse(chunks())


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


def application(**options: Any) -> Starlette:
    inner = Starlette(routes=[Route("/items/{item}", answer), Route("/fail", fail)])
    return Starlette(
        routes=[
            Route("/", answer),
            Route("/users/{user:int}", answer),
            Route("/thread", answer_in_a_thread),
            Route("/fail", fail),
            Route("/stream", stream),
            Mount("/inner", inner),
            WebSocketRoute("/ws", echo),
        ],
        **options,
    )


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


@pytest.fixture
def observed() -> Observed:
    return Observed()


async def test_every_request_has_an_id_in_its_answer_and_its_context(observed: Observed) -> None:
    async with client(RequestMiddleware(application(), observed)) as web:
        first, second = await web.get("/"), await web.get("/")
    for response in (first, second):
        (given,) = response.headers.get_list("x-request-id")
        assert response.json() == {"request_id": given}, "the application's own header is replaced"
        assert len(given) == 32
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert context.request_id() is None, "nothing stays behind"


@pytest.mark.parametrize("header", ["X-Request-ID", "X-Correlation-ID", "x-request-id"])
async def test_a_sound_id_from_outside_is_kept(header: str) -> None:
    async with client(RequestMiddleware(application())) as web:
        response = await web.get("/", headers={header: GOOD_ID})
    assert response.headers["x-request-id"] == GOOD_ID
    assert response.json() == {"request_id": GOOD_ID}


@pytest.mark.parametrize(
    "given",
    [
        b"x" * 8_192,
        b"a b",
        b"a\r\nSet-Cookie: x",
        b"\nabc",
        b"urn:uuid:1",
        b"",
        b"\xff\xfe",
        b"{id}",
        b"x" * 129,
    ],
)
async def test_any_other_id_appears_nowhere(given: bytes, observed: Observed) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"x-request-id", given)],
    }
    await RequestMiddleware(application(), observed)(scope, receive, send)
    (value,) = [value for name, value in sent[0]["headers"] if name == b"x-request-id"]
    assert context.is_valid_id(value.decode())
    assert len(value) == 32
    assert not given or given not in json.dumps(repr(sent)).encode()


async def test_an_id_sent_twice_is_not_trusted() -> None:
    async with client(RequestMiddleware(application())) as web:
        response = await web.get("/", headers=[("X-Request-ID", "one"), ("X-Request-ID", "two")])
    assert response.headers["x-request-id"] not in {"one", "two", "one, two"}


@pytest.mark.parametrize("place", ["around Starlette", "add_middleware", "around plain ASGI"])
async def test_a_500_carries_the_id_and_the_error_still_leaves(place: str, observed: Observed) -> None:
    async def plain(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("planted")

    app: Any = RequestMiddleware(application(), observed)
    if place == "add_middleware":
        app = application()
        app.add_middleware(RequestMiddleware, observer=observed)
    elif place == "around plain ASGI":
        app = RequestMiddleware(plain, observed)
    async with client(app) as web:
        response = await web.get("/fail", headers={"X-Request-ID": GOOD_ID})
    assert response.status_code == 500
    assert response.text == "Internal Server Error"
    assert response.headers.get_list("x-request-id") == [GOOD_ID]
    assert [(method, status) for method, _, status in observed.finished] == [("GET", 500)]
    with pytest.raises(RuntimeError, match="planted"):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as web:
            await web.get("/fail")


async def test_an_applications_own_500_is_left_to_it(observed: Observed) -> None:
    async def own(request: Request, error: Exception) -> Response:
        return PlainTextResponse("sorry", status_code=500)

    inside = application(exception_handlers={Exception: own})
    inside.add_middleware(RequestMiddleware, observer=observed)
    outside = RequestMiddleware(application(exception_handlers={500: own}), observed)
    for app in (inside, outside):
        async with client(app) as web:
            assert (await web.get("/fail")).text == "sorry"
    assert [status for _, _, status in observed.finished] == [500, 500]


@pytest.mark.parametrize("kind", ["async", "sync", "object", "debug"])
@pytest.mark.parametrize("within", [False, True])
async def test_an_applications_own_500_around_the_middleware_carries_the_id(kind: str, within: bool) -> None:
    calls = []

    async def own(request: Request, error: Exception) -> Response:
        return own_sync(request, error)

    def own_sync(request: Request, error: Exception) -> Response:
        calls.append(request.headers["X-Request-ID"])
        return PlainTextResponse("sorry", status_code=500, headers={"X-Request-ID": "its own"})

    class Own:
        async def __call__(self, request: Request, error: Exception) -> Response:
            return own_sync(request, error)

    handler = {"async": own, "sync": own_sync, "object": Own()}.get(kind)
    app = application(debug=kind == "debug", exception_handlers={Exception: handler} if handler else {})
    app.add_middleware(RequestMiddleware)
    ids = [f"id-{index}" for index in range(3)]
    async with client(app) as web:
        for each in ids:
            response = await web.get("/inner/fail" if within else "/fail", headers={"X-Request-ID": each})
            assert response.status_code == 500
            assert response.headers.get_list("x-request-id") == [each]
        assert (await web.get("/", headers={"X-Request-ID": GOOD_ID})).headers["x-request-id"] == GOOD_ID
    assert calls == (ids if handler else []), "the handler runs once a request"


async def test_whoever_logs_the_error_outside_logs_the_requests_id() -> None:
    """As uvicorn does when the middleware has long ended the request's scope."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        context.set_request_context(user_id=7, tenant="t-1")
        raise RuntimeError("planted")

    async def unused(*_: Any) -> Any: ...

    stream = io.StringIO()
    logs = setup_logging("info", log_format="json", stream=stream)
    try:
        headers = [(b"x-request-id", GOOD_ID.encode())]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
        try:
            await RequestMiddleware(failing)(scope, unused, unused)
        except RuntimeError:
            logging.getLogger("server").exception("Exception in ASGI application\n")
        logging.getLogger("server").info("next")
        logs.flush()
    finally:
        logs.uninstall()
    _, line, after = (json.loads(text) for text in stream.getvalue().splitlines())
    assert line["message"].startswith("Exception in ASGI application")
    assert (line["request_id"], line["user_id"], line["tenant"]) == (GOOD_ID, 7, "t-1")
    assert after["request_id"] is None


async def test_a_client_that_goes_away_counts_as_499(observed: Observed) -> None:
    started = asyncio.Event()

    async def never(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    async def unused(*_: Any) -> Any:
        raise AssertionError

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    running = asyncio.create_task(RequestMiddleware(never, observed)(scope, unused, unused))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [status for _, _, status in observed.finished] == [499]


async def test_requests_count_under_templates(observed: Observed) -> None:
    async with client(RequestMiddleware(application(), observed)) as web:
        for method, path in [
            ("GET", "/users/1"),
            ("GET", "/users/2"),
            ("POST", "/users/2"),
            ("BREW", "/users/2"),
            ("GET", "/inner/items/a"),
            ("GET", "/inner/fail"),
            ("GET", "/nowhere"),
        ]:
            await web.request(method, path)
    users = "/users/{user:int}"
    assert observed.finished == [
        ("GET", users, 200),
        ("GET", users, 200),
        ("POST", users, 405),
        ("OTHER", users, 405),
        ("GET", "/inner/items/{item}", 200),
        ("GET", "/inner/fail", 500),
        ("GET", "__unmatched__", 404),
    ]
    assert observed.started == 7


async def test_a_mounts_parameter_never_becomes_a_label(observed: Observed) -> None:
    async def show(_: Request) -> Response:
        return Response()

    items = [Route("/items/{id}", show), Route("/all", show)]
    app = RequestMiddleware(Starlette(routes=[Mount("/tenants/{id}", routes=items)]), observed)
    async with client(app) as web:
        for tenant in range(5):
            await web.get(f"/tenants/t{tenant}/items/1")
            await web.get(f"/tenants/t{tenant}/all")
    templates = {route for _, route, _ in observed.finished}
    assert len(templates) <= 3  # the first visit cannot be told from a mount without parameters
    assert {"/items/{id}", "/all"} <= templates


async def test_ten_thousand_random_paths_and_methods_add_few_series() -> None:
    registry = MetricsRegistry()
    app = RequestMiddleware(application(), HttpMetrics(registry), access_log=False)
    draw = random.Random(7)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        return

    async def request(method: str, path: str) -> None:
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
        await app(scope, receive, send)

    def word() -> str:
        return "".join(draw.choices(string.ascii_letters, k=8))

    for _ in range(5_000):
        await request("GET", f"/{word()}/{word()}")
        await request(word().upper(), f"/users/{draw.randint(1, 10**9)}")
    requests = registry.counter("aioinfra_http_requests_total")
    assert sum(slot.value for slot in requests.slots()) == 10_000
    assert len(requests.slots()) <= 10
    assert registry.gauge("aioinfra_http_requests_in_flight").labels().value == 0
    assert b"__other__" not in render_now(registry)


async def test_a_stream_keeps_its_context_to_the_end() -> None:
    async with client(RequestMiddleware(application())) as web:
        response = await web.get("/stream", headers={"X-Request-ID": GOOD_ID})
    assert response.text == GOOD_ID * 2


async def test_concurrent_requests_do_not_mix() -> None:
    async with client(RequestMiddleware(application())) as web:
        answers = await asyncio.gather(*(web.get("/", headers={"X-Request-ID": f"r{n}"}) for n in range(50)))
    assert [answer.json()["request_id"] for answer in answers] == [f"r{n}" for n in range(50)]


async def test_a_websocket_passes(observed: Observed) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/ws", "query_string": b"", "headers": []}
    await RequestMiddleware(application(), observed)(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert observed.finished == []


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Logging, io.StringIO]]:
    for name in ("LOG_LEVEL", "LOG_FORMAT", "ENVIRONMENT", "SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    stream = io.StringIO()
    made = setup_logging("info", log_format="json", stream=stream)
    yield made, stream
    made.uninstall()


async def test_one_access_line_carries_the_requests_context(logged: tuple[Logging, io.StringIO]) -> None:
    logging_, stream = logged
    async with client(RequestMiddleware(application())) as web:
        await web.get("/users/5?token=hunter2-PLANTED", headers={"X-Request-ID": GOOD_ID})
        await web.get("/thread", headers={"X-Request-ID": "second"})
    assert logging_.flush(10)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    lines = [line for line in lines if line["logger_name"] in {"app", "api.access"}]
    assert [line["request_id"] for line in lines] == [GOOD_ID, GOOD_ID, "second"]
    access = lines[1]
    assert (access["method"], access["path"], access["status"]) == ("GET", "/users/5", 200)
    assert access["route"] == "/users/{user:int}"
    assert access["user_id"] == 7, "what the handler set is known here"
    assert lines[2]["user_id"] == "from a thread"
    assert "token" not in access["path"], "queries are not logged"
    assert "hunter2" not in stream.getvalue(), "nor shown by the HTTP client's own line"


async def test_a_hostile_path_is_one_line(logged: tuple[Logging, io.StringIO]) -> None:
    logging_, stream = logged
    async with client(RequestMiddleware(application())) as web:
        await web.get("/a%0d%0aforged%1b[31m" + "x" * 20_000)
    assert logging_.flush(10)
    (line,) = [line for line in stream.getvalue().splitlines() if "api.access" in line]
    assert "\x1b" not in line
    assert len(line) < 20_000


async def test_the_access_log_can_be_off(logged: tuple[Logging, io.StringIO]) -> None:
    logging_, stream = logged
    logging.getLogger("httpx").setLevel(logging.WARNING)
    async with client(RequestMiddleware(application(), access_log=False)) as web:
        await web.get("/nowhere")
    assert logging_.flush(10)
    assert "api.access" not in stream.getvalue()
    logging.getLogger("httpx").setLevel(logging.NOTSET)
