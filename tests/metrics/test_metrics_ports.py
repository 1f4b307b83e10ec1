"""Several processes, each with its pages on a port of its own, on one list; and what a killed one leaves behind."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aioinfra.config import Settings
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import ConfigError
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.handle import JobHandle
from aioinfra.jobs.job import JobRequest
from aioinfra.service import Service, ServiceOptions
from aioinfra.testing.worker_process import WorkerProcess, WorkerProcessOptions
from aioinfra.web.operations_server import OperationsOptions, listen, operations_server
from aioinfra.web.scrape_targets import ScrapeTarget
from tests.conftest import free_port
from tests.metrics import metered_service
from tests.metrics.conftest import Prometheus

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = "tests.metrics.metered_service:service"
PATIENCE = 60.0
WORK = metered_service.work.name
FINISHED = "aioinfra_jobs_finished_total"


async def until(wanted: Callable[[], Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while not (found := await asyncio.to_thread(wanted)):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.02)
    return found


def listed(path: Path) -> list[str]:
    """The addresses on the list, which is whole at any time."""
    if not path.exists():
        return []
    return [entry["targets"][0] for entry in json.loads(path.read_text())]


def page(address: str) -> dict[tuple[str, tuple[str, ...]], float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as response:
        text = response.read().decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def succeeded(address: str, queue: str) -> float:
    return page(address).get((FINISHED, (queue, WORK, "succeeded")), 0)


def counted(addresses: list[str], queue: str) -> dict[str, float]:
    return {address: succeeded(address, queue) for address in addresses}


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def free_range(count: int) -> int:
    """The first of so many ports in a row that nobody listens on right now."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return first


@pytest.fixture
def queue(prefix: str) -> str:
    return f"metered-{prefix.rstrip(':')}"


@pytest.fixture
def environment(valkey_url: str, queue: str, tmp_path: Path) -> dict[str, str]:
    return {
        "REDIS_URL": valkey_url,
        "METERED_QUEUE": queue,
        "AIOINFRA_STATE_DIR": str(tmp_path / "state"),
        "SERVICE_NAME": "shop",
        "LOG_LEVEL": "warning",
    }


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[JobClient]:
    async with RedisClient(valkey_url) as redis:
        opened = JobClient(redis)
        yield opened
        await opened.aclose()


@asynccontextmanager
async def workers(
    count: int, environment: dict[str, str], *options: str
) -> AsyncIterator[list[WorkerProcess]]:
    wanted = WorkerProcessOptions(("--lease", "2", *options), env=environment, cwd=ROOT)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(WorkerProcess(TARGET, wanted)) for _ in range(count)]


@pytest.mark.timeout(180)
async def test_four_workers_are_scraped_and_one_that_is_killed_takes_nothing_with_it(
    environment: dict[str, str], client: JobClient, queue: str, tmp_path: Path
) -> None:
    environment["PROMETHEUS_PORT"] = str(first := free_range(8))
    targets = tmp_path / "state" / "metrics-targets.json"
    async with workers(4, environment) as started:
        addresses = await until(lambda: len(found := listed(targets)) == 4 and found)
        assert len({port_of(address) for address in addresses}) == 4
        assert all(first <= port_of(address) for address in addresses)
        await _run_jobs(client, queue, 40)
        counts = await until(lambda: sum((now := counted(addresses, queue)).values()) == 40 and now)

        dead = await _kill(started[1], addresses)
        others = sorted(set(addresses) - {dead})
        assert counted(others, queue) == {address: counts[address] for address in others}
        assert await until(lambda: all(map(page, others)) and sorted(listed(targets)) == others)
        await _run_jobs(client, queue, 30)
        await until(lambda: sum(counted(others, queue).values()) == 70 - counts[dead])
        for process in (started[0], started[2], started[3]):
            process.terminate()
        await until(lambda: listed(targets) == [])
    assert not list(targets.parent.glob("*.alive"))


async def _run_jobs(client: JobClient, queue: str, count: int) -> None:
    jobs: list[JobHandle[Any]] = [
        await client.enqueue(JobRequest(WORK, (one,), queue=queue)) for one in range(count)
    ]
    for job in jobs:
        await job.result(timeout=PATIENCE)


async def _kill(worker: WorkerProcess, addresses: list[str]) -> str:
    """SIGKILL it; the address that it had."""
    ports = {
        connection.laddr.port
        for connection in psutil.Process(worker.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    worker.kill()
    (address,) = [address for address in addresses if port_of(address) in ports]
    return address


@pytest.mark.timeout(120)
async def test_a_supervisors_workers_have_ports_by_their_places(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """A port that is taken is left out for the next free one. Who takes a killed one's place is listed."""
    first, targets = free_range(8), tmp_path / "elsewhere" / "targets.json"
    with socket.create_server(("127.0.0.1", first + 1)):
        options = ("--processes", "3", "--metrics-port", str(first), "--metrics-targets", str(targets))
        async with workers(1, environment, *options) as (supervisor,):
            addresses = await until(lambda: len(found := listed(targets)) == 3 and found)
            ports = {port_of(address) for address in addresses}
            assert first in ports
            assert ports <= {first, first + 2, first + 3}, "places 1 and 2 meet at the third port"
            children = psutil.Process(supervisor.pid).children()
            killed = next(child for child in children if "worker" in child.cmdline())
            killed.kill()
            await until(lambda: len(_answering(targets)) == 3 and killed.pid not in _pids(supervisor))
            supervisor.terminate()
            await until(lambda: listed(targets) == [])


def _answering(targets: Path) -> set[int]:
    """Ports on the list that answer, with which the list is tidied."""
    found = set()
    for address in listed(targets):
        try:
            page(address)
        except OSError:
            continue
        found.add(port_of(address))
    return found if len(found) == len(listed(targets)) else set()


def _pids(supervisor: WorkerProcess) -> set[int]:
    return {child.pid for child in psutil.Process(supervisor.pid).children()}


@pytest.mark.parametrize(
    "unset", [{"PROMETHEUS_ENABLED": "false"}, {"PROMETHEUS_PORT": ""}], ids=["disabled", "no port"]
)
async def test_without_a_port_or_disabled_nothing_is_served(
    environment: dict[str, str], unset: dict[str, str], client: JobClient, queue: str, tmp_path: Path
) -> None:
    environment |= {"PROMETHEUS_PORT": str(free_range(4))} | unset
    async with workers(1, environment) as (worker,):
        await _run_jobs(client, queue, 1)
        listening = [one for one in psutil.Process(worker.pid).net_connections() if one.status == "LISTEN"]
        assert not listening
        assert not (tmp_path / "state" / "metrics-targets.json").exists()


def service_on(port: int, url: str, directory: Path) -> Service:
    settings = Settings(prometheus_port=port, aioinfra_state_dir=directory)
    options = ServiceOptions(settings=settings, redis_url=url, process_default=False, configure_logging=False)
    return Service(options)


async def test_two_services_of_one_process_stand_beside_each_other(valkey_url: str, tmp_path: Path) -> None:
    port, targets = free_range(4), tmp_path / "metrics-targets.json"
    options = OperationsOptions(role="web")
    one, other = (service_on(port, valkey_url, tmp_path) for _ in range(2))
    async with one, other, operations_server(one, options) as first:
        async with operations_server(other, options) as second:
            assert port <= first < second
            assert listed(targets) == [f"127.0.0.1:{first}", f"127.0.0.1:{second}"]
            assert json.loads(targets.read_text())[0]["labels"] == {"service": "app", "role": "web"}
            shown = await asyncio.to_thread(page, f"127.0.0.1:{first}")
            assert shown["aioinfra_system_process_memory_bytes", ()] > 1 << 20
        assert listed(targets) == [f"127.0.0.1:{first}"]


@pytest.mark.timeout(150)
async def test_a_prometheus_server_follows_the_list(
    valkey_url: str, tmp_path: Path, prometheus: Callable[[str], Prometheus]
) -> None:
    targets = tmp_path / "state" / "metrics-targets.json"
    targets.parent.mkdir()
    server = prometheus(
        f"  - {{job_name: aioinfra, file_sd_configs: [{{files: ['{targets}'], refresh_interval: 1s}}]}}"
    )

    def up() -> set[str]:
        found = server.samples('up{service="app",role="worker"} == 1')
        return {labels["instance"] for labels, _ in found} if len(found) == len(server.targets()) else set()

    port = free_range(4)
    one, other = (service_on(port, valkey_url, targets.parent) for _ in range(2))
    async with one, other, operations_server(one) as first:
        async with operations_server(other) as second:
            both = {f"127.0.0.1:{first}", f"127.0.0.1:{second}"}
            await server.until(lambda: up() == both, PATIENCE)
        await server.until(lambda: up() == {f"127.0.0.1:{first}"}, PATIENCE)


async def test_a_list_that_cannot_be_written_is_no_reason_not_to_serve(
    valkey_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    opening = service_on(free_range(2), valkey_url, tmp_path / "file" / "below")
    async with opening as service, operations_server(service) as port:
        assert await asyncio.to_thread(page, f"127.0.0.1:{port}")
    assert "the list of metrics pages cannot be written" in caplog.text


def test_a_port_that_is_taken_is_left_out_and_a_foreign_host_named() -> None:
    first = free_range(3)
    with listen("127.0.0.1", first) as one, listen("127.0.0.1", first) as other:
        assert first == one.getsockname()[1] < other.getsockname()[1]
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", first)


# The list itself


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "targets.json"
    assert not list(tmp_path.glob("*.alive")), "nothing is left of those who have left"


def test_many_writers_at_once_all_stand_on_the_list(path: Path) -> None:
    """And a reader always finds it whole."""
    targets = [ScrapeTarget(path, f"127.0.0.1:{port}", {"role": "web"}) for port in range(9000, 9024)]
    done, torn = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            try:
                listed(path)
            except ValueError as error:
                torn.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for step in (ScrapeTarget.enter, ScrapeTarget.refresh):
        threads = [threading.Thread(target=step, args=(target,)) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert listed(path) == [f"127.0.0.1:{port}" for port in range(9000, 9024)]
    for target in targets:
        target.leave()
    done.set()
    reader.join()
    assert not torn
    assert listed(path) == []
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_what_was_tidied_away_comes_back(path: Path) -> None:
    target = ScrapeTarget(path, "127.0.0.1:9464", {})
    target.enter()
    for file in path.parent.iterdir():
        file.unlink()
    target.refresh()
    assert listed(path) == ["127.0.0.1:9464"]
    path.write_text("[{")  # somebody's editor
    target.refresh()
    assert listed(path) == ["127.0.0.1:9464"]
    target.leave()


def test_an_unchanged_list_is_not_written_again(path: Path) -> None:
    target = ScrapeTarget(path, "127.0.0.1:9464", {})
    target.enter()
    before = path.stat().st_ino
    target.refresh()
    assert path.stat().st_ino == before
    target.leave()
