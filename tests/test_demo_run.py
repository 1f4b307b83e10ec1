"""The demo as a user runs it: `python -m aioinfra demo`, with its own processes and its embedded server."""

from __future__ import annotations

import asyncio
import json
import mailbox
import os
import signal
import sys
import xml.etree.ElementTree as ET
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import free_port

pytestmark = pytest.mark.timeout(150)


async def start(directory: Path, *arguments: str) -> Process:
    """The demo in a build log's surroundings: no terminal, and variables that would lead it astray."""
    if (
        "--port" not in arguments
    ):  # 8000 by itself, which the demo of a test beside this one may be about to take
        arguments += ("--port", str(free_port()))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aioinfra", "demo", "--directory", str(directory), *arguments),
        stdout=PIPE,
        stderr=STDOUT,
        env=dict(os.environ)
        | {"REDIS_URL": "redis://127.0.0.1:1/0", "ENVIRONMENT": "production", "COLUMNS": "200"},
    )


async def ended(process: Process) -> tuple[int, str]:
    """Exit code and output."""
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def until(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - other processes set no event here
            await asyncio.sleep(0.02)


def log_lines(path: Path) -> list[dict[str, object]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def directories(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_dir()]


def written_reports(directory: Path) -> list[Path]:
    return [path for path in directory.glob("*/reports/*.html") if path.name != "outdated.html"]


def processes_of(directory: Path) -> list[psutil.Process]:
    """Those whose command line or working directory leads into the demo's directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(directory) in " ".join(process.cmdline()) or process.cwd().startswith(str(directory)):
                found.append(process)
        except psutil.Error:
            continue
    return found


async def test_a_run_leaves_reports_messages_and_one_request_id_through_all_of_them(tmp_path: Path) -> None:
    code, output = await ended(await start(tmp_path, "--seconds", "5"))
    assert code == 0, output
    assert "Nothing was lost" in output
    (run,) = directories(tmp_path)

    reports = written_reports(tmp_path)
    assert reports
    worker_lines = [line for path in run.glob("logs/worker-*.log") for line in log_lines(path)]
    accepted = [
        line
        for line in log_lines(run / "logs" / "web.log")
        if (line.get("route"), line.get("status")) == ("/reports", 202)
    ]
    messages = list(mailbox.Maildir(run / "maildir", create=False))
    assert len(reports) == len(accepted) == len(messages)
    for path in reports:
        root = ET.fromstring(path.read_bytes())  # noqa: S314 - our own worker wrote it
        meta = {element.get("name"): element.get("content") for element in root.iter("meta")}
        request_id = meta["request-id"]
        assert [line["request_id"] for line in accepted].count(request_id) == 1
        assert [message["X-Request-Id"] for message in messages].count(request_id) == 1
        tasks = {line.get("task") for line in worker_lines if line["request_id"] == request_id}
        assert tasks == {"catalogue.tasks.build_report", "catalogue.tasks.send_email"}
    assert not (run / "reports" / "outdated.html").exists()  # the cleanup job has been here
    await until(lambda: not processes_of(tmp_path))


async def test_ctrl_c_ends_it_and_a_lost_report_is_told_by_the_exit_code(tmp_path: Path) -> None:
    process = await start(tmp_path, "--workers", "1", "--rate", "40")
    await until(lambda: bool(written_reports(tmp_path)))
    lost = written_reports(tmp_path)[0]
    lost.unlink()
    process.send_signal(signal.SIGINT)
    code, output = await ended(process)
    assert code == 1, output
    assert f"not written: {lost.stem}" in output
    await until(lambda: not processes_of(tmp_path))


async def test_nothing_outlives_a_demo_that_is_killed(tmp_path: Path) -> None:
    process = await start(tmp_path, "--workers", "1", "--rate", "40")
    await until(lambda: bool(written_reports(tmp_path)))
    assert len(processes_of(tmp_path)) >= 4  # itself, web, worker, server
    process.kill()
    await ended(process)
    await until(lambda: not processes_of(tmp_path), seconds=30)


async def test_it_says_why_it_cannot_start(tmp_path: Path) -> None:
    code, output = await ended(await start(tmp_path, "--redis-url", "redis://:hunter2@127.0.0.1:1/0"))
    assert code == 2
    assert "/health/ready did not answer 200" in output
    assert "127.0.0.1:1" in output
    assert "hunter2" not in output
