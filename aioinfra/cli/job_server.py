"""The jobs server of a command: found as a service finds it, asked once, its errors told in a line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

from aioinfra.cli.job_views import shown

if TYPE_CHECKING:
    from aioinfra.jobs.admin import JobAdmin

T = TypeVar("T")


def ask(url: str | None, verb: Callable[[JobAdmin], Awaitable[T]]) -> T:
    """Run a verb on the jobs server; errors become a line and an exit status."""
    from aioinfra.errors import AioinfraError, ConfigError, InvalidArgument

    try:
        return asyncio.run(_connected(url, verb))
    except (InvalidArgument, ConfigError) as error:
        fail(str(error), status=2)
    except (AioinfraError, TimeoutError) as error:
        fail(str(error))


async def _connected(url: str | None, verb: Callable[[JobAdmin], Awaitable[T]]) -> T:
    from aioinfra.config import Settings
    from aioinfra.connection.locate import locate_async, locate_jobs
    from aioinfra.connection.pool import PoolOptions, RedisClient
    from aioinfra.jobs.admin import JobAdmin

    async with AsyncExitStack() as stack:
        settings = Settings.from_env()
        located = locate_jobs(settings, url=url) or await locate_async(settings)
        if located.embedded is not None:
            stack.push_async_callback(located.embedded.aclose)
        options = PoolOptions(max_connections=2)
        redis = await stack.enter_async_context(RedisClient(located.url, options))
        return await verb(JobAdmin(redis))


def fail(text: str, status: int = 1) -> NoReturn:
    """Say why the command ends, and end it."""
    typer.echo(f"aioinfra jobs: {shown(text)}", err=True)
    raise typer.Exit(status)
