"""`aioinfra demo`: the command line of the demo. Light to import; the rest is loaded when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    seconds: Annotated[
        float | None, typer.Option(min=1.0, help="End after so many seconds; without it, serve until Ctrl-C.")
    ] = None,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port of the web process; 0: 8000, or any when that is taken."),
    ] = 0,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 2,
    rate: Annotated[float, typer.Option(min=1.0, max=2000.0, help="Requests per second.")] = 200.0,
    directory: Annotated[
        Path, typer.Option(help="Where the run's reports, messages and logs are kept.")
    ] = Path(".aioinfra/demo"),
    redis_url: Annotated[
        str | None, typer.Option(help="A scratch Redis or Valkey to use instead of the embedded one.")
    ] = None,
) -> None:
    """Run a package catalogue with a cache and background jobs, under traffic, and watch it live.

    Ends with a summary. Exit code 0: nothing was lost; 1: something was; 2: it cannot run.
    """
    import asyncio

    from rich.console import Console

    from aioinfra.cli.demo.place import missing_packages

    missing = missing_packages()
    if missing:
        typer.echo(f"The demo needs {', '.join(missing)}: pip install 'aioinfra[embedded,web]'", err=True)
        raise typer.Exit(2)

    from aioinfra.cli.demo.run import DemoFailedError, DemoOptions, run_demo

    options = DemoOptions(seconds, port, workers, rate, directory, redis_url)
    try:
        code = asyncio.run(run_demo(options, Console()))
    except DemoFailedError as error:
        typer.echo(f"The demo failed: {error}", err=True)
        raise typer.Exit(2) from None
    except asyncio.CancelledError:  # a second Ctrl-C
        raise typer.Exit(130) from None
    raise typer.Exit(code)
