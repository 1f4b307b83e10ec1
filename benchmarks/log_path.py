"""What does an event loop feel of a log reader that has stalled?

Lines go to a FIFO that nobody reads for two seconds. A task logs them, evenly, beside one that looks at the clock
every millisecond; the idle loop does the same without a line. Then somebody reads, and every line has to be there
or be counted as dropped.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import pkgutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import orjson
import structlog
from structlog.processors import JSONRenderer

from aioinfra.logs import LoggingOptions, SinkOptions, bound, get_logger, setup_logging
from benchmarks.errors import BenchmarkError
from benchmarks.harness import Answer, Figures, Goal, Metric, Question, header, interleave
from benchmarks.in_process import CONTEXT, FIELDS, NAME, expect
from benchmarks.peers import Peer
from benchmarks.peers.measure import quantile
from benchmarks.plan import Plan

RATE: Final = 5_000  # lines a second
TICK: Final = 0.001  # seconds between two looks at the clock
BURST: Final = 50  # lines that a task logs before it lets others run
RING: Final = 1 << 20  # bytes: of the 10,000 lines some must be dropped, to see what that costs
POINT: Final = "a reader that stalls"

IDLE: Final = Peer("idle loop", "benchmarks.log_path:Idle")
BLOCKING: Final = Peer("structlog, BytesLogger", "benchmarks.log_path:Blocking", packages=("structlog",))
OURS: Final = Peer("aioinfra", "benchmarks.log_path:Ours", packages=("aioinfra",))
PEERS: Final = (IDLE, BLOCKING, OURS)

QUESTION: Final = Question(
    name="log_path",
    title="The loop beside a stalled log reader",
    metrics=(
        Metric("gap_ms", "loop gap p99.9 ms", 2),
        Metric("longest_ms", "longest ms", 2),
        Metric("added_ms", "added to the idle loop's ms", 2),
        Metric("written", "lines written"),
        Metric("dropped", "dropped"),
    ),
    ratio_of="gap_ms",
    baseline=(),
    goals=(Goal(POINT, OURS.name, "added_ms", at_most=5),),
)


class Idle:
    """The tasks without a log."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def log(self, index: int) -> None:
        """One line."""

    def end(self, made: int) -> tuple[int, int]:  # noqa: ARG002 - of a log
        """Lines written and dropped, when the reader has had its time."""
        return 0, 0


class Blocking(Idle):
    """What most services do: every line is written where it is logged."""

    def __init__(self, pipe: int) -> None:
        super().__init__(pipe)
        self._file = os.fdopen(os.dup(pipe), "wb")
        self._logger: Any = structlog.wrap_logger(
            structlog.BytesLogger(self._file), processors=[JSONRenderer(serializer=orjson.dumps)]
        )

    def log(self, index: int) -> None:
        self._logger.info("order paid", order_id=index, **CONTEXT, **FIELDS)

    def end(self, made: int) -> tuple[int, int]:
        self._file.close()
        return made, 0


class Ours(Idle):
    """The default pipeline with a ring that is too small for the stall."""

    def __init__(self, pipe: int) -> None:
        super().__init__(pipe)
        self._file = os.fdopen(os.dup(pipe), "w")
        options = LoggingOptions(sink=SinkOptions(capacity=RING, reserve=RING // 8))
        self._logging = setup_logging(
            "info", log_format="json", service_name="shop", stream=self._file, options=options
        )
        self._logger = get_logger(NAME)

    def log(self, index: int) -> None:
        self._logger.info("order paid", order_id=index, **FIELDS)

    def end(self, made: int) -> tuple[int, int]:
        if not self._logging.flush(30):
            raise BenchmarkError("the lines were not written in time")
        figures = self._logging.figures()
        self._logging.uninstall()
        self._file.close()
        expect("lines written or dropped", figures.written + figures.dropped, made)
        return figures.written, figures.dropped


async def run(plan: Plan) -> Answer:
    """Measure in this process."""
    peers, rounds, lines = plan.chosen(PEERS), plan.rounds_or(9, 3), plan.size_or(10_000, 2_500)
    versions = {name: importlib.metadata.version(name) for peer in PEERS for name in peer.packages}
    answer = Answer(QUESTION, header("", "", versions, rounds=rounds) | {"server": "no server"})

    async def measure(peer: Peer) -> Figures:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            return await stalled(peer, Path(directory), lines)

    found = await interleave(peers, rounds, measure, POINT)
    idle = [figures["gap_ms"] for figures in found.get(IDLE.name, ())]
    answer.points[POINT] = {
        name: [
            {**figures, "added_ms": figures["gap_ms"] - base}
            for figures, base in zip(of_one, idle, strict=True)
        ]
        if idle
        else of_one
        for name, of_one in found.items()
    }
    return answer


async def stalled(peer: Peer, directory: Path, lines: int) -> Figures:
    """One round: the gaps of the loop while nobody reads, and what became of the lines."""
    fifo, read = directory / "fifo", directory / "read"
    os.mkfifo(fifo)
    pipe = os.open(fifo, os.O_RDWR)
    reader = _reader(fifo, read, lines / RATE)
    try:
        contestant: Idle = pkgutil.resolve_name(peer.factory)(pipe)
        found = await gaps(contestant, lines)
        written, dropped = await asyncio.to_thread(contestant.end, lines)
        os.close(pipe)
        await asyncio.to_thread(reader.wait, 30)
    finally:
        reader.kill()
        reader.wait()
    notices = int(dropped > 0)
    expect("lines read", read.read_bytes().count(b"\n"), written + notices)
    return {
        "gap_ms": quantile(found, 0.999) * 1e3,
        "longest_ms": found[-1] * 1e3,
        "written": written,
        "dropped": dropped,
    }


def _reader(fifo: Path, read: Path, delay: float) -> subprocess.Popen[bytes]:
    """A process that has the pipe open, reads nothing for ``delay`` seconds, then all of it.

    Not a task here: a loop that is blocked could not start it.
    """
    script = 'exec <"$2"; echo >&2; sleep "$1"; exec cat'
    with read.open("wb") as file:
        reader = subprocess.Popen(
            ["sh", "-c", script, "sh", str(delay), str(fifo)], stdout=file, stderr=subprocess.PIPE
        )
    assert reader.stderr is not None
    reader.stderr.readline()
    return reader


async def gaps(contestant: Idle, lines: int) -> list[float]:
    """Seconds between a ticking task's turns, ascending, while the lines are logged evenly."""
    found: list[float] = []
    work = asyncio.create_task(_log(contestant, lines))
    try:
        last = time.perf_counter()
        while not work.done():
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            found.append(now - last)
            last = now
    finally:
        work.cancel()
    await work
    return sorted(found)


async def _log(contestant: Idle, lines: int) -> None:
    began, done = time.perf_counter(), 0
    with bound(**CONTEXT):
        while done < lines:
            due = min(lines, int((time.perf_counter() - began) * RATE), done + BURST)
            for index in range(done, due):
                contestant.log(index)
            done = max(done, due)
            await asyncio.sleep(TICK)
