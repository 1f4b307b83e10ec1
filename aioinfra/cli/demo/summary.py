"""What the demo says when it ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from aioinfra.cli.demo.figures import HttpFigures
from aioinfra.cli.demo.ledger import Ledger, Promise
from aioinfra.cli.demo.logs import LogLine, read_all
from aioinfra.cli.demo.picture import Picture
from aioinfra.cli.demo.place import Place
from aioinfra.cli.demo.view import log_text, milliseconds

_LINES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Trace:
    """One report followed by its request id: the line of the request, the workers' lines, the files."""

    promise: Promise
    access: LogLine | None
    worker: list[LogLine]
    report: Path
    message: Path | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run's end: the last picture, the client's figures, the ledger, and what was lost."""

    picture: Picture
    figures: HttpFigures
    ledger: Ledger
    place: Place
    series: int
    trace: Trace | None
    losses: list[str]


def trace_of(ledger: Ledger, place: Place, worker_lines: Iterable[LogLine]) -> Trace | None:
    """The trace of the report that left the most log lines behind; None when no report was accepted."""
    if not ledger.promises:
        return None
    lines: dict[str, list[LogLine]] = {promise.request_id: [] for promise in ledger.promises.values()}
    for line in worker_lines:
        if line.request_id in lines:
            lines[line.request_id].append(line)
    promise = max(ledger.promises.values(), key=lambda promise: len(lines[promise.request_id]))
    return Trace(
        promise,
        access=_access_line(place.logs / "web.log", promise.request_id),
        worker=sorted(lines[promise.request_id], key=lambda line: line.time),
        report=place.reports / f"{promise.report_id}.html",
        message=_message_to(place.maildir, promise.email),
    )


def _access_line(web_log: Path, request_id: str) -> LogLine | None:
    """The line about the request as a whole; it is the last one that carries the id."""
    found = None
    for line in read_all(web_log):
        if line.request_id == request_id:
            found = line
    return found


def _message_to(maildir: Path, address: str) -> Path | None:
    wanted = f"To: {address}\n".encode()
    return next((path for path in sorted((maildir / "new").iterdir()) if wanted in path.read_bytes()), None)


def print_outcome(console: Console, outcome: Outcome) -> None:
    """The summary, the trace and the verdict."""
    console.print(_table(outcome))
    if outcome.trace is not None:
        for text in _trace_lines(outcome.trace):
            console.print(text, soft_wrap=True)
        console.print()
    if outcome.losses:
        console.print(Text("Lost:", "bold red"))
        for loss in outcome.losses:
            console.print(Text(f"  {loss}", "red"), soft_wrap=True)
    else:
        promises, views = len(outcome.ledger.promises), outcome.ledger.views.total()
        there = f"all {promises} reports, their messages, and {views:,} counted views are there"
        console.print(Text.assemble(("Nothing was lost: ", "bold green"), there), soft_wrap=True)


def _table(outcome: Outcome) -> RenderableType:
    picture, figures, ledger = outcome.picture, outcome.figures, outcome.ledger
    seconds = max(picture.elapsed, 1e-9)
    cache, p50, p99 = picture.cache, *(milliseconds(figures.latencies.quantile(at)) for at in (0.5, 0.99))
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    rows = {
        "time": f"{picture.elapsed:.1f} s with {picture.workers} workers",
        "requests": f"{figures.answers:,} ({figures.answers / seconds:.0f}/s), {figures.failures} failed",
        "answered in": f"{p50} (p50), {p99} (p99)",
        "cache hits": f"{cache.hit_rate:.1%} ({cache.hits:,}, and {cache.misses:,} misses)",
        "jobs done": f"{picture.jobs_done:,} ({picture.jobs_done / seconds:.0f}/s): "
        + ", ".join(f"{name} {queue.done:,}" for name, queue in picture.queues.items()),
        "accepted": f"{len(ledger.promises)} reports, {ledger.cleanups} cleanups",
        "metrics": f"{outcome.series:,} samples on /metrics, all parsed",
        "files": str(outcome.place.directory),
    }
    for name, value in rows.items():
        table.add_row(name, Text(value, overflow="fold"))
    return table


def _trace_lines(trace: Trace) -> Iterable[Text]:
    """One report's way; without a frame, so that paths stay whole and can be copied."""
    yield Text.assemble(
        ("One report, followed by its request id ", "dim"), (trace.promise.request_id, "yellow")
    )
    for line in ([trace.access] if trace.access else []) + trace.worker[:_LINES_SHOWN]:
        yield Text.assemble((f"  {line.source:<9} ", "dim"), (f"{line.time[11:23]} ", "dim"), log_text(line))
    yield Text.assemble(("  report    ", "dim"), str(trace.report))
    yield Text.assemble(("  message   ", "dim"), str(trace.message or "not delivered"))
