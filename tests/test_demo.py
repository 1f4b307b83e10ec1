"""The demo's parts: its client, its figures, its ledger, and that no process outlives it."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from email.message import EmailMessage
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from aioinfra.cli.demo.figures import Latencies, Rate, parse_metrics
from aioinfra.cli.demo.http import HttpConnection
from aioinfra.cli.demo.ledger import Ledger, Promise
from aioinfra.cli.demo.logs import LogFollower, LogLine
from aioinfra.cli.demo.picture import Mail, Picture, QueuePicture
from aioinfra.cli.demo.place import Place, example_directory, free_port
from aioinfra.cli.demo.processes import ChildDiedError, Children, Surroundings
from aioinfra.cli.demo.traffic import Kind, Pace, Traffic, Visitors
from aioinfra.cli.demo.view import draw, plain_line, sparkline


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - other processes set no event here
            await asyncio.sleep(0.02)


# --- figures


def test_quantiles_are_within_two_percent() -> None:
    source = random.Random(1)
    draws = [source.lognormvariate(-6, 1) for _ in range(5_000)]
    latencies = Latencies()
    for seconds in draws:
        latencies.add(seconds)
    for share in (0.5, 0.99, 1.0):
        exact = sorted(draws)[math.ceil(share * len(draws)) - 1]
        assert exact <= latencies.quantile(share) <= exact * 1.021
    assert math.isnan(Latencies().quantile(0.5))


def test_a_rate_forgets_what_is_older_than_its_window() -> None:
    rate = Rate(window=5.0)
    assert rate.value == 0.0
    for second in range(100):
        rate.sample(float(second), 1000.0 if second < 50 else 1000.0 + 7 * (second - 50))
    assert rate.value == pytest.approx(7.0)


PAGE = """\
# HELP jobs_total Finished.
# TYPE jobs_total counter
jobs_total{queue="a\\"b\\\\c\\nd}",outcome="ok",} 3 1700000000000
jobs_total{queue="email"} 2.5e+3
plain NaN
"""


def test_a_metrics_page_is_read_as_prometheus_own_parser_reads_it() -> None:
    ours = {(s.name, *sorted(s.labels.items())): s.value for s in parse_metrics(PAGE)}
    theirs = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(PAGE)
        for sample in family.samples
    }
    assert math.isnan(ours.pop(("plain",)))
    assert math.isnan(theirs.pop(("plain",)))
    assert ours == theirs


@pytest.mark.parametrize(
    "line", ['a{b="c} 1', "a", "a 1 2 3", "a{b=c} 1", "a{} x", "1a 1", 'a{b="\\x"} 1', "<html>"]
)
def test_a_malformed_metrics_page_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        list(parse_metrics(f"good 1\n{line}\n"))


# --- http


@asynccontextmanager
async def server(*answers: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Sends one prepared answer a request, then closes; gives its port and the requests it got."""
    requests: list[bytes] = []
    waiting = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError):
            while waiting:
                request = await reader.readuntil(b"\r\n\r\n")
                length = int(request.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                requests.append(request + await reader.readexactly(length))
                writer.write(waiting.pop(0))
                await writer.drain()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], requests


async def test_requests_share_a_connection_and_a_broken_one_is_told_and_replaced() -> None:
    first = b'HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\nX-Request-ID: abc\r\n\r\n{"id":"j"}'
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1]\r\n0\r\n\r\n"
    async with server(first, chunked) as (port, requests), HttpConnection(port) as connection:
        answer = await connection.request("POST", "/reports", {"package": "rich"})
        assert (answer.status, answer.headers["x-request-id"], answer.json()) == (202, "abc", {"id": "j"})
        assert requests[0].endswith(b'{"package": "rich"}')
        assert (await connection.request("GET", "/")).json() == [1]
        with pytest.raises(OSError, match=r"closed|reset"):
            await connection.request("GET", "/")
        with pytest.raises(OSError, match=r"closed|reset"):  # a new connection, which is closed as well
            await connection.request("GET", "/")


async def test_a_server_that_does_not_answer_is_given_up_on() -> None:
    async with server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal", b"") as (port, _):
        connection = HttpConnection(port, timeout=0.2)
        with pytest.raises(TimeoutError):
            await connection.request("GET", "/")


# --- traffic


def test_visitors_are_the_same_for_the_same_seed_and_prefer_a_few_packages() -> None:
    names = [f"package-{number}" for number in range(50)]
    one, two = Visitors(names, 1), Visitors(names, 1)
    visits = [one.draw() for _ in range(5_000)]
    assert visits == [two.draw() for _ in range(5_000)]
    popularity = Counter(visit.package for visit in visits if visit.kind is Kind.PACKAGE)
    assert sum(count for _, count in popularity.most_common(5)) > 0.4 * popularity.total()
    assert len(popularity) > 40
    addresses = [visit.body["email"] for visit in visits if visit.body]
    assert len(addresses) == len(set(addresses)) > 10  # the ledger tells readers apart by their address


async def test_traffic_keeps_its_pace_and_counts_what_is_not_as_expected() -> None:
    async with server(*[b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"] * 30) as (port, _):
        ledger = Ledger()
        traffic = Traffic(port, Visitors(["rich"], 1), ledger, Pace(500.0))
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.run(stop))
            await until(lambda: traffic.figures.failures > 60)  # 30 answers, then a server that closes
            stop.set()
        assert traffic.figures.statuses == {500: 30}
        assert any("status 500, not 202" in fault for fault in traffic.figures.faults)
        assert not ledger.views
        assert not ledger.promises


# --- ledger


def promise(number: int = 1) -> Promise:
    return Promise(f"job-{number}", f"req-{number}", "rich", f"reader-{number}@example.org")


def write_report(directory: Path, one: Promise, request_id: str | None = None) -> Path:
    path = directory / f"{one.report_id}.html"
    path.write_text(
        f'<!DOCTYPE html><html><head><meta name="report-id" content="{one.report_id}"/>'
        f'<meta name="request-id" content="{request_id or one.request_id}"/>'
        f'<meta name="package" content="{one.package}"/></head><body>&lt;</body></html>',
        encoding="utf-8",
    )
    return path


def write_message(maildir: Path, to: str, name: str) -> None:
    for folder in ("tmp", "new", "cur"):
        (maildir / folder).mkdir(parents=True, exist_ok=True)
    message = EmailMessage()
    message["To"] = to
    (maildir / "new" / name).write_bytes(bytes(message))


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    for number in (1, 2):
        ledger.accept(promise(number))
    return ledger


def test_a_ledger_whose_reports_messages_views_and_lines_are_all_there_has_no_losses(
    ledger: Ledger, tmp_path: Path
) -> None:
    for one in ledger.promises.values():
        write_report(tmp_path, one)
        write_message(tmp_path / "maildir", one.email, one.report_id)
    ledger.views["rich"] = 3
    lines = [LogLine("worker-1", "", "info", f"req-{number}", "", {}) for number in (1, 2)]
    assert ledger.lost_reports(tmp_path) == []
    assert ledger.lost_messages(tmp_path / "maildir") == []
    assert ledger.lost_views({"rich": 3}) == []
    assert ledger.lost_lines(lines) == []


def test_reports_that_are_missing_cut_or_another_requests_are_lost(ledger: Ledger, tmp_path: Path) -> None:
    ledger.accept(promise(3))
    ledger.accept(promise(3))
    cut = write_report(tmp_path, promise(1))
    cut.write_bytes(cut.read_bytes()[:-10])
    write_report(tmp_path, promise(2), request_id="req-9")
    assert ledger.lost_reports(tmp_path) == [
        "1 report not well-formed: job-1",
        "1 report with the wrong request-id: job-2",
        "1 report not written: job-3",
        "1 report given an id that another report has: job-3",
    ]


def test_messages_that_are_missing_or_doubled_are_lost(ledger: Ledger, tmp_path: Path) -> None:
    write_message(tmp_path, "reader-2@example.org", "a")
    write_message(tmp_path, "reader-2@example.org", "b")
    assert ledger.lost_messages(tmp_path) == [
        "1 message not delivered, for report: job-1",
        "1 message delivered more than once, for report: job-2",
    ]


def test_views_counted_too_seldom_too_often_or_for_nobody_are_lost(ledger: Ledger) -> None:
    ledger.views.update({"rich": 3, "pip": 2, "h11": 1})
    assert ledger.lost_views({"rich": 2, "pip": 2, "h11": 2, "mypy": 1}) == [
        "3 packages with wrong analytics: h11 2, not 1, mypy 1, not 0, rich 2, not 3"
    ]


def test_a_report_without_a_workers_log_line_is_told(ledger: Ledger) -> None:
    lines = [LogLine("worker-1", "", "info", "req-2", "", {})]
    assert ledger.lost_lines(lines) == ["1 report without a worker's log line: job-1"]


# --- logs and view


def test_a_log_is_followed_by_whole_lines_and_other_output_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "worker-1.log"
    path.write_bytes(b'Traceback:\n{"message": "one", "request_id": "r", "queue": "email"}\n{"mess')
    follower = LogFollower(path)
    assert [(line.source, line.request_id, line.message) for line in follower.read()] == [
        ("worker-1", "r", "one")
    ]
    with path.open("ab") as file:
        file.write(b'age": "two"}\n[]\nnull\n')
    assert [line.message for line in follower.read()] == ["two"]
    assert list(follower.read()) == []


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60), (40, 10)])
def test_the_live_view_fits_any_terminal(size: tuple[int, int]) -> None:
    picture = Picture("http://127.0.0.1:8000", Path("/tmp/demo"), 2)  # noqa: S108 - only shown
    console = Console(width=size[0], height=size[1], force_terminal=True, color_system=None)
    for filled in (False, True):
        if filled:
            picture.queues["email"] = QueuePicture(1, 2, 3)
            picture.reports = [promise(), Promise("j", "r", "x" * 80, "e", "running", 5.0, 10.0)]
            picture.mails.append(Mail("a@example.org", "s" * 200, Path("/m")))
            picture.lines.append(
                LogLine("w", "2026-01-01T00:00:00Z", "error", "r" * 200, "m", {"a": "[b]\x1b[2J"})
            )
        with console.capture() as capture:
            console.print(draw(picture, *size), end="")
        lines = capture.get().split("\n")
        assert len(lines) <= size[1] + 1
        assert max(len(line) for line in lines) <= size[0]
        assert "\x1b[2J" not in capture.get()
    assert "email 1+2" in plain_line(picture)


def test_a_sparkline_rises_to_its_top() -> None:
    assert sparkline([0, 1, 2, 4, 8], 5) == "▁▂▃▅█"
    assert sparkline([0.5], 3, top=1.0) == "  ▅"
    assert sparkline([], 4) == "    "


# --- place and processes


def test_the_environment_leads_nowhere_but_into_the_runs_own_directory(tmp_path: Path) -> None:
    inherited = {
        "PATH": "/bin",
        "REDIS_URL": "redis://:secret@prod",
        "JOBS_REDIS_URL": "x",
        "LOG_LEVEL": "debug",
    }
    inherited |= {"ENVIRONMENT": "production", "CELERY_BROKER_URL": "redis://prod", "PYTHONPATH": "/mine"}
    place = Place.create(tmp_path)
    environment = place.environment(inherited, None)
    assert not [name for name, value in environment.items() if "prod" in value or "REDIS_URL" in name]
    assert environment["PATH"] == "/bin"
    assert environment["PYTHONPATH"] == f"{example_directory().parent}{os.pathsep}/mine"
    assert Path(environment["AIOINFRA_STATE_DIR"]).parent == place.directory
    assert place.environment(inherited, "redis://scratch")["REDIS_URL"] == "redis://scratch"


def test_a_port_that_is_asked_for_and_taken_is_an_error() -> None:
    taken = free_port()
    with socket.create_server(("127.0.0.1", taken)), pytest.raises(OSError, match="in use"):
        free_port(taken)


CHILD = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("told to stop", flush=True)))
print("started", sys.argv, flush=True)
time.sleep(60)
"""


def surroundings(tmp_path: Path) -> Surroundings:
    (tmp_path / "sleeper.py").write_text(CHILD, encoding="utf-8")
    return Surroundings(tmp_path, tmp_path, dict(os.environ) | {"PYTHONPATH": str(tmp_path)})


async def test_children_are_stopped_in_order_and_one_that_ends_by_itself_is_told(tmp_path: Path) -> None:
    async with Children(surroundings(tmp_path)) as children:

        def ended() -> bool:
            children.check()
            return False

        child = await children.start("one", "sleeper", "argument")
        await until(lambda: "argument" in child.log.read_text())
        children.check()
        await children.start("two", "no_such_module")
        with pytest.raises(ChildDiedError, match=r"two ended with 1[\s\S]*no_such_module"):
            await until(ended)
        assert await children.stop() == {"two": 1, "one": 0}
    assert "told to stop" in child.log.read_text()


STARTER = """
import asyncio, os, signal, sys
from pathlib import Path
from aioinfra.cli.demo.processes import Children, Surroundings

async def main():
    place = Path(sys.argv[1])
    async with Children(Surroundings(place, place, dict(os.environ))) as children:
        child = await children.start("one", "sleeper")
        while "started" not in child.log.read_text():
            await asyncio.sleep(0.02)
        print(child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_child_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    place = surroundings(tmp_path)
    starter = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        STARTER,
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        env=dict(place.environment),
    )
    output, _ = await starter.communicate()
    assert starter.returncode == -signal.SIGKILL
    pid = int(output)
    await until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())
    assert "told to stop" in (tmp_path / "one.log").read_text()
