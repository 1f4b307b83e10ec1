"""The processes of contestants as the harness sees them: an obeying client, workers, their jobs' stamps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self

import psutil

from benchmarks.errors import BenchmarkError, CommandFailedError
from benchmarks.peers import Peer
from benchmarks.peers.report import SOCKET_VARIABLE

ROOT: Final = Path(__file__).resolve().parent.parent
STOP_TIMEOUT: Final = 15.0
COMMAND_TIMEOUT: Final = 600.0


class Place(Protocol):
    """Where a contestant runs: the server's URL, and a directory for its output. A BenchServer is one."""

    @property
    def url(self) -> str: ...

    @property
    def directory(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class At:
    """A Place that is not a whole server: a database of one, or none at all."""

    url: str
    directory: Path


def command_line(peer: Peer, url: str, role: str) -> list[str]:
    return [
        peer.python,
        "-m",
        "benchmarks.peers.run",
        peer.factory,
        json.dumps(dict(peer.options)),
        url,
        role,
    ]


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """The child's environment: ours without what would configure a contestant by accident."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


def tail_of(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def last_of(log: Path) -> str:
    """A log's last line, which for an uncaught exception says which."""
    return (tail_of(log, 1) or "without a word").strip()


async def stop_process(process: asyncio.subprocess.Process, grace: float = STOP_TIMEOUT) -> None:
    """SIGTERM, and SIGKILL after ``grace`` seconds; SIGKILL for the children that it leaves behind.

    The process must have been started in a session of its own, so that its id names its group.
    """
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU seconds, user and system, of a process and its children so far."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(_own_cpu(member) for member in family)


def _own_cpu(process: psutil.Process) -> float:
    if platform.system() == "Linux":
        # clock_getcpuclockid(3): nanoseconds, where /proc/<pid>/stat counts in hundredths of a second.
        return time.clock_gettime((~process.pid << 3) | 2)
    times = process.cpu_times()
    return float(times.user + times.system)


class Client:
    """A contestant's process that obeys commands. Made by `client`."""

    def __init__(self, process: asyncio.subprocess.Process, peer: Peer, log: Path) -> None:
        self._process = process
        self._peer = peer
        self._log = log

    async def call(self, command: str, **arguments: Any) -> Any:
        """Have one command run; its answer.

        Raises:
            BenchmarkError: it failed, or the process ended.
        """
        reader, writer = self._process.stdout, self._process.stdin
        if reader is None or writer is None:
            raise BenchmarkError("the contestant's process has no pipes")
        writer.write(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
        line = await asyncio.wait_for(reader.readline(), COMMAND_TIMEOUT)
        if not line:
            raise BenchmarkError(
                f"{self._peer.name} ended during {command}: {last_of(self._log)}\n{tail_of(self._log)}"
            )
        reply = json.loads(line)
        if "failure" in reply:
            raise CommandFailedError(f"{self._peer.name} failed at {command}: {reply['failure']}")
        return reply["answer"]


@asynccontextmanager
async def client(peer: Peer, place: Place, role: str) -> AsyncIterator[Client]:
    """A contestant's client for the time of a ``with`` block; ``role`` is "cache", "jobs" or "local"."""
    log = place.directory / f"client-{time.monotonic_ns()}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command_line(peer, place.url, role),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environment({}),
            cwd=ROOT,
            limit=1 << 26,
            start_new_session=True,
        )
    try:
        yield Client(process, peer, log)
    finally:
        if process.stdin is not None:
            process.stdin.close()  # the end of its input ends it
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
        await stop_process(process)


@dataclass(frozen=True, slots=True)
class Report:
    """A job's stamp. ``index`` -1: the first job of a process. ``ns``: nanoseconds of CLOCK_MONOTONIC."""

    index: int
    pid: int
    ns: int
    more: Mapping[str, int] = field(default_factory=dict)


class Reports:
    """The socket on which workers' jobs report. Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "reports.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._queue: asyncio.Queue[Report] = asyncio.Queue()

    def __enter__(self) -> Self:
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self.path.unlink()

    def _read(self) -> None:
        while True:
            try:
                data = json.loads(self._socket.recv(4096))
            except BlockingIOError:
                return
            self._queue.put_nowait(Report(data.pop("index"), data.pop("pid"), data.pop("ns"), data))

    async def next(self, timeout: float) -> Report:
        """The next stamp, in the order of arrival.

        Raises:
            BenchmarkError: none came within ``timeout`` seconds.
        """
        try:
            return await asyncio.wait_for(self._queue.get(), timeout)
        except TimeoutError:
            raise BenchmarkError(f"no job started within {timeout} s") from None

    def clear(self) -> None:
        """Forget what has arrived."""
        while not self._queue.empty():
            self._queue.get_nowait()


@asynccontextmanager
async def worker(
    peer: Peer,
    place: Place,
    reports: Reports,
    more: Mapping[str, str] | None = None,
    grace: float = STOP_TIMEOUT,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A contestant's worker process for the time of a ``with`` block; ``grace`` seconds to end in.

    Raises:
        BenchmarkError: it ended by itself with an error.
    """
    log = place.directory / f"worker-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command_line(peer, place.url, "work"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment({SOCKET_VARIABLE: str(reports.path), **(more or {})}),
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield process
    except BenchmarkError as error:
        raise BenchmarkError(f"{peer.name}: {error}\n{tail_of(log)}") from error
    finally:
        await stop_process(process, grace)
