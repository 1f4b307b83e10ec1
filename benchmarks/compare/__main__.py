"""`python -m benchmarks.compare jobs|cache|local`: what `aioinfra bench` runs."""

from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.compare import cache, jobs, local
from benchmarks.compare.comparison import OURS, Comparison, Field, Request, peer_of
from benchmarks.compare.report import print_tables, write
from benchmarks.environments import DIRECTORY, Environments, InstallError
from benchmarks.errors import BenchmarkError
from benchmarks.harness import RESULTS, Bystanders, progress, until_terminated
from benchmarks.peers.catalogue import FAMILIES, Row, rows_of
from benchmarks.processes import ROOT, environment

RUNS: Final[dict[str, Callable[[Request, tuple[Row, ...], Field], Any]]] = {
    "jobs": jobs.run,
    "cache": cache.run,
    "local": local.run,
}
DRAW_TIMEOUT: Final = 120.0


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="aioinfra bench", description="aioinfra beside its peers.")
    made.add_argument("family", choices=FAMILIES)
    made.add_argument("--quick", action="store_true", help="small sizes and few rounds: a look, not a result")
    made.add_argument("--rounds", type=positive)
    made.add_argument("--size", type=positive, help="jobs; operations; thousands of calls")
    made.add_argument(
        "--only", default="", metavar="NAME,NAME", help="contestants with one of these in their name"
    )
    made.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where JSON and charts go")
    made.add_argument("--environments", type=Path, default=Path(DIRECTORY), metavar="DIR")
    made.add_argument("--no-charts", action="store_true")
    return made


def installed(rows: tuple[Row, ...], environments: Environments) -> Field:
    """All contestants whose environments are there or could be made."""
    for name in environments.missing({row.environment for row in rows}):
        progress(f"to be installed into an environment of its own: {name}")
    found = Field([])
    for row in rows:
        try:
            python = environments.python(row.environment)
        except InstallError as error:
            found.failures[row.name] = f"not installed: {error}"
            progress(f"{row.name} is not installed: {error}")
        else:
            found.peers.append(peer_of(row, python))
    return found


def draw(source: Path, environments: Environments) -> None:
    """The charts of a written comparison. Without matplotlib, or if it fails, it says so: the figures stand."""
    try:
        python = environments.python("charts")
        done = subprocess.run(
            [python, "-m", "benchmarks.compare.draw", str(source.absolute())],
            cwd=ROOT,
            env=environment({}),
            capture_output=True,
            text=True,
            timeout=DRAW_TIMEOUT,
            check=False,
        )
    except (InstallError, subprocess.TimeoutExpired) as error:
        progress(f"no charts: {error}")
        return
    if done.returncode:
        progress(f"no charts: {done.stderr.strip().splitlines()[-1]}")
    for path in done.stdout.splitlines():
        progress(f"chart: {path}")


def terminate(*_: object) -> None:
    """SIGTERM outside the event loop: leave by an exception, which ends the installer or the drawing too."""
    raise SystemExit(128 + signal.SIGTERM)


async def compare(request: Request, rows: tuple[Row, ...], found: Field) -> Comparison:
    run: Callable[..., Awaitable[Comparison]] = RUNS[request.family]
    bystanders = Bystanders()
    comparison = await run(request, rows, found)
    header = {**comparison.header, "others_cores": round(bystanders.cores(), 2)}
    return Comparison(request, header, rows, found, comparison.answers)


def main(arguments: list[str] | None = None) -> int:
    """Run a comparison; the exit status is 1 when aioinfra itself has no figures."""
    options = parser().parse_args(arguments)
    try:
        rows = rows_of(
            options.family, tuple(part.strip() for part in options.only.split(",") if part.strip())
        )
    except LookupError as error:
        parser().error(f"no contestant's name contains {error}")
    request = Request(options.family, options.quick, options.rounds, options.size)
    environments = Environments(options.environments)
    signal.signal(signal.SIGTERM, terminate)
    found = installed(rows, environments)
    try:
        comparison = asyncio.run(until_terminated(compare(request, rows, found)))
    except BenchmarkError as error:
        print(f"{options.family}: {error}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print_tables(comparison, Console(width=None if sys.stdout.isatty() else 160))
    path = write(comparison, options.out)
    progress(f"figures: {path}")
    if not options.no_charts:
        draw(path, environments)
    return 1 if OURS in found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
