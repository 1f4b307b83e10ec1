"""The sink: nothing blocks, nothing is lost uncounted."""

from __future__ import annotations

import errno
import gc
import io
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioinfra.logs.sink import Sink, SinkOptions
from aioinfra.logs.target import DescriptorTarget, StreamTarget

LINE = b"x" * 299 + b"\n"


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A pipe that nobody reads: writing to it blocks once it holds 64 KiB."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor, path
    os.close(descriptor)


def drain(path: Path, until: int) -> bytes:
    """Read that many lines from the pipe."""
    data = b""
    with path.open("rb", buffering=0) as reader:
        while data.count(b"\n") < until:
            data += reader.read(1 << 20)
    return data


def notice(lost: int, since: float) -> bytes:
    assert since <= time.time()
    return b"lost %d\n" % lost


def test_a_stalled_reader_blocks_nobody_and_every_line_is_accounted_for(fifo: tuple[int, Path]) -> None:
    descriptor, path = fifo
    sink = Sink(DescriptorTarget(descriptor), SinkOptions(capacity=1 << 20, reserve=128 << 10), notice=notice)
    slowest = 0.0
    accepted = 0
    for _ in range(10_000):
        began = time.perf_counter()
        accepted += sink.put(LINE, logging.INFO)
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 0.5, "far from waiting for the reader, whatever else this machine does"
    figures = sink.figures()
    assert figures.dropped == 10_000 - accepted > 0
    assert figures.written + figures.dropped + figures.waiting == 10_000
    assert figures.waiting_bytes <= 1 << 20

    data = drain(path, accepted)
    assert sink.flush(10)
    figures = sink.figures()
    assert figures.written == accepted
    assert figures.written + figures.dropped == 10_000
    data += b"" if b"lost" in data else drain(path, 1)
    assert data.count(b"lost %d\n" % figures.dropped) == 1, "one line says what was lost"
    assert data.count(LINE) == accepted
    sink.close()


def test_a_part_is_kept_for_errors(fifo: tuple[int, Path]) -> None:
    sink = Sink(DescriptorTarget(fifo[0]), SinkOptions(capacity=256 << 10, reserve=64 << 10))
    while sink.put(LINE, logging.WARNING):
        pass
    kept = 0
    while sink.put(LINE, logging.ERROR):
        kept += 1
    assert 150 <= kept <= 200
    assert sink.figures().dropped == 2
    began = time.monotonic()
    sink.close(0.2)
    assert time.monotonic() - began < 2, "a stuck reader does not hold up the end"
    figures = sink.figures()
    assert figures.waiting == 0
    assert figures.written == 0
    drain(fifo[1], 100)  # the stuck thread wakes, and ends


def test_a_sink_works_on_after_its_thread_was_left_behind(fifo: tuple[int, Path]) -> None:
    descriptor, path = fifo
    sink = Sink(DescriptorTarget(descriptor), SinkOptions())
    for _ in range(1_000):
        sink.put(LINE, logging.INFO)
    sink.close(0.1)
    assert sink.figures().dropped == 1_000
    assert sink.put(b"later\n", logging.INFO)
    reader = threading.Thread(target=lambda: data.append(read_until(path, b"later\n")))
    data: list[bytes] = []
    reader.start()
    assert sink.flush(10)
    reader.join(10)
    assert sink.figures().written == 1
    sink.close()


def read_until(path: Path, end: bytes) -> bytes:
    data = b""
    with path.open("rb", buffering=0) as reader:
        while end not in data:
            data += reader.read(1 << 20)
    return data


def test_lines_of_many_threads_are_whole_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    sink = Sink(DescriptorTarget(descriptor))

    def produce(name: int) -> None:
        for index in range(2_000):
            sink.put(f"{name} {index}\n".encode(), logging.INFO)

    threads = [threading.Thread(target=produce, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    os.close(descriptor)
    lines = path.read_text().splitlines()
    for name in range(4):
        mine = [line for line in lines if line.startswith(f"{name} ")]
        assert mine == [f"{name} {index}" for index in range(2_000)], "each thread's lines, in order"


class FailingTarget:
    """Refuses the first writes, then takes a few bytes at a time."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.data = b""

    def write(self, data: memoryview) -> int:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOSPC, "no space")
        self.data += bytes(data[:7])
        return min(7, len(data))

    def ready(self, timeout: float) -> bool:
        return True

    def write_at_once(self, data: bytes) -> int:
        return self.write(memoryview(data))


def test_a_full_disk_is_waited_out_and_counted() -> None:
    target = FailingTarget(2)
    sink = Sink(target)
    sink.put(b"first line\n", logging.INFO)
    sink.put(b"second line\n", logging.INFO)
    assert sink.flush(10)
    assert target.data == b"first line\nsecond line\n"
    assert sink.figures().write_errors == 2
    sink.close()


def test_after_a_flush_lines_are_written_by_their_callers_whole_and_in_order() -> None:
    target = FailingTarget(0)
    sink = Sink(target)
    assert sink.flush(10)
    lines = [b"%d a line of more than seven bytes\n" % index for index in range(2_000)]
    for line in lines:
        sink.put(line, logging.INFO)
    assert sink.flush(10)
    assert target.data == b"".join(lines)
    assert sink.figures().written == 2_000
    sink.put(b"short\n", logging.INFO)
    assert target.data.endswith(b"short\n"), "written when put returns"
    target.failures = 1
    sink.put(b"next\n", logging.INFO)
    assert sink.flush(10)
    assert target.data.endswith(b"short\nnext\n"), "what cannot be written at once waits as ever"
    sink.close()


def test_after_a_flush_a_stalled_reader_still_blocks_nobody(fifo: tuple[int, Path]) -> None:
    sink = Sink(DescriptorTarget(fifo[0]))
    assert sink.flush(10)
    began = time.monotonic()
    for _ in range(900):
        sink.put(LINE * 10, logging.INFO)
    assert time.monotonic() - began < 1
    figures = sink.figures()
    assert figures.written + figures.waiting == 900
    assert figures.waiting > 0
    sink.close(0.1)


def test_a_closed_stream_does_not_hold_up_the_end() -> None:
    stream = io.StringIO()
    sink = Sink(StreamTarget(stream))
    stream.close()
    sink.put(LINE, logging.INFO)
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 3
    assert sink.figures().dropped == 1


def test_lines_after_the_end_are_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    sink = Sink(DescriptorTarget(descriptor))
    sink.put(b"before\n", logging.INFO)
    sink.close()
    sink.put(b"between\n", logging.INFO)
    sink.close(final=True)
    sink.put(b"after\n", logging.INFO)
    assert path.read_bytes() == b"before\nbetween\nafter\n"
    os.close(descriptor)


def test_lines_after_the_end_do_not_wait_long_for_a_stalled_reader(fifo: tuple[int, Path]) -> None:
    sink = Sink(DescriptorTarget(fifo[0]), SinkOptions(exit_timeout=0.2))
    sink.close(final=True)
    began = time.monotonic()
    for _ in range(1_000):
        sink.put(LINE, logging.INFO)
    assert time.monotonic() - began < 5
    figures = sink.figures()
    assert figures.written + figures.dropped == 1_000
    assert figures.written > 100


def test_a_signal_handler_and_a_finalizer_may_log() -> None:
    """Both can run inside `put` itself, on the thread that holds its lock."""
    stream = io.StringIO()
    sink = Sink(StreamTarget(stream))

    class Finalized:
        def __init__(self) -> None:
            self.me = self  # a cycle: the garbage collector runs __del__, anywhere

        def __del__(self) -> None:
            sink.put(b"finalized\n", logging.INFO)

    def on_signal(_number: int, _frame: object) -> None:
        sink.put(b"signalled\n", logging.INFO)

    before = signal.signal(signal.SIGALRM, on_signal)
    thresholds = gc.get_threshold()
    gc.set_threshold(5)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(20_000):
            Finalized()
            sink.put(b"plain\n", logging.INFO)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.set_threshold(*thresholds)
    gc.collect()
    assert sink.flush(10)
    text = stream.getvalue()
    assert text.count("plain") == text.count("finalized") == 20_000
    assert text.count("signalled") > 0
    figures = sink.figures()
    assert figures.written == text.count("\n")
    assert figures.waiting_bytes == 0
    sink.close()


def test_a_non_blocking_descriptor_is_waited_for(fifo: tuple[int, Path]) -> None:
    descriptor, path = fifo
    os.set_blocking(descriptor, False)
    sink = Sink(DescriptorTarget(descriptor))
    for _ in range(1_000):
        sink.put(LINE, logging.INFO)
    assert drain(path, 1_000) == LINE * 1_000
    assert sink.flush(10)
    assert sink.figures().write_errors == 0
    sink.close()


async def test_flush_and_close_beside_the_loop(tmp_path: Path) -> None:
    stream = io.StringIO()
    sink = Sink(StreamTarget(stream))
    sink.put(b"one\n", logging.INFO)
    assert await sink.aflush(10)
    sink.put(b"two\n", logging.INFO)
    await sink.aclose()
    assert stream.getvalue() == "one\ntwo\n"
