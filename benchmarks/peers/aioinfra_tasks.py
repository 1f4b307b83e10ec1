"""The two jobs as aioinfra tasks."""

from __future__ import annotations

import asyncio
from typing import Final

from aioinfra import JobContext, task
from aioinfra.context import request_id
from benchmarks.errors import WrongAnswerError
from benchmarks.peers import report

CORRELATION: Final = "bench-"
"""What the correlation id of every job that is drained begins with."""


@task(name="noop")
async def noop(index: int) -> int:
    if report.first() and not (request_id() or "").startswith(CORRELATION):
        raise WrongAnswerError("the correlation id did not travel with the job")
    return index


@task(name="stamp")
async def stamp(context: JobContext, index: int) -> int:
    report.stamp(index, attempt=context.attempt, stalls=context.stalls)
    await asyncio.sleep(report.holding())
    return index
