"""The files of a log directory: which line goes where, what a day's end does, and what survives trouble."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import re
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from aioinfra.errors import InvalidArgument
from aioinfra.logs import FileOptions, bound, get_logger, setup_logging
from aioinfra.logs.rotation import DailyFile
from tests.logs.log_capture import Captured, isolated_logging

TODAY = date(2026, 11, 23)


@pytest.fixture
def clean_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with isolated_logging(monkeypatch):
        yield


def messages(path: Path) -> list[str]:
    return [json.loads(line)["message"] for line in path.read_text().splitlines()]


def test_every_line_goes_to_app_log_and_some_to_a_file_of_their_own(
    clean_logging: None, tmp_path: Path
) -> None:
    captured = Captured().setup(log_dir=tmp_path / "deep" / "logs")
    get_logger("api").info("1")
    get_logger("api.orders").error("2")
    get_logger("model.embeddings").info("3")
    get_logger("apiary").warning("4")
    get_logger("shop.api").critical("5")
    get_logger("shop").debug("6")
    assert [line["message"] for line in captured.lines] == ["1", "2", "3", "4", "5"]
    directory = tmp_path / "deep" / "logs"
    assert {path.name: messages(path) for path in directory.iterdir()} == {
        "app.log": ["1", "2", "3", "4", "5"],
        "error.log": ["2", "5"],
        "api.log": ["1", "2"],
        "model.log": ["3"],
    }
    assert (directory / "app.log").read_text() == captured.text
    figures = captured.logging.file_figures()
    assert {name: one.written for name, one in figures.items()} == {
        "app.log": 5, "error.log": 2, "api.log": 2, "model.log": 1
    }  # fmt: skip
    assert (directory / "app.log").stat().st_mode & 0o007 == 0, "not for everybody's eyes"


@pytest.mark.parametrize(
    ("environment", "log_format", "on_screen", "in_files"),
    [
        ("development", None, "pretty", "plain"),
        ("production", None, "json", "json"),
        ("production", "pretty", "pretty", "plain"),
        ("production", "plain", "plain", "plain"),
        ("development", "json", "json", "json"),
    ],
)
def test_files_are_plain_where_the_screen_is_pretty(
    clean_logging: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: str,
    log_format: str | None,
    on_screen: str,
    in_files: str,
) -> None:
    monkeypatch.setenv("ENVIRONMENT", environment)
    monkeypatch.setenv("LOG_DIR", str(tmp_path))
    if log_format is not None:
        monkeypatch.setenv("LOG_FORMAT", log_format)
    captured = Captured()
    monkeypatch.setattr(captured.stream, "isatty", lambda: True)
    captured.logging = setup_logging(stream=captured.stream)
    with bound(request_id="req-1"):
        get_logger("shop").warning("paid", amount=5)
    shapes = {
        "json": r'\{"timestamp":"[^"]+Z","level":"WARNING","logger_name":"shop","module":"test_log_files".*\}\n',
        "plain": r"\d{4}-\d\d-\d\d [\d:]{8}\.\d{3} WARNING  shop test_log_files\.py:\d+ \[req-1\] paid amount=5\n",
        "pretty": r"\x1b\[2m\d{4}-.*\x1b\[33mWARNING .*test_log_files\.py:\d+.* \[req-1\] paid .*amount.*=5\n",
    }
    assert re.fullmatch(shapes[on_screen], captured.text)
    assert re.fullmatch(shapes[in_files], (tmp_path / "app.log").read_text())


def test_without_a_directory_there_are_no_files(
    clean_logging: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOG_DIR", "")
    captured = Captured().setup()
    get_logger("api").error("x")
    assert captured.line["message"] == "x"
    assert captured.logging.file_figures() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_relative_directory_does_not_move_with_the_process(
    clean_logging: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    captured = Captured().setup(log_dir="logs")
    monkeypatch.chdir(tmp_path / "elsewhere")
    get_logger("a").info("x")
    assert captured.logging.flush(10)
    assert messages(tmp_path / "logs" / "app.log") == ["x"]


@pytest.mark.parametrize("value", [5, b"logs", "a\0b", True])
def test_what_is_no_directory_name_is_refused(clean_logging: None, value: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        setup_logging(log_dir=value)
    assert refused.value.argument == "log_dir"


@pytest.mark.parametrize(
    ("option", "value"),
    [("keep_days", 0), ("keep_days", True), ("keep_days", "30"), ("calendar", 5), ("sink", None)],
)
def test_what_keeps_no_files_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        FileOptions(**{option: value})
    assert refused.value.argument == option


class Days:
    """A calendar whose day a test turns. A file written yesterday is told by its own time."""

    def __init__(self) -> None:
        self.today = TODAY

    def __call__(self, moment: float) -> date:
        return self.today + timedelta(days=round((moment - time.time()) / 86_400))


def write(file: DailyFile, text: str) -> None:
    data = f"{text}\n".encode()
    assert file.write(memoryview(data)) == len(data)


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir() if path.is_file()}


def test_a_new_day_starts_a_new_file(tmp_path: Path) -> None:
    days = Days()
    file = DailyFile(tmp_path / "app.log", days, 30)
    write(file, "one")
    write(file, "two")
    days.today += timedelta(days=1)
    assert file.write_at_once(b"not by a caller\n") == 0
    write(file, "three")
    days.today += timedelta(days=5)
    write(file, "four")
    assert contents(tmp_path) == {
        "app.log": "four\n",
        "app.log.2026-11-23": "one\ntwo\n",
        "app.log.2026-11-24": "three\n",
    }
    file.close()


def test_a_file_that_another_day_left_is_put_aside_by_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("old\n")
    os.utime(path, (time.time() - 3 * 86_400,) * 2)
    file = DailyFile(path, Days(), 30)
    write(file, "new")
    assert contents(tmp_path) == {"app.log": "new\n", "app.log.2026-11-20": "old\n"}
    file.close()


def test_a_restart_on_the_same_day_goes_on(tmp_path: Path) -> None:
    for text in ("one", "two"):
        file = DailyFile(tmp_path / "app.log", Days(), 30)
        write(file, text)
        file.close()
    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}


def test_a_line_that_a_killed_process_left_unfinished_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text('{"message": "ha')
    os.utime(tmp_path / "app.log", (time.time() - 2,) * 2)
    file = DailyFile(tmp_path / "app.log", Days(), 30)
    write(file, "whole")
    assert (tmp_path / "app.log").read_text().splitlines()[1] == "whole"
    file.close()


def test_a_dated_name_that_is_taken_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "app.log.2026-11-23").write_text("of another process\n")
    (tmp_path / "app.log.2026-11-23.1").symlink_to("nowhere")
    days = Days()
    file = DailyFile(tmp_path / "app.log", days, 30)
    write(file, "one")
    days.today += timedelta(days=1)
    write(file, "two")
    assert contents(tmp_path) == {
        "app.log": "two\n",
        "app.log.2026-11-23": "of another process\n",
        "app.log.2026-11-23.2": "one\n",
    }
    file.close()


def test_another_process_with_the_lock_delays_only_the_new_name(tmp_path: Path) -> None:
    days = Days()
    file = DailyFile(tmp_path / "app.log", days, 30)
    write(file, "one")
    days.today += timedelta(days=1)
    directory = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    write(file, "two")
    os.close(directory)
    write(file, "three")
    assert contents(tmp_path) == {"app.log": "three\n", "app.log.2026-11-23": "one\ntwo\n"}
    file.close()


@pytest.mark.parametrize("how", [Path.unlink, lambda path: path.rename(path.with_name("taken"))])
def test_a_file_that_somebody_took_away_is_made_anew(tmp_path: Path, how: Callable[[Path], Any]) -> None:
    """As logrotate does."""
    file = DailyFile(tmp_path / "app.log", Days(), 30)
    write(file, "one")
    how(tmp_path / "app.log")
    write(file, "two")
    assert (tmp_path / "app.log").read_text() == "two\n"
    file.close()


def test_the_rest_of_a_line_goes_where_its_beginning_is(tmp_path: Path) -> None:
    days = Days()
    file = DailyFile(tmp_path / "app.log", days, 30)
    file.write(memoryview(b"be"))
    days.today += timedelta(days=1)
    file.write(memoryview(b"gin\n"))
    write(file, "next")
    assert contents(tmp_path) == {"app.log": "next\n", "app.log.2026-11-23": "begin\n"}
    file.close()


def test_thirty_days_are_kept_and_foreign_files_are_untouched(tmp_path: Path) -> None:
    ours = [f"app.log.{TODAY - timedelta(days=days)}" for days in range(1, 40)]
    ours += [f"app.log.{TODAY - timedelta(days=31)}.7", f"app.log.{TODAY - timedelta(days=30)}.7"]
    foreign = [
        "app.log.2020-01-01.gz", "app.log.2020-01-01.bak", "my-app.log.2020-01-01", "api.log.2020-01-01",
        "app.log.2020-02-31", "app.log.20200101", "xapp.log.2020-01-01", "app_log.2020-01-01", "app.log.old",
        "2020-01-01.log", "notes.txt",
    ]  # fmt: skip
    for name in (*ours, *foreign):
        (tmp_path / name).write_text(name)
    (tmp_path / "app.log.2020-01-02").mkdir()
    (tmp_path / "app.log.2020-01-03").symlink_to(tmp_path / "notes.txt")
    file = DailyFile(tmp_path / "app.log", Days(), 30)
    write(file, "x")
    left = {path.name for path in tmp_path.iterdir()}
    kept = {f"app.log.{TODAY - timedelta(days=days)}" for days in range(1, 31)}
    assert left == {
        "app.log", *kept, f"app.log.{TODAY - timedelta(days=30)}.7", *foreign,
        "app.log.2020-01-02", "app.log.2020-01-03",
    }  # fmt: skip
    file.close()


def test_old_files_go_at_every_turn_of_the_day(tmp_path: Path) -> None:
    days = Days()
    file = DailyFile(tmp_path / "app.log", days, 2)
    for number in range(6):
        write(file, str(number))
        days.today += timedelta(days=1)
    assert sorted(contents(tmp_path).values()) == ["3\n", "4\n", "5\n"]
    file.close()


DAYS = 5
WRITERS = "abcd"
STATE = struct.Struct(f"=BB6x{DAYS}d{len(WRITERS)}q")
"""What writers and test share: days ended, whether to stop, when each day ended, lines in each writer's files."""
ENDED_AT, PROGRESS = 8, 8 + 8 * DAYS
SHARE = 50
"""Lines that each writer has in its files on each day."""

WRITER = """
import mmap, struct, sys, time
from datetime import date, timedelta
from aioinfra.logs import FileOptions, LoggingOptions, SinkOptions, get_logger, setup_logging
directory, state, ended_at, progress, name = sys.argv[1:]
with open(state, "r+b") as file:
    shared = mmap.mmap(file.fileno(), 0)
def day(moment):  # a day ends when the test says so, for all writers at the same moment
    ended = struct.unpack_from(f"={shared[0]}d", shared, int(ended_at))
    return date(2026, 1, 1) + timedelta(days=sum(moment >= end for end in ended))
sink = SinkOptions(interval=0.002, exit_timeout=50)
logging = setup_logging(
    "info", log_format="json", log_dir=directory, stream=open("/dev/null", "w"),
    options=LoggingOptions(sink=sink, files=FileOptions(calendar=day, sink=sink)),
)
log, index = get_logger("api.writer"), 0
while not shared[1]:
    log.info(name, index=index)
    index += 1
    if index % 5 == 0:
        figures = logging.file_figures()
        written = min(figures["app.log"].written, figures["api.log"].written)
        struct.pack_into("=q", shared, int(progress), written)
        time.sleep(0.001)
print(index)
"""


class Turns:
    """Ends the writers' days: each when all of them have lines in its files."""

    def __init__(self, directory: Path, shared: mmap.mmap) -> None:
        self.directory = directory
        self.shared = shared
        self.give_up = time.monotonic() + 90

    def progress(self) -> list[int]:
        return list(STATE.unpack_from(self.shared)[2 + DAYS :])

    def wait(self, until: Callable[..., bool], *given: Any) -> None:
        while not until(*given):
            assert time.monotonic() < self.give_up, f"lines so far: {self.progress()}"
            time.sleep(0.002)

    def have_gone_on(self, goal: list[int]) -> bool:
        return all(done >= least for done, least in zip(self.progress(), goal, strict=True))

    def has_files_since(self, moment: float) -> bool:
        """Both files are new since then, by the time at which they were last written."""
        try:
            files = [(self.directory / name).stat() for name in ("app.log", "api.log")]
        except FileNotFoundError:
            return False
        return all(file.st_size and file.st_mtime > moment for file in files)

    def has_names(self, days: int) -> bool:
        """The files of the days that have ended have their dated names."""
        dated = [f"{name}.2026-01-0{day + 1}" for name in ("app.log", "api.log") for day in range(days)]
        return all((self.directory / name).exists() for name in dated)

    def lead(self) -> None:
        began = time.time()
        for day in range(DAYS + 1):
            self.wait(self.has_names, day)
            self.wait(self.has_files_since, began)
            self.wait(self.have_gone_on, [done + SHARE for done in self.progress()])
            if day < DAYS:
                began = time.time()
                struct.pack_into("=d", self.shared, ENDED_AT + 8 * day, began)
                self.shared[0] = day + 1
        self.shared[1] = 1


@pytest.mark.timeout(180)
def test_four_processes_across_five_days_lose_no_line(tmp_path: Path) -> None:
    directory, state = tmp_path / "logs", tmp_path / "state"
    state.write_bytes(bytes(STATE.size))
    with state.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        command = [sys.executable, "-c", WRITER, str(directory), str(state), str(ENDED_AT)]
        writers = {
            name: subprocess.Popen(
                [*command, str(PROGRESS + 8 * number), name], stdout=subprocess.PIPE, text=True
            )
            for number, name in enumerate(WRITERS)
        }
        try:
            Turns(directory, shared).lead()
            wrote = {name: int(writer.communicate(timeout=60)[0]) for name, writer in writers.items()}
        finally:
            for writer in writers.values():
                writer.kill()
                writer.wait()
    assert min(wrote.values()) >= SHARE * (DAYS + 1)
    for log in ("app.log", "api.log"):
        files = list(directory.glob(f"{log}*"))
        assert len({path.name[:18] for path in files}) == DAYS + 1, "five days ended"
        lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
        found = Counter((line["message"], line["index"]) for line in lines)
        assert found == Counter((name, index) for name, count in wrote.items() for index in range(count))


def test_a_forked_child_writes_into_the_same_files_over_a_days_end(tmp_path: Path) -> None:
    script = """
import os, sys, time
from datetime import date, timedelta
from aioinfra.logs import FileOptions, LoggingOptions, get_logger, setup_logging
turned = [0]
day = lambda moment: date(2026, 1, 1) + timedelta(days=turned[0])
options = LoggingOptions(files=FileOptions(calendar=day))
logging = setup_logging("info", log_format="json", log_dir=sys.argv[1], options=options)
log = get_logger("a")
for index in range(500): log.info("before")
pid = os.fork()
name = "parent" if pid else "child"
for index in range(500): log.info(name)
logging.flush()
turned[0] = 1
for index in range(500): log.info(name)
if pid: assert os.waitpid(pid, 0)[1] == 0
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, timeout=50, check=True
    )
    found = Counter(message for path in tmp_path.glob("app.log*") for message in messages(path))
    assert found == {"before": 500, "parent": 1_000, "child": 1_000}
    assert len(ended.stderr.splitlines()) == 2_500
