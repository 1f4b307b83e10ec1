"""The demo on screen: a live picture on a terminal, plain lines anywhere else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from rich import box
from rich.align import Align
from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from aioinfra.cli.demo.ledger import Promise
from aioinfra.cli.demo.logs import LogLine
from aioinfra.cli.demo.picture import Mail, Picture

PLAIN_EVERY: Final = 2.0  # seconds between two plain lines

_BARS: Final = "▁▂▃▄▅▆▇█"
_QUEUES_WIDTH: Final = 43
_ID_COLOURS: Final = ("cyan", "green", "yellow", "magenta", "blue", "bright_red")  # one id, one colour


class View(Protocol):
    """Shows a picture again and again between ``start`` and ``stop``."""

    def start(self) -> None: ...
    def show(self, picture: Picture) -> None: ...
    def stop(self) -> None: ...


def view_for(console: Console) -> View:
    """The live view on a terminal, else plain lines."""
    return LiveView(console) if console.is_terminal and not console.is_dumb_terminal else PlainView(console)


class PlainView:
    """One line every other second: for a build log."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._due = 0.0

    def start(self) -> None:
        """Nothing to prepare."""

    def show(self, picture: Picture) -> None:
        if picture.elapsed >= self._due:
            self._due = picture.elapsed + PLAIN_EVERY
            self._console.print(plain_line(picture), highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Nothing to undo."""


class LiveView:
    """The whole terminal, redrawn at each look; what was there before comes back at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False, transient=True)

    def start(self) -> None:
        self._live.start()

    def show(self, picture: Picture) -> None:
        self._live.update(draw(picture, self._console.width, self._console.height), refresh=True)

    def stop(self) -> None:
        self._live.stop()


def plain_line(picture: Picture) -> str:
    """The picture in one line."""
    http = picture.http
    queues = " ".join(f"{name} {queue.waiting}+{queue.running}" for name, queue in picture.queues.items())
    return "  ".join(
        (
            f"{picture.elapsed:6.1f} s",
            f"{picture.phase:<8}",
            f"http {http.rate.last:.0f}/s p50 {milliseconds(http.p50)} p99 {milliseconds(http.p99)}",
            f"{http.failures} failed",
            f"cache {picture.cache.hit_rate:.1%}",
            f"jobs {picture.jobs_rate:.0f}/s done {picture.jobs_done}",
            f"waiting+running {queues or '-'}",
        )
    )


def draw(picture: Picture, width: int, height: int) -> RenderableType:
    """The picture as panels that fill ``width`` columns and ``height`` lines."""
    work = max(8, len(picture.queues) + 3, height // 3)
    rows = [
        Layout(_head(picture, width), size=4),
        Layout(name="figures", size=5),
        Layout(name="work", size=work),
    ]
    left = height - 4 - 5 - work
    if left >= 4:
        rows.append(Layout(_log_panel(picture, left)))
    page = Layout()
    page.split_column(*rows)
    third = width // 3 - 4
    page["figures"].split_row(
        Layout(_http_panel(picture, third)),
        Layout(_cache_panel(picture, third)),
        Layout(_jobs_panel(picture, third)),
    )
    page["work"].split_row(
        Layout(_queues_panel(picture), size=_QUEUES_WIDTH),
        Layout(_files_panel(picture, width - _QUEUES_WIDTH - 4, work - 2)),
    )
    return page


def sparkline(values: Iterable[float], width: int, top: float | None = None) -> str:
    """The latest values as a row of bars; ``top`` is the value of a full bar, by default the largest."""
    shown = list(values)[-width:]
    highest = top or max(shown, default=0.0) or 1.0
    return "".join(_BARS[min(7, int(8 * max(0.0, value) / highest))] for value in shown).rjust(width)


def _head(picture: Picture, width: int) -> RenderableType:
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right")
    limit = f" of {picture.seconds:g}" if picture.seconds is not None else ""
    phase = Text(picture.phase, "bold green" if picture.phase == "serving" else "bold yellow")
    grid.add_row(
        Text.assemble(("aioinfra demo", "bold"), ("  a package catalogue", "dim"), "  ", phase),
        Text(f"{picture.elapsed:.0f}{limit} s   Ctrl-C ends", "dim"),
    )
    links = Text()
    for path in ("/", "/packages", "/reports", "/analytics", "/metrics", "/health/ready"):
        label = picture.url if path == "/" else path
        links.append(label, f"cyan link {picture.url}{path}")
        links.append("  ")
    grid.add_row(links, Text(f"{picture.workers} workers" + (", eased" if picture.eased else ""), "dim"))
    links.truncate(width - 16)
    return Panel(grid, box=box.ROUNDED, border_style="cyan", padding=(0, 1))


def _panel(title: str, body: RenderableType) -> Panel:
    return Panel(body, title=f"[bold]{title}[/]", title_align="left", box=box.ROUNDED, border_style="dim")


def _figures(main: Text, aside: Text, spark: Text, more: Text) -> RenderableType:
    """A figure with what stands beside it, its course, and the details."""
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right", ratio=1)
    grid.add_row(main, aside)
    more.no_wrap, more.overflow = True, "ellipsis"
    return Group(grid, spark, more)


def _http_panel(picture: Picture, width: int) -> Panel:
    http = picture.http
    main = Text.assemble(
        (f"{http.rate.last:.0f}", "bold cyan"), (" requests/s" if width > 30 else " req/s", "dim")
    )
    aside = Text(f"{http.failures} failed", "bold red" if http.failures else "dim")
    p50 = milliseconds(http.p50).removesuffix(" ms")
    more = Text.assemble(("p50 ", "dim"), p50, ("  p99 ", "dim"), milliseconds(http.p99))
    return _panel("HTTP", _figures(main, aside, Text(sparkline(http.rate.values, width), "cyan"), more))


def _cache_panel(picture: Picture, width: int) -> Panel:
    cache = picture.cache
    main = Text.assemble((f"{cache.hit_rate:.1%}", "bold green"), (" hits", "dim"))
    more = Text.assemble(("hits ", "dim"), f"{cache.hits:,}", ("  misses ", "dim"), f"{cache.misses:,}")
    return _panel(
        "Cache", _figures(main, Text(), Text(sparkline(cache.recent.values, width, 1.0), "green"), more)
    )


def _jobs_panel(picture: Picture, width: int) -> Panel:
    main = Text.assemble((f"{picture.jobs_rate:.0f}", "bold magenta"), (" jobs/s", "dim"))
    waiting = sum(queue.waiting for queue in picture.queues.values())
    aside = Text(f"{waiting} waiting", "yellow" if waiting else "dim")
    more = Text.assemble(("done ", "dim"), f"{picture.jobs_done:,}")
    return _panel(
        "Jobs", _figures(main, aside, Text(sparkline(picture.jobs_history, width), "magenta"), more)
    )


def _queues_panel(picture: Picture) -> Panel:
    table = Table(box=None, expand=True, header_style="dim", padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("queue", no_wrap=True)
    for heading in ("waiting", "running", "done"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("jobs/s", justify="right", no_wrap=True)
    for name, queue in picture.queues.items():
        table.add_row(
            name,
            Text(str(queue.waiting), "yellow" if queue.waiting else "dim"),
            Text(str(queue.running), "green" if queue.running else "dim"),
            f"{queue.done:,}",
            Text(f"{queue.rate.last:.1f}", "magenta"),
        )
    return _panel("Queues", table)


def _files_panel(picture: Picture, width: int, height: int) -> Panel:
    mails = [_mail(mail) for mail in list(picture.mails)[-2:][::-1]]
    table = Table.grid(expand=True, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, max_width=24, overflow="ellipsis")
    table.add_column(no_wrap=True, width=13)
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    for promise in picture.reports[: height - len(mails) - 1]:
        name = _file_name(picture, promise) if width > 50 else Text()
        table.add_row(Text(promise.package), _progress(promise), name)
    return _panel("Reports and messages", Group(table, Text(), *mails))


def _mail(mail: Mail) -> Text:
    style = f"link {mail.path.as_uri()}"
    line = Text.assemble(
        ("✉ ", "yellow"), (_printable(mail.to), style), ("  " + _printable(mail.subject), "dim")
    )
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _progress(promise: Promise) -> Text:
    if promise.status == "succeeded":
        return Text("✓ written", "green")
    if promise.status == "failed":
        return Text("✗ failed", "bold red")
    if promise.total <= 0:
        return Text(_printable(promise.status), "dim")
    share = min(1.0, promise.done / promise.total)
    full = int(8 * share)
    return Text.assemble(("━" * full, "cyan"), ("━" * (8 - full), "dim"), f" {share:.0%}")


def _file_name(picture: Picture, promise: Promise) -> Text:
    path = picture.directory / "reports" / f"{promise.report_id}.html"
    return Text(path.name, f"dim link {path.as_uri()}" if promise.status == "succeeded" else "dim")


def _log_panel(picture: Picture, height: int) -> Panel:
    lines = list(picture.lines)[-(height - 2) :]
    table = Table.grid(expand=True, padding=(0, 1, 0, 0))
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    for line in lines:
        table.add_row(
            Text(line.time[11:23], "dim"),
            Text(_printable(line.request_id[:8]), _ID_COLOURS[hash(line.request_id) % len(_ID_COLOURS)]),
            Text(str(line.fields.get("queue", "")), "dim"),
            log_text(line, picture.directory),
        )
    body: RenderableType = table if lines else Align.center(Text("waiting for the first jobs", "dim"))
    return _panel("Worker log, by request id", body)


_PLUMBING: Final = frozenset(
    {
        *("logger_name", "module", "function_name", "line_number", "user_id", "service"),
        *("queue", "task", "job_id", "attempt", "client", "route"),
    }
)


def log_text(line: LogLine, root: Path | None = None) -> Text:
    """The message of a log line, its task and the fields that are its own; paths shown from ``root``."""
    text = Text(_printable(line.message), "bold red" if line.level.lower() in {"error", "critical"} else "")
    task = str(line.fields.get("task", "")).rpartition(".")[2]
    if task:
        text.append(f"  {_printable(task)}", "bold")
    for name, value in line.fields.items():
        if name not in _PLUMBING and value is not None:
            shown = str(value).removeprefix(f"{root}/") if root else str(value)
            text.append(f"  {_printable(name)}=", "dim")
            text.append(_printable(shown))
    return text


def _printable(text: str) -> str:
    """Nothing from a log may move the cursor."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "�" for char in text)


def milliseconds(seconds: float) -> str:
    """A duration for people; a dash for none."""
    return "-" if math.isnan(seconds) else f"{seconds * 1000:.1f} ms"
