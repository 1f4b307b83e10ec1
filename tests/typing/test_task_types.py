"""What type checkers make of tasks: a wrong argument is an error, and a result has its type.

The snippet below is checked by mypy and by pyright. A line that must be refused says so with ``# error: code``, the
code being mypy's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.type_checkers import mypy_report

ROOT = Path(__file__).resolve().parent.parent.parent

SNIPPET = """
from typing_extensions import assert_type

from aioinfra import Backoff, JobContext, JobHandle, Service, task
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest


@task
async def add(a: int, b: int = 2) -> int:
    return a + b


@task(queue="reports", retry=Backoff(tries=3), retry_on=(OSError,), hard_limit=10)
async def build(ctx: JobContext, name: str, *, timeout: float = 1.0) -> list[str]:
    await ctx.progress(1, 2)
    return [name]


@task
def in_a_thread(ctx: JobContext, number: int) -> str:
    return str(number)


@task(priority=5)
def plain(queue: str) -> None: ...


service = Service.from_env(autodiscover=["shop"], routes={"shop.mail.*": "email"})


@service.task(queue=None, hard_limit=5)
async def bound(number: int) -> str:
    return str(number)


async def use(client: JobClient) -> None:
    job = await add.delay(1, b=3)
    assert_type(job, JobHandle[int])
    assert_type(await job.result(timeout=5), int)
    assert_type(await job.get(), int)
    assert_type(await (await build.delay("x", timeout=2)).result(), list[str])
    assert_type(await (await in_a_thread.delay(3)).result(), str)
    later = await build.options(delay=5, queue="email", priority=3)("x", timeout=2.0)
    assert_type(later, JobHandle[list[str]])
    await plain.options(queue="email")(queue="an argument of the task's own")

    assert_type(await (await bound.delay(3)).result(), str)

    requests = [add.job(number) for number in range(3)]
    assert_type(requests, list[JobRequest[int]])
    handles = await client.enqueue_many(requests)
    assert_type(handles, list[JobHandle[int]])
    mixed = await client.enqueue_many([add.job(1), build.job("x"), in_a_thread.job(3)])
    anything: object = await mixed[0].result()  # mypy infers object, pyright a union

    await add.delay("1")  # error: arg-type
    await add.delay()  # error: call-arg
    await add.delay(1, 2, 3)  # error: call-arg
    await add.delay(1, c=3)  # error: call-arg
    await build.delay(3)  # error: arg-type
    await build.delay(JobContext, "x")  # error: arg-type misc call-arg
    await in_a_thread.delay("3")  # error: arg-type
    await add.options(delay=5)("1")  # error: arg-type
    await add.options(timeout=5)(1)  # error: call-arg
    await add.options(delay="5")(1)  # error: arg-type
    await bound.delay("3")  # error: arg-type
    add.job("1")  # error: arg-type
    wrong: str = await job.result()  # error: assignment


@task(retry=3)  # error: call-overload
async def wrong_retry() -> None: ...


@task("reports")  # error: call-overload
async def wrong_position() -> None: ...
"""


def test_mypy_accepts_right_calls_and_refuses_wrong_ones(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET, encoding="utf-8")
    report = mypy_report(snippet)
    found: dict[int, set[str]] = {}
    for line, code in re.findall(r"snippet\.py:(\d+): error: .*\[([a-z-]+)\]$", report, re.MULTILINE):
        found.setdefault(int(line), set()).add(code)
    wanted = _wanted()
    assert found.keys() == wanted.keys(), report
    for number, codes in wanted.items():
        assert found[number] & codes, f"line {number}: {report}"


def test_pyright_accepts_and_refuses_the_same_lines(tmp_path: Path) -> None:
    pytest.importorskip("basedpyright", reason="pyright, with the node that it needs, as a wheel")
    snippet, config = tmp_path / "snippet.py", tmp_path / "pyrightconfig.json"
    snippet.write_text(SNIPPET, encoding="utf-8")
    settings = {"include": [str(snippet)], "typeCheckingMode": "standard", "extraPaths": [str(ROOT)]}
    config.write_text(json.dumps(settings), encoding="utf-8")
    command = ["-m", "basedpyright", "-p", str(config), "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=50, check=False)
    report = json.loads(done.stdout)["generalDiagnostics"]
    lines = {entry["range"]["start"]["line"] + 1 for entry in report if entry["severity"] == "error"}
    assert lines == _wanted().keys(), done.stdout


def _wanted() -> dict[int, set[str]]:
    """The lines to be refused, with mypy's codes."""
    return {
        number: set(codes.split())
        for number, line in enumerate(SNIPPET.splitlines(), 1)
        for codes in re.findall(r"# error: ([a-z -]+)", line)
    }


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "aioinfra" / "py.typed").exists()
