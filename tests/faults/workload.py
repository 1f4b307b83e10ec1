"""The application that the fault tests run in worker processes, and the journal in which its tasks write.

The journal is a file, so that it also tells what happened while the server was away.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from aioinfra import Service, task
from aioinfra.jobs.context import JobContext
from aioinfra.testing.worker_process import WorkerProcess, WorkerProcessOptions

QUEUE = "faults"
TARGET = "tests.faults.workload:service"
ROOT = Path(__file__).resolve().parent.parent.parent
_JOURNAL = "FAULTS_JOURNAL"


class Entry(NamedTuple):
    """What a task wrote: ``start`` or ``end``, of which job, in which process and try, and when (epoch)."""

    event: str
    job_id: str
    pid: int
    attempt: int
    stalls: int
    at: float


class Journal:
    """Reads what the tasks of all processes wrote to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, event: str) -> list[Entry]:
        if not self.path.exists():
            return []
        found = [Entry(*json.loads(line)) for line in self.path.read_text().splitlines()]
        return [entry for entry in found if entry.event == event]

    @property
    def starts(self) -> list[Entry]:
        return self.entries("start")

    @property
    def ends(self) -> list[Entry]:
        return self.entries("end")


def _write(event: str, ctx: JobContext) -> None:
    entry = Entry(event, ctx.job_id, os.getpid(), ctx.attempt, ctx.stalls, time.time())
    line = json.dumps(entry).encode() + b"\n"
    file = os.open(os.environ[_JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)  # one write: lines of several processes do not mix
    finally:
        os.close(file)


@task(queue=QUEUE, name="faults.work")
async def work(ctx: JobContext, seconds: float) -> int:
    """Wait, and return the process id."""
    _write("start", ctx)
    await asyncio.sleep(seconds)
    _write("end", ctx)
    return os.getpid()


def worker(
    url: str,
    journal: Journal,
    *arguments: str,
    stop_at: str | None = None,
    env: Mapping[str, str] | None = None,
) -> WorkerProcess:
    """A worker process of this application; arguments as of ``aioinfra worker``."""
    options = WorkerProcessOptions(
        arguments,
        env={"REDIS_URL": url, _JOURNAL: str(journal.path), "LOG_LEVEL": "WARNING", **(env or {})},
        cwd=ROOT,
        stop_at=stop_at,
    )
    return WorkerProcess(TARGET, options)


service = Service.from_env(include=["tests.faults.workload"])
