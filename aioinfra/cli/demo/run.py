"""One run of the demo, from the first process to the verdict.

web process -> worker processes -> traffic, and a look every half second -> the time is up, or Ctrl-C
-> no more traffic -> wait until the queues are empty -> stop the processes -> hold the ledger to the files
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console

from aioinfra.cli.demo.figures import parse_metrics
from aioinfra.cli.demo.http import HttpConnection
from aioinfra.cli.demo.ledger import Ledger
from aioinfra.cli.demo.logs import LogLine, read_all
from aioinfra.cli.demo.monitor import Monitor, Watched
from aioinfra.cli.demo.picture import Picture
from aioinfra.cli.demo.place import Place, free_port, free_ports
from aioinfra.cli.demo.processes import ChildDiedError, Children, Surroundings
from aioinfra.cli.demo.serve import Serving
from aioinfra.cli.demo.summary import Outcome, print_outcome, trace_of
from aioinfra.cli.demo.traffic import Pace, Traffic, Visitors
from aioinfra.cli.demo.view import view_for
from aioinfra.clock import SYSTEM_CLOCK

START_TIMEOUT: Final = 30.0  # seconds until a process answers
HEALTH_TIMEOUT: Final = 5.0  # seconds from its start in which it may answer that it is not well
SEED: Final = 7


class DemoFailedError(Exception):
    """The demo could not start, or could not go on."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line says.

    Attributes:
        seconds: how long it serves; None until Ctrl-C.
        port: of the web process; 0 takes the usual one, or any.
        workers: number of worker processes.
        rate: requests per second.
        directory: parent of the run's directory.
        redis_url: a server to use instead of the embedded one.
    """

    seconds: float | None = None
    port: int = 0
    workers: int = 2
    rate: float = 200.0
    directory: Path = Path(".aioinfra/demo")
    redis_url: str | None = field(default=None, repr=False)


async def run_demo(options: DemoOptions, console: Console) -> int:
    """Run the demo and print its summary. Returns the exit code: 0 when nothing was lost.

    Raises:
        DemoFailedError: it could not start, or could not go on; the message says why.
    """
    demo = Demo(options, console)
    with _stop_signals(demo.stop):
        try:
            outcome = await demo.run()
        except (ChildDiedError, OSError, ValueError) as error:
            raise DemoFailedError(f"{error}\nThe logs are in {demo.place.logs}") from error
    print_outcome(console, outcome)
    return 1 if outcome.losses else 0


class Demo:
    """The parts of one run. Used once."""

    def __init__(self, options: DemoOptions, console: Console) -> None:
        self.stop = asyncio.Event()
        self.place = Place.create(options.directory)
        self._options = options
        self._console = console
        self._ledger = Ledger()
        self._port = free_port(options.port)
        self._metrics_ports = free_ports(options.workers)
        self._picture = Picture(f"http://127.0.0.1:{self._port}", self.place.directory, options.workers)
        self._picture.seconds = options.seconds

    async def run(self) -> Outcome:
        """Start, serve, drain, stop, judge."""
        environment = self.place.environment(os.environ, self._options.redis_url)
        surroundings = Surroundings(self.place.directory, self.place.logs, environment)
        async with Children(surroundings) as children, HttpConnection(self._port) as connection:
            await self._start(children, connection)
            names = [listing["name"] for listing in (await connection.request("GET", "/packages")).json()]
            traffic = Traffic(self._port, Visitors(names, SEED), self._ledger, Pace(self._options.rate))
            await self._serve(children, traffic)
            counted = (await connection.request("GET", "/analytics")).json()
            series = len(list(parse_metrics((await connection.request("GET", "/metrics")).body.decode())))
            codes = await children.stop()
        worker_lines = [line for log in self._worker_logs() for line in read_all(log)]
        losses = self._losses(traffic, counted, worker_lines) + [
            f"{name} had to be killed" for name, code in codes.items() if code == -signal.SIGKILL
        ]
        trace = trace_of(self._ledger, self.place, worker_lines)
        return Outcome(self._picture, traffic.figures, self._ledger, self.place, series, trace, losses)

    async def _start(self, children: Children, connection: HttpConnection) -> None:
        """The web process first, then the workers: each is ready before the traffic begins."""
        arguments = ("--port", str(self._port), "--no-access-log", "--timeout-keep-alive", "75")
        self._console.print(f"Starting the demo in {self.place.directory}", soft_wrap=True, highlight=False)
        self.place.plant_outdated_report()
        await children.start("web", "uvicorn", "catalogue.app:app", *arguments)
        await _ready(children, self._port, "/health/ready")
        stats = (await connection.request("GET", "/stats")).json()
        if any(depth["waiting"] for depth in stats["queues"].values()):
            raise DemoFailedError(
                "the queues on that Redis are not empty: give the demo a database of its own"
            )
        for number, metrics_port in enumerate(self._metrics_ports, 1):
            await children.start(
                f"worker-{number}",
                *("aioinfra", "worker", "catalogue.service:service", "--metrics-port", str(metrics_port)),
            )
        for metrics_port in self._metrics_ports:
            await _ready(children, metrics_port, "/metrics")

    async def _serve(self, children: Children, traffic: Traffic) -> None:
        self._console.print(f"Serving on {self._picture.url}", highlight=False)
        watched = Watched(self._port, self._metrics_ports, self._worker_logs())
        monitor = Monitor(self._picture, watched, traffic, self._ledger)
        view = view_for(self._console)
        view.start()
        try:
            await Serving(children, traffic, monitor, view, self._picture, self._ledger).run(self.stop)
        finally:
            view.stop()
            monitor.close()

    def _losses(self, traffic: Traffic, counted: dict[str, int], worker_lines: list[LogLine]) -> list[str]:
        """Everything that is not as it was promised; empty when nothing was lost."""
        losses = [f"{count} x {fault}" for fault, count in traffic.figures.faults.most_common()]
        losses += [
            f"{queue.waiting + queue.running} jobs still in {name}"
            for name, queue in self._picture.queues.items()
            if queue.waiting + queue.running
        ]
        losses += self._ledger.lost_reports(self.place.reports)
        losses += self._ledger.lost_messages(self.place.maildir)
        losses += self._ledger.lost_views(counted)
        losses += self._ledger.lost_lines(worker_lines)
        if self._ledger.cleanups and self.place.outdated_report.exists():
            losses.append("the cleanup left the outdated report where it was")
        return losses

    def _worker_logs(self) -> list[Path]:
        return [self.place.logs / f"worker-{number}.log" for number in range(1, self._options.workers + 1)]


async def _ready(children: Children, port: int, path: str) -> None:
    """Wait until a process answers 200. A health page may say for a few seconds that it is not yet.

    Raises:
        ChildDiedError: a process ended instead.
        DemoFailedError: it is not ready in time; with what it said last.
    """
    started = SYSTEM_CLOCK.monotonic()
    said, patience = "nothing", START_TIMEOUT
    async with HttpConnection(port) as connection:
        while SYSTEM_CLOCK.monotonic() - started < patience:
            children.check()
            try:
                answer = await connection.request("GET", path)
            except OSError:  # not listening yet
                await asyncio.sleep(0.05)
                continue
            if answer.status == 200:
                return
            said, patience = f"{answer.status} {answer.body.decode(errors='replace')}", HEALTH_TIMEOUT
            await asyncio.sleep(0.05)
    raise DemoFailedError(f"GET {path} did not answer 200 within {patience:g} s; its answer was {said}")


@contextmanager
def _stop_signals(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C and its kin end the traffic; a second one ends the demo at once, without a verdict."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
