"""Real processes: whichever way they end, every line they logged is there.

One run of each way with `make test`; ``--seeds 20`` makes it twenty, in each of which threads take turns at other
moments and the end comes at another one.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest

LINES = 5_000
pytestmark = pytest.mark.timeout(180)
Run = Callable[[str], Counter[str]]

COMMON = """
import asyncio, logging, os, random, signal, sys, time
from aioinfra.logs import get_logger, setup_logging
draw = random.Random(int(os.environ.get("SEED", "0")))
sys.setswitchinterval(draw.choice([1e-5, 1e-3, 5e-3]))
def go(name="main"):
    log = get_logger("end")
    pause_at, pause = draw.randrange(5_000), draw.uniform(0, 0.03)
    for index in range(5_000):
        log.info(name, index=index)
        if index == pause_at:
            time.sleep(pause)
async def go_until_told(name="main"):
    log, signal_at = get_logger("end"), draw.randrange(5_000)
    for index in range(5_000):
        log.info(name, index=index)
        if index == signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if index % 500 == 0:
            await asyncio.sleep(0)
def setup():
    setup_logging("info", log_format="json", stream=sys.stdout)
"""

ENDS = {
    "normal exit": "setup(); go()",
    "exception": "setup(); go(); raise RuntimeError('the end')",
    "sys.exit in a loop": """
setup()
async def main():
    go()
    sys.exit(3)
asyncio.run(main())
""",
    "loop closed before": """
setup()
asyncio.run(asyncio.sleep(0))
go()
""",
    "closed, then more": """
logging_ = None
async def main():
    global logging_
    from aioinfra.logs import current_logging
    setup()
    get_logger("end").info("main", index=0)
    await current_logging().aclose()
asyncio.run(main())
log = get_logger("end")
for index in range(1, 5_000):
    log.info("main", index=index)
""",
    "last lines in atexit": """
import atexit
atexit.register(go)     # runs after the log's own, which was registered later
setup()
""",
    "through the standard library": """
setup()
log = logging.getLogger("lib")
for index in range(5_000):
    log.info("main", extra={"index": index})
""",
}


@pytest.fixture
def run(seed: int) -> Run:
    """Runs a script; its lines by message."""
    return lambda script: lines_of(output_of(["-c", COMMON + script], {"SEED": str(seed)}))


def output_of(arguments: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> bytes:
    """What a Python process writes to its standard output; its errors when that is nothing."""
    unset = ("LOG_LEVEL", "LOG_FORMAT", "LOG_DIR", "ENVIRONMENT", "REDIS_URL", "JOBS_REDIS_URL")
    outer = {name: value for name, value in os.environ.items() if name not in unset}
    ended = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        timeout=150,
        check=False,
        env={**outer, **env},
        cwd=cwd,
    )
    assert ended.stdout, ended.stderr.decode()
    return ended.stdout


def lines_of(output: bytes) -> Counter[str]:
    """Lines of the logger ``end`` by message; each message's indexes are complete and in order."""
    found: dict[str, list[int]] = {}
    for text in output.splitlines():
        line = json.loads(text)
        if line["logger_name"] in ("end", "lib"):
            found.setdefault(line["message"], []).append(line["index"])
    for message, indexes in found.items():
        assert indexes == list(range(len(indexes))), message
    return Counter({message: len(indexes) for message, indexes in found.items()})


@pytest.mark.parametrize("end", ENDS)
def test_no_line_is_lost_at_the_end(end: str, run: Run) -> None:
    assert run(ENDS[end]) == {"main": LINES}


def test_a_fork_writes_both_processes_lines_once(run: Run) -> None:
    script = """
setup()
go("before")
pid = os.fork()
go("parent" if pid else "child")
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""
    assert run(script) == {"before": LINES, "parent": LINES, "child": LINES}


def test_a_forked_child_of_multiprocessing_leaves_its_lines(run: Run) -> None:
    """Such a child ends with os._exit: atexit does not run there."""
    script = """
import multiprocessing
setup()
go("before")
if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=go, args=("child",))
    child.start()
    child.join()
    assert child.exitcode == 0
"""
    assert run(script) == {"before": LINES, "child": LINES}


def test_after_a_flush_not_even_a_kill_loses_lines(run: Run) -> None:
    script = """
import signal
from aioinfra.logs import current_logging
setup()
get_logger("end").info("before", index=0)
current_logging().flush()
for index in range(50):  # what a pipe takes without a reader
    get_logger("end").info("after", index=index)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(script) == {"before": 1, "after": 50}


SERVERS = {
    "lifespan of its own": """
@asynccontextmanager
async def lifespan(app):
    setup()
    work = asyncio.create_task(go_until_told())
    yield
    await work
    await current_logging().aflush()
""",
    "lifespan of a service": """
from aioinfra import Service
from aioinfra.web import service_lifespan

@asynccontextmanager
async def lifespan(app):
    async with service_lifespan(Service.from_env())(app):
        work = asyncio.create_task(go_until_told())
        yield
        await work
""",
}

SERVE = """
from contextlib import asynccontextmanager
import uvicorn
from starlette.applications import Starlette
from aioinfra.logs import current_logging
# Into a file, which takes all: what a server says after the last flush waits for no reader of a pipe that is full.
print("started", flush=True)
out = os.open(os.environ["OUT"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
os.dup2(out, 1), os.dup2(out, 2)
{lifespan}
uvicorn.run(Starlette(lifespan=lifespan), host="127.0.0.1", port=0, log_config=None)
"""


@pytest.mark.parametrize("server", SERVERS)
def test_no_line_is_lost_when_a_server_is_told_to_end(
    server: str, seed: int, valkey_url: str, tmp_path: Path
) -> None:
    """uvicorn logs its end after the application, then ends by the signal that stopped it: without atexit."""
    script = COMMON + SERVE.replace("{lifespan}", SERVERS[server])
    env = {"SEED": str(seed), "REDIS_URL": valkey_url, "LOG_FORMAT": "json", "OUT": str(tmp_path / "out")}
    output_of(["-c", script], env)
    output = (tmp_path / "out").read_bytes()
    assert lines_of(output) == {"main": LINES}
    messages = [json.loads(text)["message"] for text in output.splitlines()]
    assert messages[-2] == "Application shutdown complete."
    assert messages[-1].startswith("Finished server process")


WORKERS = {
    "service": """
from aioinfra import Service, task

@task(name="ends.work", queue=os.environ["QUEUE"])
async def work():
    await go_until_told()

target = Service.from_env(include=[__name__], queues={os.environ["QUEUE"]: 1})
""",
    "service, a job that will not end": """
from aioinfra import Service, task

@task(name="ends.work", queue=os.environ["QUEUE"])
async def work():
    await go_until_told()
    while True:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            pass

target = Service.from_env(include=[__name__], queues={os.environ["QUEUE"]: 1})
""",
    "arq settings": """
from arq.connections import RedisSettings

async def work(ctx):
    await go_until_told()

async def startup(ctx):
    await ctx["redis"].enqueue_job("work", _queue_name=os.environ["QUEUE"])

class target:
    functions = [work]
    on_startup = startup
    job_completion_wait = 30  # the job's own lines end when the job does
    queue_name = os.environ["QUEUE"]
    redis_settings = RedisSettings(unix_socket_path=os.environ["SOCKET"])
""",
}


async def enqueue(url: str, queue: str) -> None:
    async with RedisClient(url) as redis:
        client = JobClient(redis)
        await client.enqueue(JobRequest("ends.work", (), queue=queue))
        await client.aclose()


@pytest.mark.parametrize("worker", WORKERS)
def test_no_line_is_lost_when_a_worker_is_told_to_end(
    worker: str, seed: int, valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "ends_app.py").write_text(
        COMMON + "os.dup2(1, 2)  # a worker logs to stderr\n" + WORKERS[worker]
    )
    queue = f"{prefix}ends"
    env = {"SEED": str(seed), "REDIS_URL": valkey_url, "QUEUE": queue, "LOG_FORMAT": "json"}
    env |= {"LOG_DIR": str(tmp_path / "logs"), "SOCKET": valkey_url.removeprefix("unix://").partition("?")[0]}
    options = [] if worker == "arq settings" else ["--grace", "0.5"]
    if worker.startswith("service"):
        asyncio.run(enqueue(valkey_url, queue))
    output = output_of(["-m", "aioinfra", "worker", "ends_app:target", *options], env, tmp_path)
    assert lines_of(output) == {"main": LINES}
    assert lines_of((tmp_path / "logs" / "app.log").read_bytes()) == {"main": LINES}


def test_an_unconfigured_process_says_nothing_below_warning() -> None:
    script = 'get_logger("x").info("no"); get_logger("x").warning("yes", index=0)'
    ended = subprocess.run(
        [sys.executable, "-c", COMMON + script], capture_output=True, timeout=30, check=True
    )
    assert ended.stderr == b"yes index=0\n", "as the standard library does"
    assert ended.stdout == b""
