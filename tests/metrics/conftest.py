"""A real Prometheus server for the tests of what it scrapes, and a page for it to scrape."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aioinfra.metrics.exposition import answer
from aioinfra.metrics.registry import MetricsRegistry
from tests.conftest import free_port


class Prometheus:
    """A server of its own, with a configuration (YAML) of scrapes; scrapes every second."""

    def __init__(self, directory: Path, scrapes: str) -> None:
        self.port = free_port()
        self._errors = directory / "prometheus.log"
        configuration = directory / "prometheus.yml"
        configuration.write_text(f"global: {{scrape_interval: 1s}}\nscrape_configs:\n{scrapes}\n")
        command = [
            "prometheus",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--enable-feature=exemplar-storage",
        ]
        with self._errors.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(self, path: str, **parameters: str) -> Any:
        """What the HTTP API answers, None while it does not."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            if error.code != 503:  # it starts
                raise
            return None
        except OSError:
            assert self._process.poll() is None, self._errors.read_text()
            return None

    async def until(self, wanted: Callable[[], Any], seconds: float = 30) -> Any:
        """Wait, with the loop free, until ``wanted`` gives something true."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            found = await asyncio.to_thread(wanted)
            if found:
                return found
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"not in {seconds} s; targets: {self.ask('targets')}")
            await asyncio.sleep(0.05)

    def targets(self) -> dict[str, Any]:
        """The targets by their address."""
        active = (self.ask("targets") or {}).get("activeTargets", [])
        return {target["scrapeUrl"]: target for target in active}

    async def scraped(self, count: int = 1) -> dict[str, Any]:
        """The targets, when so many have been scraped."""

        def look() -> dict[str, Any]:
            found = self.targets()
            done = [target for target in found.values() if target["health"] != "unknown"]
            return found if len(done) >= count else {}

        found: dict[str, Any] = await self.until(look)
        return found

    def samples(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of everything that a query finds."""
        found = (self.ask("query", query=query) or {}).get("result", [])
        return [(series["metric"], float(series["value"][1])) for series in found]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[str], Prometheus]]:
    """Starts a server; skips the test where there is none."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on PATH")
    started: list[Prometheus] = []

    def start(scrapes: str) -> Prometheus:
        started.append(Prometheus(tmp_path, scrapes))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@asynccontextmanager
async def serving(registry: MetricsRegistry) -> AsyncIterator[int]:
    """The page of a registry on a port: ``/metrics`` as it is asked for, ``/text`` in the text format."""

    async def negotiated(request: Request) -> Response:
        page, content_type = await answer(registry, request.headers.get("accept"))
        return Response(page, headers={"content-type": content_type})

    async def text(_: Request) -> Response:
        page, content_type = await answer(registry)
        return Response(page, headers={"content-type": content_type})

    app = Starlette(routes=[Route("/metrics", negotiated), Route("/text", text)])
    port = free_port()
    config = uvicorn.Config(app, port=port, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # older releases have it
    task = asyncio.create_task(server._serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
            assert not task.done()
        yield port
    finally:
        server.should_exit = True
        await task
