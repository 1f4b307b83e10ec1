"""Tasks for the tests of process jobs: a child finds them here under their names."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import anyio

from aioinfra import Backoff, JobContext, Retry, SoftTimeLimit, task

QUEUE = os.environ.get("PROCESS_QUEUE", "processes")


@dataclass
class Order:
    number: int
    day: date


@task(queue=QUEUE, run_in="process")
def ship(order: Order) -> tuple[int, date, int]:
    """The order's own types came back, and the process."""
    return order.number, order.day, os.getpid()


@task(queue=QUEUE, run_in="process")
def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@task(queue=QUEUE, run_in="process", hard_limit=0.5)
def spin(pid_file: str) -> None:
    Path(pid_file).write_text(f"{os.getpid()}")
    while True:
        pass


@task(queue=QUEUE, run_in="process", hard_limit=0.5)
def hold(seconds: int) -> None:
    """Keep the interpreter to itself, as a long call into C may."""
    ctypes.PyDLL(None).sleep(seconds)


@task(queue=QUEUE, run_in="process", hard_limit=60)
def hold_long(seconds: int, pid_file: str) -> None:
    Path(pid_file).write_text(f"{os.getpid()}")
    ctypes.PyDLL(None).sleep(seconds)


@task(queue=QUEUE, run_in="process", hard_limit=0.5)
def spawn_and_wait(pid_file: str) -> None:
    """Start a process, tell its pid, and wait for it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(pid_file).write_text(f"{child.pid}")
    child.wait()


@task(queue=QUEUE, run_in="process", soft_limit=0.3, hard_limit=10)
def spin_softly(*, cleans_up: bool) -> str:
    try:
        while True:
            pass
    except SoftTimeLimit:
        if cleans_up:
            return "cleaned up"
        raise


@task(queue=QUEUE, run_in="process")
def leave(status: int) -> None:
    os._exit(status)


@task(queue=QUEUE, run_in="process")
def crash() -> None:
    ctypes.string_at(0)


@task(queue=QUEUE, run_in="process", retry=Backoff(tries=2, base=0.0))
def crash_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(1)
    return "second try"


@task(queue=QUEUE, run_in="process")
def say_exit() -> None:
    sys.exit(3)


class OutOfStock(Exception):
    """Retried, where other errors are not."""


@task(queue=QUEUE, run_in="process", retry=Backoff(tries=3, base=0.0), retry_on=(OutOfStock,))
def reserve(ctx: JobContext, error: str) -> int:
    """Answers the attempt that went well."""
    if error == "final":
        raise ValueError("no such article")
    if ctx.attempt == 1:
        raise OutOfStock
    if ctx.attempt == 2:
        raise Retry(delay=0)
    return ctx.attempt


@task(queue=QUEUE, run_in="process")
def tell(ctx: JobContext) -> str | None:
    """Progress, a log line, and the correlation id."""
    anyio.run(ctx.progress, 3, 10, "three of ten")
    logging.getLogger("shop").warning("told from a process")
    return ctx.request_id


@task(queue=QUEUE, run_in="process", soft_limit=0.2, hard_limit=10)
def chatter(ctx: JobContext) -> int:
    """Report progress without rest: the limit comes in the middle of a report."""
    try:
        while True:
            with contextlib.suppress(StopIteration):  # it waits for nothing in a process
                ctx.progress(1, None, "x" * 900).send(None)
    except SoftTimeLimit:
        return os.getpid()


@task(queue=QUEUE, run_in="process")
def large(size: int) -> str:
    return "x" * size


@task(queue=QUEUE, run_in="process")
def altered_keys() -> dict[int, int]:
    return {1: 2}


@task(queue=QUEUE, run_in="process")
def untyped_keys():  # type: ignore[no-untyped-def]  # that is the point
    return {1: 2}


@task(queue=QUEUE, run_in="process")
def not_json() -> object:
    return object
