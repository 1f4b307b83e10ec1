"""Tasks for the tests of the supervisor. What they do is written to a file, a line each."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from aioinfra import Backoff, JobContext, Service, task
from aioinfra.jobs.supervised import resident_bytes

QUEUE = "supervised"
_kept: list[bytes] = []


def _tell(word: str) -> None:
    file = os.open(os.environ["TOLD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{word} {os.getpid()}\n".encode())  # one write: lines of several processes do not mix
    os.close(file)


@task(queue=QUEUE)
async def pid(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@task(queue=QUEUE)
async def leak(number: int, size: int) -> tuple[int, int]:
    """Keep some memory for ever; the process, and what it has now."""
    _kept.append(b"\1" * size)
    await asyncio.sleep(0)
    _tell(f"leak-{number}")
    return os.getpid(), resident_bytes()


@task(queue=QUEUE)
async def count(number: int) -> int:
    await asyncio.sleep(0.02)
    _tell(f"count-{number}")
    return os.getpid()


@task(queue=QUEUE)
def crash(marker: str) -> str:
    """Kill the worker, the first time."""
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(7)
    return "second run"


@task(queue=QUEUE, hard_limit=0.3)
def stuck() -> None:
    _tell("stuck")
    time.sleep(60)


@task(queue=QUEUE, hard_limit=0.2, retry=Backoff(tries=2, base=0))
def stuck_once(ctx: JobContext) -> int:
    if ctx.attempt == 1:
        time.sleep(60)
    return ctx.attempt


@task(queue=QUEUE)
async def linger(seconds: float) -> int:
    _tell("linger")
    await asyncio.sleep(seconds)
    _tell("lingered")
    return os.getpid()


service = Service.from_env(include=["tests.jobs.supervised_tasks"])
