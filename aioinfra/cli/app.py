"""All commands under one name."""

from __future__ import annotations

import typer

from aioinfra import __version__
from aioinfra.cli.bench import bench
from aioinfra.cli.cache import cache
from aioinfra.cli.demo.command import demo
from aioinfra.cli.jobs import jobs
from aioinfra.cli.worker import worker

app = typer.Typer(
    name="aioinfra",
    help="Cache, jobs, metrics and logs for asyncio services.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a plain traceback: it can be parsed, and shows no locals
)
app.command()(bench)
app.command()(demo)
app.command()(worker)
app.add_typer(cache, name="cache")
app.add_typer(jobs, name="jobs")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Cache, jobs, metrics and logs for asyncio services."""
