"""Real processes: whichever way they end, every line they logged is there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

COMMON = """
import asyncio, logging, os, sys
from aioinfra.logs import get_logger, setup_logging
def go(name="main"):
    log = get_logger("end")
    for index in range(5_000):
        log.info(name, index=index)
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


def lines_of(script: str, timeout: float = 60) -> Counter[str]:
    """Lines by message; each message's indexes are complete and in order."""
    ended = subprocess.run(
        [sys.executable, "-c", COMMON + script], capture_output=True, timeout=timeout, check=False
    )
    found: dict[str, list[int]] = {}
    for text in ended.stdout.splitlines():
        line = json.loads(text)
        found.setdefault(line["message"], []).append(line["index"])
    for message, indexes in found.items():
        assert indexes == list(range(len(indexes))), message
    assert found, ended.stderr.decode()
    return Counter({message: len(indexes) for message, indexes in found.items()})


@pytest.mark.parametrize("end", ENDS)
def test_no_line_is_lost_at_the_end(end: str) -> None:
    assert lines_of(ENDS[end]) == {"main": 5_000}


def test_a_fork_writes_both_processes_lines_once() -> None:
    script = """
setup()
go("before")
pid = os.fork()
go("parent" if pid else "child")
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""
    assert lines_of(script) == {"before": 5_000, "parent": 5_000, "child": 5_000}


def test_a_forked_child_of_multiprocessing_leaves_its_lines() -> None:
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
    assert lines_of(script) == {"before": 5_000, "child": 5_000}


def test_after_a_flush_not_even_a_kill_loses_lines() -> None:
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
    assert lines_of(script) == {"before": 1, "after": 50}


def test_what_a_server_says_after_the_application_has_closed_is_not_lost() -> None:
    """uvicorn logs its end, then ends by the signal that stopped it: atexit does not run."""
    script = """
import signal
from contextlib import asynccontextmanager
import uvicorn
from starlette.applications import Starlette
from aioinfra.logs import current_logging

@asynccontextmanager
async def lifespan(app):
    setup()
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
    yield
    await current_logging().aflush()

uvicorn.run(Starlette(lifespan=lifespan), host="127.0.0.1", port=0, log_config=None)
"""
    ended = subprocess.run(
        [sys.executable, "-c", COMMON + script], capture_output=True, timeout=60, check=False
    )
    messages = [json.loads(text)["message"] for text in ended.stdout.splitlines()]
    assert messages[-2] == "Application shutdown complete."
    assert messages[-1].startswith("Finished server process")


def test_an_unconfigured_process_says_nothing_below_warning() -> None:
    script = 'get_logger("x").info("no"); get_logger("x").warning("yes", index=0)'
    ended = subprocess.run(
        [sys.executable, "-c", COMMON + script], capture_output=True, timeout=30, check=True
    )
    assert ended.stderr == b"yes index=0\n", "as the standard library does"
    assert ended.stdout == b""
