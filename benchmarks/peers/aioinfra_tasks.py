"""The two jobs as aioinfra tasks."""

from __future__ import annotations

import asyncio

from aioinfra import JobContext, task
from benchmarks.peers import report


@task(name="noop")
async def noop(index: int) -> int:
    report.first()
    return index


@task(name="stamp")
async def stamp(context: JobContext, index: int) -> int:
    report.stamp(index, attempt=context.attempt, stalls=context.stalls)
    await asyncio.sleep(report.holding())
    return index
