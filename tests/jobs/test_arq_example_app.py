"""An arq application as its documentation writes them, unchanged, under ``arq`` and under ``aioinfra worker``."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from aioinfra.testing import RedisServer
from tests.conftest import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "docs" / "examples"
FILES = [EXAMPLES / "downloads" / name for name in ("worker.py", "produce.py")]
TARGET = "downloads.worker.WorkerSettings"
OUTCOMES = """\
home 33, try 1, complete
missing "LookupError('https://example.org/missing answers 404')", try 1, complete
busy 33, try 2, complete
later: deferred then 34, try 1, complete
waited: True
again: None
report: 'daily of 1 pages by report:1', try 1, complete
aborted: True complete
unknown: 'JobExecutionFailed("function \\'nobody knows this\\' not found")', try 1, complete
swept: True
"""


@contextmanager
def started(url: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A process in the application's directory, for the time of the block."""
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=EXAMPLES,
        env={**os.environ, "REDIS_URL": url, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run(url: str, *command: str) -> tuple[int, str]:
    """Exit status and output."""
    with started(url, *command) as process:
        output, _ = process.communicate(timeout=30)
    return process.returncode, output


def what_is_left(url: str) -> dict[str, Any]:
    """What hooks and jobs wrote to the server, by kind of job; how often the cron job ran is left to chance."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        started: Any = client.hgetall("downloads:started")
        assert int(started.pop("cron")) >= int(str(client.get("downloads:sweeps"))) >= 1
        waiting: Any = client.zrange("arq:queue", 0, -1)
        return {
            "started": started,
            "requests": client.get("downloads:requests"),
            "waiting": [job_id for job_id in waiting if not job_id.startswith("cron:")],
            "results": sorted(
                key for key in client.scan_iter("arq:result:*") if "page" in key or "report" in key
            ),
            "kept": client.ttl("arq:result:report:1") <= 60 < client.ttl("arq:result:page:home"),
        }


@pytest.mark.parametrize("command", [("arq",), ("aioinfra", "worker")], ids=" ".join)
def test_the_application_does_the_same_under_both_workers(command: tuple[str, ...]) -> None:
    with RedisServer() as server:
        with started(server.url, *command, TARGET) as worker:
            status, output = run(server.url, "downloads.produce")
            assert (status, output) == (0, OUTCOMES)
            worker.terminate()
            log, _ = worker.communicate(timeout=20)
        assert worker.returncode == 0, log
        left = what_is_left(server.url)
    assert left == {
        "started": {"page": "5", "report": "2"},
        "requests": "5",
        "waiting": [],
        "results": [f"arq:result:{job}" for job in
                    ("page:busy", "page:home", "page:later", "page:missing", "report:1", "report:2")],
        "kept": True,
    }  # fmt: skip
    assert "shutdown on SIGTERM" in log


@pytest.mark.parametrize("command", [("arq",), ("aioinfra", "worker")], ids=" ".join)
def test_burst_and_settings_that_cannot_be_found_end_alike(command: tuple[str, ...]) -> None:
    with RedisServer() as server:
        status, output = run(server.url, *command, TARGET, "--burst")
        assert status == 0, output
        assert "cron:sweep" in output
    assert run(f"redis://127.0.0.1:{free_port()}/0", *command, "downloads.worker.Missing")[0] != 0


def test_the_application_imports_nothing_but_arq_and_the_page_shows_it() -> None:
    page = (ROOT / "docs" / "from-arq.md").read_text(encoding="utf-8")
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert f"```python\n{text}```\n" in page, f"the page shows another {path.name}"
        imports = [
            node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {
            alias.name if isinstance(node, ast.Import) else str(node.module)
            for node in imports
            for alias in node.names
        }
        roots = {name.partition(".")[0] for name in names}
        assert roots - set(sys.stdlib_module_names) <= {"arq", "downloads"}
