"""Worker processes for tests that kill and stop them. Run as a script it is such a process.

Every start and end is pushed to a list on the server, so that a test sees what a dead process did.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


class Process:
    """One worker process."""

    def __init__(self, url: str, queue: str, *arguments: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, __file__, url, queue, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(10)

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        """Its exit status."""
        return self.popen.wait(timeout)

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None


@contextmanager
def processes(url: str, queue: str, *kinds: tuple[str, ...]) -> Iterator[list[Process]]:
    """One process for each list of arguments; none survives the block."""
    started = [Process(url, queue, *arguments) for arguments in kinds]
    try:
        yield started
    finally:
        for process in started:
            if process.alive:
                process.send(signal.SIGCONT)
                process.kill()


def _serve(url: str, queue: str, kind: str, lease: float) -> None:
    """The child: a worker of tasks that tell the list ``<queue>:told`` what they do."""
    import redis

    from aioinfra import task
    from aioinfra.jobs.context import JobContext
    from aioinfra.jobs.run import RunOptions
    from tests.jobs.kit import engine, worker_of

    told = redis.Redis.from_url(url)

    def tell(event: str, ctx: JobContext) -> None:
        told.rpush(
            f"{queue}:told", f"{event} {ctx.job_id} {os.getpid()} {ctx.attempt} {ctx.stalls} {time.time()}"
        )

    @task(queue=queue, name="fleet.wait")
    async def wait(ctx: JobContext, seconds: float) -> int:
        tell("start", ctx)
        await asyncio.sleep(seconds)
        tell("end", ctx)
        return os.getpid()

    @task(queue=queue, name="fleet.block")
    async def block(ctx: JobContext, seconds: float) -> int:
        tell("start", ctx)
        time.sleep(seconds)  # noqa: ASYNC251 - blocking the loop is the test
        tell("end", ctx)
        return os.getpid()

    @task(queue=queue, name="fleet.die")
    async def die(ctx: JobContext) -> None:
        tell("start", ctx)
        os.kill(os.getpid(), signal.SIGKILL)

    logging.basicConfig(level=logging.ERROR)
    options = engine(lease=lease, runs=RunOptions(max_stalls=2), grace=0.5)

    async def run() -> None:
        worker: Any = worker_of(url, wait, block, die, options=options, handle_signals=True)
        await worker.async_run()
        await worker.close()

    if kind == "worker":
        asyncio.run(run())


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
