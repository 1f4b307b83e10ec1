"""The same application with and without the extras, tokens and collectors: it starts, answers, and asks nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from aioinfra.errors import InvalidArgument
from aioinfra.tracing import TracingOptions, current_tracing, initialize
from aioinfra.tracing.setup import forget

ROOT = Path(__file__).resolve().parents[2]
SECRET = "pylf_v1_us_hunter2PLANTED"

APPLICATION = """
import asyncio, json, sys
import httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from aioinfra import Service
from aioinfra.config import Settings
from aioinfra.service import WorkerSetup
from aioinfra.tracing import context_headers, current_tracing, is_initialized
from aioinfra.web import ServiceMiddleware

service = Service.from_env()
ran = []

@service.task(name="work", queue=sys.argv[1])
async def work():
    ran.append(context_headers())

async def endpoint(request):
    await work.delay()
    return PlainTextResponse("done")

async def main():
    async with service:
        app = ServiceMiddleware(Starlette(routes=[Route("/", endpoint)]), service)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as web:
            answer = await web.get("/", headers={"X-Request-ID": "one-id"})
        worker = service.worker(WorkerSetup(burst=True), handle_signals=False)
        await worker.async_run()
        await worker.close()
        return answer

answer = asyncio.run(main())
print(json.dumps({
    "status": answer.status_code,
    "id": answer.headers["x-request-id"],
    "job": [headers.get("x-request-id") for headers in ran],
    "traced": [bool(headers.get("traceparent")) for headers in ran],
    "initialized": is_initialized(),
    "opentelemetry": "opentelemetry" in sys.modules,
}))
"""

HIDDEN = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
"""

AS_EVER = {"status": 200, "id": "one-id", "job": ["one-id"]}


def has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


needs_logfire = pytest.mark.skipif(not has("logfire"), reason="logfire is not installed")
needs_otlp = pytest.mark.skipif(
    not has("opentelemetry.exporter.otlp.proto.http"), reason="the OTLP exporter is not installed"
)


class Application:
    """Runs the application in a process of its own, at a terminal."""

    def __init__(self, url: str, queue: str, directory: Path) -> None:
        self._queue = queue
        self._directory = directory
        ours = ("OTEL_", "LOGFIRE_", "REDIS_", "JOBS_REDIS", "ENVIRONMENT")
        self._variables = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self._variables |= {"PYDANTIC_DISABLE_PLUGINS": "__all__"}  # Logfire, where it is installed, is one
        self._variables |= {"REDIS_URL": url, "PYTHONPATH": str(ROOT), "ENVIRONMENT": "production"}
        self.log = ""

    def start(self, *hidden: str, before: str = "", **variables: str) -> dict[str, Any]:
        source = (HIDDEN % (hidden,) if hidden else "") + before + APPLICATION
        controller, terminal = pty.openpty()
        try:
            done = subprocess.run(
                [sys.executable, "-c", source, self._queue],
                cwd=self._directory,
                env={**self._variables, **variables},
                stdin=terminal,  # whoever would ask, could
                capture_output=True,
                text=True,
                timeout=40,
                check=False,
            )
        finally:
            os.close(controller)
            os.close(terminal)
        self.log = done.stderr
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.fixture
def application(valkey_url: str, prefix: str, tmp_path: Path) -> Application:
    return Application(valkey_url, f"{prefix}queue", tmp_path)


def test_without_a_destination_nothing_of_opentelemetry_is_loaded(application: Application) -> None:
    answer = application.start()
    assert answer == AS_EVER | {"traced": [False], "initialized": False, "opentelemetry": False}
    assert "tracing" not in application.log


@pytest.mark.parametrize(
    "variables",
    [{}, {"LOGFIRE_TOKEN": SECRET}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}],
    ids=["nothing set", "a token", "a collector"],
)
def test_without_the_extras_it_starts_the_same_and_says_what_is_missing(
    application: Application, variables: dict[str, str]
) -> None:
    answer = application.start("opentelemetry", "logfire", **variables)
    assert answer == AS_EVER | {"traced": [False], "initialized": False, "opentelemetry": False}
    assert application.log.count("no tracing:") == len(variables)
    assert SECRET not in application.log


def test_spans_to_the_console_are_of_one_trace(application: Application) -> None:
    answer = application.start(OTEL_TRACES_EXPORTER="console")
    assert answer == AS_EVER | {"traced": [True], "initialized": True, "opentelemetry": True}
    assert '"name": "GET /"' in application.log
    assert '"name": "job work"' in application.log


def test_opentelemetrys_own_switch_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert initialize() is None


CONFIGURED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
own = TracerProvider()
trace.set_tracer_provider(own)
import atexit
from aioinfra.tracing.setup import global_provider
def check():
    assert global_provider() is own
atexit.register(check)
"""


def test_an_applications_own_provider_is_used_and_left_alone(application: Application) -> None:
    answer = application.start(before=CONFIGURED, LOGFIRE_TOKEN=SECRET)
    assert answer == AS_EVER | {"traced": [True], "initialized": True, "opentelemetry": True}


@needs_logfire
def test_logfire_without_a_token_starts_and_never_asks(application: Application) -> None:
    chosen = "import aioinfra.tracing as t; t.initialize(t.TracingOptions(exporter='logfire'))"
    answer = application.start(before=chosen)
    assert answer == AS_EVER | {"traced": [True], "initialized": True, "opentelemetry": True}
    assert "logfire" not in application.log.lower()


@needs_logfire
def test_logfire_with_a_token_that_leads_nowhere_starts_as_well(application: Application) -> None:
    answer = application.start(LOGFIRE_TOKEN=SECRET, LOGFIRE_BASE_URL="http://127.0.0.1:9")
    assert answer == AS_EVER | {"traced": [True], "initialized": True, "opentelemetry": True}
    assert SECRET not in application.log


class Collector(BaseHTTPRequestHandler):
    """Takes what an OTLP exporter posts."""

    posted: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.posted.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    posted: list[tuple[str, bytes]] = []
    server = HTTPServer(("127.0.0.1", 0), type("Recording", (Collector,), {"posted": posted}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()
    thread.join()
    server.server_close()


@needs_otlp
def test_spans_reach_a_collector(
    application: Application, collector: tuple[str, list[tuple[str, bytes]]]
) -> None:
    url, posted = collector
    answer = application.start(
        OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_COMPRESSION="none", SERVICE_NAME="shop"
    )
    assert answer["initialized"] is True
    sent = b"".join(body for path, body in posted if path == "/v1/traces")
    assert all(text in sent for text in (b"shop", b"job work", b"GET /", b"one-id"))


FORKED = """
import json, os
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry import trace
from aioinfra.tracing import initialize, is_initialized
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name + "\\n")))
trace.set_tracer_provider(provider)
parent = initialize()
child = os.fork()
if child == 0:
    assert not is_initialized(), "the parent's set-up is not the child's"
    own = initialize()
    assert own is not None and own is not parent and own.pid == os.getpid()
    assert is_initialized() and initialize() is own
    own.ended("of the child", "ok", 0.001)
    provider.force_flush()
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert initialize() is parent
"""


def test_a_forked_child_decides_for_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], cwd=ROOT, capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "of the child\n"


def test_threads_that_initialize_at_once_get_the_same() -> None:
    from opentelemetry.sdk.trace import TracerProvider

    forget()
    try:
        with ThreadPoolExecutor(8) as threads:
            options = [TracingOptions(provider=TracerProvider()) for _ in range(8)]
            found = set(threads.map(initialize, options))
        assert found == {current_tracing()}
        assert None not in found
    finally:
        forget()


def test_importing_loads_nothing_of_opentelemetry() -> None:
    code = "import sys, aioinfra.web, aioinfra.tracing; print([n for n in sys.modules if 'opentelem' in n])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYDANTIC_DISABLE_PLUGINS": "__all__"},  # Logfire, where it is installed, is one
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("cache_sampling", 2),
        ("cache_sampling", True),
        ("cache_sampling", float("nan")),
        ("exporter", "jaeger"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=argument):
        TracingOptions(**{argument: value})


def test_the_token_is_in_no_view_of_the_options() -> None:
    assert SECRET not in repr(TracingOptions(logfire_token=SECRET))
