"""The background jobs. Each may run more than once and leaves the same behind as if it had run once.

An async function runs on the worker's event loop, a plain one in a thread. A parameter annotated JobContext
is filled in by the worker. Log lines carry the id of the HTTP request that the job goes back to.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from aioinfra import Backoff, JobContext, get_logger, task
from catalogue import analytics, distributions, mail, report
from catalogue.imports import ImportGraph, modules_of
from catalogue.settings import Settings

T = TypeVar("T")

log = get_logger("catalogue.tasks")
RETENTION = 30 * 24 * 3600.0  # seconds that a report is kept


class UnknownPackageError(LookupError):
    """No installed distribution has that name."""


@task(queue="reports", retry=Backoff(tries=3), dont_retry_on=(UnknownPackageError,), hard_limit=120)
async def build_report(ctx: JobContext, package: str, email: str) -> str:
    """Write the report of a package, tell its reader, return the file's path."""
    distribution = distributions.find(package)
    if distribution is None:
        raise UnknownPackageError(package)
    located = await asyncio.to_thread(distributions.paths, distribution)
    modules = modules_of(located)
    steps = len(located) + len(modules)

    files: list[distributions.File] = []
    for some in _chunks(located, 100):
        files += await asyncio.to_thread(distributions.hashed, some)
        await ctx.progress(len(files), steps, "hashing files")
    graph, read = ImportGraph({module for module, _ in modules}), len(files)
    for some in _chunks(modules, 25):
        await asyncio.to_thread(graph.read, some)
        read += len(some)
        await ctx.progress(read, steps, "reading imports")

    entry = distributions.describe(distribution, files, graph.external)
    origin = report.Origin(
        report_id=ctx.job_id,
        request_id=ctx.request_id or "",
        worker=os.getpid(),
        written=datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
    )
    path = Settings.from_env().report(ctx.job_id)
    await asyncio.to_thread(report.write, path, report.render(entry, files, graph, origin))
    log.info("report written", package=entry.name, files=len(files), path=str(path))

    # An id made from this job's: should this job run again, its reader still gets one message.
    await send_email.options(job_id=f"{ctx.job_id}-email")(
        email, f"Your report on {entry.name} {entry.version}", f"It is ready: {path.as_uri()}\n"
    )
    return str(path)


@task(queue="email", retry=Backoff(tries=5), hard_limit=20)
def send_email(ctx: JobContext, to: str, subject: str, text: str) -> str:
    """Put a message into the maildir and return its path."""
    message = mail.compose(to, subject, text, job_id=ctx.job_id, request_id=ctx.request_id)
    path = mail.deliver(Settings.from_env().maildir, message, ctx.job_id)
    log.info("message delivered", path=str(path))
    return str(path)


@task(queue="analytics", retry=Backoff(tries=5), hard_limit=20, keep_result=0)
def count_view(ctx: JobContext, package: str) -> None:
    """Count that somebody looked at a package."""
    analytics.opened(Settings.from_env().analytics).count(package, ctx.job_id)


@task(queue="cleanup", hard_limit=60)
def remove_old_reports(retention: float = RETENTION) -> int:
    """Delete the reports written more than ``retention`` seconds ago and return how many they were."""
    latest = time.time() - retention
    removed = 0
    for path in Settings.from_env().reports.glob("*.html"):
        if path.stat().st_mtime < latest:
            path.unlink(missing_ok=True)
            removed += 1
    log.info("old reports removed", removed=removed)
    return removed


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
