"""The arq application that mixed fleets run: its settings, the same task for a `Service`, and what they wrote.

A worker writes a line for each start to a file, so that a start is known whatever its server knows of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import arq
from arq.connections import RedisSettings

from aioinfra import Retry, Service, task
from aioinfra.jobs.context import JobContext
from aioinfra.testing.child_process import ChildOptions, ChildProcess
from aioinfra.testing.worker_process import WorkerProcess, WorkerProcessOptions

MODULE = "tests.faults.arq_workload"
ROOT = Path(__file__).resolve().parent.parent.parent
QUEUE = "arq:queue"
_TOLD, _NAME = "FLEET_TOLD", "FLEET_NAME"


class Start(NamedTuple):
    """A job's number, the try as the job was told, the worker's name, and when (epoch)."""

    number: int
    attempt: int
    worker: str
    at: float


class Told:
    """What all workers wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def starts(self) -> list[Start]:
        if not self.path.exists():
            return []
        return [Start(*json.loads(line)) for line in self.path.read_text().splitlines()]


def _tell(number: int, attempt: int) -> None:
    start = Start(number, attempt, os.environ[_NAME], time.time())
    file = os.open(os.environ[_TOLD], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, json.dumps(start).encode() + b"\n")  # one write: lines of processes do not mix
    finally:
        os.close(file)


def retried(number: int) -> bool:
    """Whether a job asks for a second try."""
    return number % 10 == 0


async def _work(number: int, attempt: int) -> None:
    _tell(number, attempt)
    await asyncio.sleep(0.01)  # long enough that nobody is quick enough for all


async def work(ctx: dict[Any, Any], number: int) -> int:
    """Return the number, every tenth at its second try."""
    await _work(number, ctx["job_try"])
    if retried(number) and ctx["job_try"] == 1:
        raise arq.Retry(defer=0.01)
    return number


async def hold(ctx: dict[Any, Any], number: int) -> None:
    """Run for longer than any test."""
    _tell(number, ctx["job_try"])
    await asyncio.sleep(600)


@task(queue=QUEUE, name="work")
async def service_work(ctx: JobContext, number: int) -> int:
    """As `work`."""
    await _work(number, ctx.attempt)
    if retried(number) and ctx.attempt == 1:
        raise Retry(delay=0.01)
    return number


def to_json(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode()


class PickleSettings:
    """arq's own format."""

    functions: ClassVar[list[Any]] = [work, hold]
    redis_settings = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://localhost:6379"))
    poll_delay = 0.005
    max_jobs = int(os.environ.get("FLEET_MAX_JOBS", "10"))
    job_timeout = 900


class JsonSettings(PickleSettings):
    """The format of a `Service`."""

    functions: ClassVar[list[Any]] = [work, hold]
    redis_settings = PickleSettings.redis_settings
    poll_delay, max_jobs, job_timeout = 0.005, PickleSettings.max_jobs, 900  # arq reads no inherited settings
    job_serializer = staticmethod(to_json)
    job_deserializer = staticmethod(json.loads)


service = Service.from_env()
service.add_task(service_work)


def _environment(url: str, told: Told, name: str, max_jobs: int) -> dict[str, str]:
    mine = {"REDIS_URL": url, _TOLD: str(told.path), _NAME: name, "FLEET_MAX_JOBS": str(max_jobs)}
    return {**mine, "LOG_LEVEL": "WARNING", "PYTHONUNBUFFERED": "1"}


@contextmanager
def plain_worker(
    url: str, told: Told, name: str, settings: str, max_jobs: int = 10
) -> Iterator[ChildProcess]:
    """The ``arq`` command, for the time of the block; what it says goes to a file beside the journal."""
    command = [sys.executable, "-m", "arq", f"{MODULE}.{settings}"]
    with told.path.with_name(f"{name}.log").open("wb") as output:
        env = {**os.environ, **_environment(url, told, name, max_jobs)}
        child = ChildProcess(command, ChildOptions(output.fileno(), env=env, cwd=ROOT))
    try:
        yield child
    finally:
        child.close()


def our_worker(url: str, told: Told, name: str, target: str, max_jobs: int = 2) -> WorkerProcess:
    """The ``aioinfra worker`` command on settings, or on ``service``."""
    separator, options = (":", ("--concurrency", str(max_jobs))) if target == "service" else (".", ())
    env = _environment(url, told, name, max_jobs)
    return WorkerProcess(f"{MODULE}{separator}{target}", WorkerProcessOptions(options, env=env, cwd=ROOT))
