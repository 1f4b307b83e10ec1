"""Logs that cannot be written: full disks, wrong directories, readers that stall or leave.

What is shown each time: the application starts and goes on, it is told once, and every line is counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aioinfra.logs import FileOptions, LoggingOptions, SinkFigures, SinkOptions, get_logger, setup_logging
from tests.logs.log_capture import Captured, isolated_logging

pytestmark = pytest.mark.timeout(180)
TOLD = "cannot write log lines to "


@pytest.fixture
def clean_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with isolated_logging(monkeypatch):
        yield


def until(reached: Callable[[], bool]) -> None:
    """The writer threads retry by themselves."""
    give_up = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def given(figures: SinkFigures) -> int:
    return figures.written + figures.dropped + figures.waiting


def complaints(lines: list[dict[str, Any]]) -> list[str]:
    return [line["message"] for line in lines if line["message"].startswith(TOLD)]


def messages(path: Path) -> list[str]:
    return [json.loads(line)["message"] for line in path.read_text().splitlines()]


def streamed(captured: Captured) -> list[dict[str, Any]]:
    """What is on the stream, whatever waits for other places."""
    until(lambda: captured.logging.figures().waiting == 0)
    return [json.loads(line) for line in captured.stream.getvalue().splitlines()]


COMMON = """
import json, os, pathlib, resource, sys, time
from aioinfra.logs import get_logger, setup_logging
log = get_logger("shop")
"""


def started(script: str, directory: Path, **env: str) -> subprocess.Popen[bytes]:
    """A process of its own in a directory."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + script],
        cwd=directory,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# A reader that stalls


def drain(descriptor: int, until_lines: int) -> list[dict[str, Any]]:
    data = b""
    while data.count(b"\n") < until_lines:
        data += os.read(descriptor, 1 << 20)
    return [json.loads(line) for line in data.splitlines()]


async def test_of_ten_thousand_lines_to_a_stalled_reader_each_is_written_or_counted(
    clean_logging: None, tmp_path: Path
) -> None:
    """Whoever waited for the reader would wait for ever: it begins when all lines have been logged."""
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDWR)
    with (tmp_path / "fifo").open("w") as stream:
        sink = SinkOptions(capacity=1 << 20, reserve=128 << 10)
        logging = setup_logging("info", log_format="json", stream=stream, options=LoggingOptions(sink=sink))
        log = get_logger("shop")
        for index in range(9_990):
            log.info("paid", index=index)
            if index % 100 == 0:
                await asyncio.sleep(0)
        for index in range(10):
            log.error("not paid", index=index)
        before = logging.figures()
        assert before.dropped > 0
        assert given(before) == 10_000
        lines = await asyncio.to_thread(drain, reader, 10_000 - before.dropped + 1)
        assert await logging.aflush(60)
        after = logging.figures()
        logging.uninstall()
    os.close(reader)
    assert (after.written, after.dropped, after.waiting) == (10_000 - before.dropped, before.dropped, 0)
    found = [line["message"] for line in lines]
    (notice,) = [line for line in lines if line["logger_name"] == "aioinfra.logs"]
    assert notice["dropped"] == before.dropped
    assert found.count("not paid") == 10, "room was kept for them"
    assert found.count("paid") + found.count("not paid") == after.written


# Full disks


def test_a_full_disk_under_the_stream_is_told_once_in_the_files(clean_logging: None, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        logging = setup_logging("info", log_format="json", stream=full, log_dir=tmp_path)
        for index in range(500):
            get_logger("shop").info("paid", index=index)
        until(lambda: logging.figures().write_errors >= 4)
        figures = logging.figures()
        assert (given(figures), figures.written) == (500, 0)
        logging.uninstall()
        assert logging.figures().dropped == 500, "counted when the end came"
    assert messages(tmp_path / "app.log").count("paid") == 500
    told = [text for text in messages(tmp_path / "error.log") if text.startswith(TOLD)]
    assert told == [f"{TOLD}the stream: No space left on device; they wait, and are dropped when too many do"]


def test_a_full_disk_under_one_file_is_told_once_and_what_waited_is_written_when_there_is_room(
    clean_logging: None, tmp_path: Path
) -> None:
    (tmp_path / "app.log").symlink_to("/dev/full")
    captured = Captured().setup(log_dir=tmp_path)
    for _ in range(500):
        get_logger("shop").error("not paid")
    logging = captured.logging
    until(lambda: logging.file_figures()["app.log"].write_errors >= 4)
    assert logging.file_figures()["app.log"].waiting == 500
    until(lambda: logging.file_figures()["error.log"].written == 500)
    (tmp_path / "app.log").unlink()
    assert captured.logging.flush(60)
    assert messages(tmp_path / "app.log") == ["not paid"] * 500
    assert complaints(streamed(captured)) == [
        f"{TOLD}{tmp_path / 'app.log'}: No space left on device; they wait, and are dropped when too many do"
    ]


def test_a_disk_that_stays_full_costs_a_bounded_ring(clean_logging: None, tmp_path: Path) -> None:
    (tmp_path / "app.log").symlink_to("/dev/full")
    files = FileOptions(sink=SinkOptions(capacity=64 << 10, reserve=8 << 10))
    captured = Captured().setup(log_dir=tmp_path, options=LoggingOptions(files=files))
    for _ in range(2_000):
        get_logger("shop").info("paid")
    figures = captured.logging.file_figures()["app.log"]
    assert given(figures) == 2_000
    assert figures.dropped > 1_000
    assert figures.waiting_bytes <= 64 << 10
    assert [line["message"] for line in streamed(captured)].count("paid") == 2_000, "the stream has them all"


def test_a_file_that_may_not_grow_further_leaves_the_service_alive(tmp_path: Path) -> None:
    """As a quota does: the kernel takes a part of a line and refuses the rest."""
    script = """
resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, 32 << 10))
logging = setup_logging("info", log_format="json", log_dir="logs")
for index in range(2_000): log.info("paid", index=index)
while logging.file_figures()["app.log"].write_errors < 3: time.sleep(0.01)
log.info("alive")
figures = logging.file_figures()["app.log"]
assert figures.written + figures.dropped + figures.waiting == 2_001, figures
assert os.path.getsize("logs/app.log") == 32 << 10
"""
    with started(script, tmp_path) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    found = [json.loads(line) for line in errors.splitlines()]
    assert [line["message"] for line in found if "index" in line] == ["paid"] * 2_000
    assert [line["message"] for line in found][-1] == "alive"
    (told,) = complaints(found)
    assert "app.log: File too large" in told


# Wrong directories


@pytest.mark.parametrize("place", ["a file", "below a file", "nothing may be made there"])
def test_a_directory_that_cannot_be_written_is_told_once_a_file_and_tried_again(
    clean_logging: None, tmp_path: Path, place: str
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("somebody else's")
    directory = {"a file": taken, "below a file": taken / "logs"}.get(place, Path("/proc/aioinfra-logs"))
    captured = Captured().setup(log_dir=directory)
    for _ in range(20):
        get_logger("shop").error("not paid")
    logging = captured.logging
    until(lambda: all(logging.file_figures()[name].write_errors >= 4 for name in ("app.log", "error.log")))
    assert {name: one.waiting for name, one in logging.file_figures().items()} == {
        "app.log": 20, "error.log": 20, "api.log": 0, "model.log": 0,
    }  # fmt: skip
    assert [line["message"] for line in streamed(captured)].count("not paid") == 20
    told = complaints(streamed(captured))
    assert sorted(text.split(":")[0] for text in told) == sorted(
        f"{TOLD}{directory / name}" for name in ("app.log", "error.log")
    )
    if place != "nothing may be made there":
        taken.unlink()
        assert logging.flush(60)
        assert messages(directory / "app.log") == ["not paid"] * 20
    logging.uninstall()


@pytest.mark.parametrize("log_dir", ["taken", ""])
def test_an_application_starts_where_no_log_can_be_written(
    valkey_url: str, tmp_path: Path, prefix: str, log_dir: str
) -> None:
    """No standard streams at all, as under some process managers: whatever has their numbers then is spared."""
    (tmp_path / "taken").write_text("")
    script = """
import asyncio
from aioinfra import Service
from aioinfra.logs import current_logging
service = Service.from_env()
async def main():
    async with service:
        for _ in range(20): log.error("not paid")
        while current_logging().figures().write_errors < 3: await asyncio.sleep(0.01)
        await service.cache.set(os.environ["KEY"], 5, ttl=10)
        assert await service.cache.get(os.environ["KEY"]) == 5
        pathlib.Path("alive").write_text(str(current_logging().figures()))
asyncio.run(main())
"""
    env = {"LOG_DIR": log_dir, "REDIS_URL": valkey_url, "KEY": f"{prefix}trouble"}
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", sys.executable, "-c", COMMON + script],
        cwd=tmp_path,
        env={**os.environ, **env},
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0
    assert "written=0, dropped=0, waiting=" in (tmp_path / "alive").read_text()


# Readers that leave

UNTIL_NOTICED = """
while logging.figures().write_errors < 3:
    log.info("more")
    time.sleep(0.01)
log.info("alive")
figures = logging.figures()
pathlib.Path("alive").write_text(str(figures.written + figures.dropped + figures.waiting))
"""


def test_a_reader_that_leaves_is_told_once_in_the_files(tmp_path: Path) -> None:
    script = """
logging = setup_logging("info", log_format="json", stream=sys.stdout, log_dir="logs")
log.info("first")
"""
    with started(script + UNTIL_NOTICED, tmp_path) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["message"] == "first"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(120) == 0
    found = messages(tmp_path / "logs" / "app.log")
    assert found.count(f"{TOLD}the stream: Broken pipe; they wait, and are dropped when too many do") == 1
    assert found[-1] == "alive"
    assert len(found) - 1 == int((tmp_path / "alive").read_text())


def test_a_reader_that_leaves_is_told_once_on_stderr_where_there_are_no_files(tmp_path: Path) -> None:
    script = """
logging = setup_logging("info", log_format="json", stream=sys.stdout)
log.info("first")
"""
    with started(script + UNTIL_NOTICED, tmp_path, LOG_DIR="") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["message"] == "first"
        process.stdout.close()
        assert process.stderr is not None
        (told,) = process.stderr.read().splitlines()
        assert process.wait(120) == 0
    assert json.loads(told)["message"].startswith(f"{TOLD}the stream: Broken pipe")


def test_nobody_has_to_be_left_to_tell(tmp_path: Path) -> None:
    script = """
logging = setup_logging("info", log_format="json")
log.info("first")
"""
    with started(script + UNTIL_NOTICED, tmp_path, LOG_DIR="") as process:
        assert process.stderr is not None
        assert json.loads(process.stderr.readline())["message"] == "first"
        process.stderr.close()
        assert process.wait(120) == 0
    assert int((tmp_path / "alive").read_text()) > 1


def test_what_has_the_number_of_a_standard_error_that_was_closed_is_not_written_to(tmp_path: Path) -> None:
    script = """
other = os.open("other", os.O_CREAT | os.O_WRONLY)
assert (other, sys.stderr) == (2, None)
logging = setup_logging("info", log_format="json", stream=open("/dev/full", "w"))
log.info("first")
"""
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", COMMON + script + UNTIL_NOTICED],
        cwd=tmp_path,
        env={**os.environ, "LOG_DIR": ""},
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0
    assert (tmp_path / "alive").exists()
    assert (tmp_path / "other").read_bytes() == b""
