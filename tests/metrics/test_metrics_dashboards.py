"""The Grafana dashboards and alerts of docs/grafana: they name what exists, and show it of a service that runs."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from aioinfra.config import Settings
from aioinfra.jobs.job import JobRequest
from aioinfra.metrics.catalogue import BY_NAME
from aioinfra.metrics.instruments import Counter
from aioinfra.service import Service, ServiceOptions
from aioinfra.testing.worker_process import WorkerProcess, WorkerProcessOptions
from aioinfra.web import ServiceMiddleware
from aioinfra.web.operations_server import OperationsOptions, operations_server
from tests.metrics import metered_service
from tests.metrics.conftest import Prometheus
from tests.metrics.test_metrics_ports import PATIENCE, ROOT, TARGET, free_range, listed, until

GRAFANA = ROOT / "docs" / "grafana"
ALERTS = GRAFANA / "alerts.yml"
BOARDS = sorted(GRAFANA.glob("*.json"))
OF_TARGETS: Final = frozenset({"service", "instance", "job", "role", "le"})
"""Labels that are the scrape's, or a histogram's own."""
UNSEEN: Final = ('outcome=~"error|fallback"', "aioinfra_jobs_store_errors_total")
"""What a service shows only while its server is away."""
NAME = re.compile(r"\baioinfra_[a-z0-9_]+")
LABELS = re.compile(r"\b(?:by|on|ignoring) \(([^)]*)\)")
MATCHED = re.compile(r"([a-z_]+)(?:=~|!=|!~|=)\"")
LEGEND = re.compile(r"{{([^}]*)}}")


def board(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def queries(path: Path) -> Iterator[tuple[str, str, str]]:
    """Title, expression and legend of all that a dashboard asks."""
    for panel in board(path)["panels"]:
        for target in panel.get("targets", ()):
            yield f"{path.stem}: {panel['title']}", target["expr"], target["legendFormat"]


def family(name: str) -> str:
    """The metric that a series' name belongs to."""
    for suffix in ("_bucket", "_sum", "_count"):
        base = name.removesuffix(suffix)
        if base in BY_NAME and BY_NAME[base].kind == "histogram":
            return base
    return name


def names_in(text: str) -> set[str]:
    return {family(name) for name in NAME.findall(text)}


def asked() -> set[str]:
    """All metrics that dashboards and alerts use."""
    rules = " ".join(re.findall(r"expr: (.*?)(?=\n +(?:for|labels):)", ALERTS.read_text(), re.DOTALL))
    return names_in(rules) | {
        name for path in BOARDS for _, expr, _ in queries(path) for name in names_in(expr)
    }


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_sound(path: Path) -> None:
    found = board(path)
    panels = found["panels"]
    assert found["uid"] == f"aioinfra-{path.stem}"
    assert {"datasource", "service", "instance"} == {one["name"] for one in found["templating"]["list"]}
    assert names_in(json.dumps(found["templating"])) <= BY_NAME.keys()
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert panel["type"] == "row" or panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_asks_for_what_is_in_the_catalogue(path: Path) -> None:
    for title, expr, legend in queries(path):
        names = names_in(expr)
        assert names, title
        assert names <= BY_NAME.keys(), title
        for name in NAME.findall(expr):
            assert (BY_NAME[family(name)].kind == "histogram") == (name != family(name)), f"{title}: {name}"
        known = OF_TARGETS.union(*(BY_NAME[name].labels for name in names))
        grouped = {label.strip() for labels in LABELS.findall(expr) for label in labels.split(",")}
        assert grouped | set(LEGEND.findall(legend)) | set(MATCHED.findall(expr)) <= known, title
        assert '{service=~"$service",instance=~"$instance"' in expr, title
        for name in names:
            rated = re.search(rf"(rate|increase)\({name}", expr)
            assert bool(rated) == (BY_NAME[name].kind != "gauge"), f"{title}: {name}"


def test_alerts_ask_for_what_is_in_the_catalogue() -> None:
    assert len(asked()) > 40
    assert asked() <= BY_NAME.keys()


def test_the_guides_table_is_the_catalogue() -> None:
    guide = (ROOT / "docs" / "observability-metrics.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(aioinfra_\w+)` (\|.*\|)$", guide, re.MULTILINE))
    assert told == {
        name: f"| {spec.kind} | {', '.join(spec.labels)} | {spec.help} |" for name, spec in BY_NAME.items()
    }


def promtool(*arguments: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on PATH")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_alerts() -> None:
    promtool("check", "rules", "--lint-fatal", str(ALERTS))


def test_alerts_fire_for_what_they_are_about_and_not_for_the_calm() -> None:
    promtool("test", "rules", str(Path(__file__).with_name("alert_cases.yml")))


# Against a service that runs


async def fine(_: Request) -> Response:
    return PlainTextResponse("fine")


async def fail(_: Request) -> Response:
    raise RuntimeError


async def block(_: Request) -> Response:
    time.sleep(0.3)  # noqa: ASYNC251 - blocking the loop is what is to be shown
    return PlainTextResponse("late")


class Running:
    """A web process, this one, and a worker process of one service, both busy, and where they are scraped."""

    def __init__(self, service: Service, web: httpx.AsyncClient, queue: str) -> None:
        self._service = service
        self._web = web
        self._queue = queue
        self._many = Counter("shop_many_total", "Too many.", service.metrics, ("id",), max_series=1)

    async def work(self) -> None:
        """A bit of everything, until cancelled."""
        number = 0
        while True:
            number += 1
            for path in ("/fine", "/fail", "/nowhere"):
                await self._web.get(path)
            if number % 20 == 1:
                await self._web.get("/block")
            self._many.labels(number).inc()
            await self._service.cache.set(f"{self._queue}:{number}", "x" * 5_000)
            for _ in range(3):
                await self._service.cache.get(f"{self._queue}:{number}")
            await self._service.cache.get(f"{self._queue}:none:{number}")
            for name, arguments in ((metered_service.work.name, (number,)), (metered_service.fail.name, ())):
                await self._service.jobs.enqueue(JobRequest(name, arguments, queue=self._queue))
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(url: str, queue: str, directory: Path) -> AsyncIterator[Path]:
    """Busy; yields the path of the list of targets."""
    first = free_range(4)
    environment = {
        "REDIS_URL": url,
        "METERED_QUEUE": queue,
        "AIOINFRA_STATE_DIR": str(directory),
        "SERVICE_NAME": "shop",
        "PROMETHEUS_PORT": str(first),
        "LOG_LEVEL": "critical",
    }
    settings = Settings(prometheus_port=first, aioinfra_state_dir=directory, service_name="shop")
    options = ServiceOptions(settings=settings, redis_url=url, process_default=False, configure_logging=False)
    async with AsyncExitStack() as stack:
        worker = WorkerProcessOptions(env=environment, cwd=ROOT)
        await stack.enter_async_context(WorkerProcess(TARGET, worker))
        service = await stack.enter_async_context(Service(options))
        await stack.enter_async_context(operations_server(service, OperationsOptions(role="web")))
        app = Starlette(routes=[Route("/fine", fine), Route("/fail", fail), Route("/block", block)])
        transport = httpx.ASGITransport(ServiceMiddleware(app, service), raise_app_exceptions=False)
        web = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://shop"))
        busy = asyncio.create_task(Running(service, web, queue).work())
        try:
            yield directory / "metrics-targets.json"
        finally:
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)


async def pages(addresses: list[str]) -> set[str]:
    """The metrics that have samples on the pages."""
    async with httpx.AsyncClient(timeout=30) as client:
        texts = [(await client.get(f"http://{address}/metrics")).text for address in addresses]
    return {
        family(sample.name)
        for text in texts
        for found in text_string_to_metric_families(text)
        for sample in found.samples
    }


@pytest.mark.timeout(150)
async def test_every_metric_is_on_the_pages_of_a_service_that_runs(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    wanted = asked() - set(UNSEEN)
    async with running(valkey_url, f"metered-{prefix.rstrip(':')}", tmp_path) as targets:
        addresses = await until(lambda: len(found := listed(targets)) == 2 and found)
        try:
            async with asyncio.timeout(PATIENCE):
                while missing := wanted - await pages(addresses):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.2)
        except TimeoutError:
            pytest.fail(f"nothing of {', '.join(sorted(missing))}")


@pytest.mark.timeout(200)
async def test_every_panel_shows_something_of_a_service_that_runs(
    valkey_url: str, prefix: str, tmp_path: Path, prometheus: Callable[[str], Prometheus]
) -> None:
    exprs = {(title, filled(expr)) for path in BOARDS for title, expr, _ in queries(path)}
    left = {(title, expr) for title, expr in exprs if not any(part in expr for part in UNSEEN)}
    assert len(left) > 70
    async with running(valkey_url, f"metered-{prefix.rstrip(':')}", tmp_path) as targets:
        server = prometheus(
            f"  - {{job_name: aioinfra, file_sd_configs: [{{files: ['{targets}'], refresh_interval: 1s}}]}}"
        )

        def ask() -> bool:
            left.difference_update([query for query in left if server.samples(query[1])])
            return not left

        try:
            await server.until(ask, 2 * PATIENCE)
        except AssertionError:
            pytest.fail("nothing for\n" + "\n".join(f"{title}: {expr}" for title, expr in sorted(left)))
        for _, expr in exprs:  # those that show nothing are no error either
            await asyncio.to_thread(server.samples, expr)


def filled(expr: str) -> str:
    """As Grafana asks, with all services and instances chosen."""
    return re.sub(r"\$(service|instance)\b", ".*", expr).replace("$__rate_interval", "20s")
