"""``aioinfra bench``: aioinfra beside its peers, from a source checkout."""

from __future__ import annotations

import enum
import os
import sys
from pathlib import Path
from typing import Annotated

import typer


class Family(enum.StrEnum):
    """What can be compared."""

    JOBS = "jobs"
    CACHE = "cache"
    LOCAL = "local"


def bench(
    family: Annotated[Family, typer.Argument(help="queues, caches on a server, caches within the process")],
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: a look, not a result.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of every contestant.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Jobs; operations a point; thousands of calls.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only contestants with one of these in their name: arq,saq")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where JSON and charts go; benchmarks/results of the checkout.")
    ] = None,
    environments: Annotated[
        Path | None, typer.Option(help="Where the peers are installed; .bench in the working directory.")
    ] = None,
    charts: Annotated[bool, typer.Option(help="Draw the charts.")] = True,
) -> None:
    """Install each peer into an environment of its own and measure it beside aioinfra.

    Medians, spreads and ratios within rounds are printed, and written as JSON and charts.
    """
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "benchmarks" / "compare" / "__main__.py").is_file():
        typer.echo(
            "aioinfra bench: needs a source checkout; benchmarks/ is not part of the package", err=True
        )
        raise typer.Exit(2)
    command = [sys.executable, "-m", "benchmarks.compare", family.value]
    command += ["--quick"] * quick + ["--no-charts"] * (not charts)
    values = {"rounds": rounds, "size": size, "only": only, "out": out, "environments": environments}
    for option, value in values.items():
        command += [] if value is None else [f"--{option}", str(value)]
    search = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    sys.stdout.flush()
    # In place of this process: its signals, its terminal and its exit status are the benchmark's.
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": os.pathsep.join(search)})  # noqa: S606 - our own interpreter and module
