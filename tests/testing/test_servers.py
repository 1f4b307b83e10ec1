"""The kit's server does what it says: real processes, real signals."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.errors import EmbeddedServerError, InvalidArgument, LifecycleError, StoreError, StoreUnavailable
from aioinfra.testing.server_process import free_ports
from aioinfra.testing.servers import RedisServer, ServerOptions

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(params=[None, "redis-server"], ids=["embedded", "debian"])
def options(request: pytest.FixtureRequest) -> ServerOptions:
    """Options for the embedded binary and for the machine's."""
    try:
        options = ServerOptions(binary=request.param)
        RedisServer(options)
    except InvalidArgument:
        pytest.skip("no redis-server on PATH")
    return options


def until(holds: Callable[[], bool], timeout: float = 2.0) -> bool:
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_killed_server_comes_back_on_its_port_with_its_data(options: ServerOptions) -> None:
    async with RedisServer(options) as server, RedisClient(server.url) as redis:
        await redis.execute("SET", "key", "value")
        first = server.pid
        await server.kill()
        assert not server.running
        with pytest.raises(StoreUnavailable):
            await redis.execute("GET", "key")
        await server.restart()
        assert server.pid != first
        assert await redis.execute("GET", "key") == b"value"
    assert not server.directory.exists()
    assert not server.running


async def test_a_frozen_server_hangs_and_goes_on_where_it_stood(options: ServerOptions) -> None:
    async with RedisServer(options) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        server.freeze()
        assert psutil.Process(server.pid).status() == psutil.STATUS_STOPPED
        writer.write(b"INCR n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.1)
        assert not server.answers(timeout=0.05)
        server.thaw()
        assert await reader.readline() == b":1\r\n"
        writer.close()
        await writer.wait_closed()


async def test_a_server_may_be_absent_at_first(options: ServerOptions) -> None:
    server = RedisServer(options)
    assert str(server.port) in server.url
    with pytest.raises(LifecycleError):
        _ = server.pid
    async with RedisClient(server.url) as redis:
        with pytest.raises(StoreUnavailable):
            await redis.ping()
        async with server:
            assert await redis.ping() > 0
            with pytest.raises(LifecycleError):
                server.launch()


async def test_admin_goes_past_everything_and_tells_errors_from_silence() -> None:
    async with RedisServer(ServerOptions(maxmemory=64 << 20, lines=("maxclients 20",))) as server:
        assert await server.admin("CONFIG", "GET", "maxclients") == [b"maxclients", b"20"]
        assert await server.admin("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"67108864"]
        assert await server.admin("SET", b"\xff", 1.5) == b"OK"
        assert await server.admin("GET", "missing") is None
        with pytest.raises(StoreError, match="unknown command"):
            await server.admin("NONSENSE")
        server.freeze()
        with pytest.raises(StoreUnavailable):
            await server.admin("PING", timeout=0.05)


async def test_sigterm_saves_what_the_configuration_says() -> None:
    async with RedisServer(ServerOptions(append_only=False, lines=("save 3600 1",))) as server:
        await server.admin("SET", "key", "value")
        await server.terminate()
        await server.start()
        assert await server.admin("GET", "key") == b"value"


async def test_a_password_is_asked_for_and_stays_out_of_sight() -> None:
    secret = 'pass"word\\ 1'
    async with RedisServer(ServerOptions(password=secret)) as server, RedisClient(server.url) as redis:
        assert await redis.ping() > 0
        assert await server.admin("PING") == b"PONG"
        stranger = RedisClient(f"redis://127.0.0.1:{server.port}/0")
        with pytest.raises(StoreError):
            await stranger.ping()
        await stranger.aclose()
        assert secret not in repr(server) + repr(server.options)
        assert secret not in " ".join(psutil.Process(server.pid).cmdline())


def test_without_a_loop_on_a_unix_socket() -> None:
    with RedisServer(ServerOptions(unix=True)) as server:
        assert server.url == f"unix://{server.socket_path}?db=0"
        first = server.pid
        server.end()
        assert not server.answers()
        server.launch()
        server.wait_until_ready()
        assert server.pid != first
        server.end(signal.SIGTERM)
    assert not server.directory.exists()


async def test_ready_means_that_the_data_is_loaded() -> None:
    lines = ("key-load-delay 500",)  # microseconds a key, a test aid of the server
    async with RedisServer(ServerOptions(lines=lines)) as server:
        await server.admin("EVAL", "for i = 1, 1500 do redis.call('SET', i, i) end", 0)
        await server.kill()
        with pytest.raises(TimeoutError, match=r"did not answer in 0\.3 s"):
            await server.start(timeout=0.3)
        await server.wait_ready()
        assert await server.admin("DBSIZE") == 1500


async def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = RedisServer(ServerOptions(lines=("nonsense yes",)))
    with pytest.raises(EmbeddedServerError, match="nonsense"):
        await server.__aenter__()
    assert not server.directory.exists()


async def test_a_failing_block_ends_its_server() -> None:
    server = RedisServer()
    pids: list[int] = []

    async def fail() -> None:
        async with server:
            pids.append(server.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert gone(pids[0])
    assert not server.directory.exists()


PARENT = """
import sys, time
from aioinfra.testing.servers import RedisServer
with RedisServer() as server:
    if sys.argv[1] == "frozen":
        server.freeze()
    print(server.pid, server.directory, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("state", ["running", "frozen"])
def test_no_server_outlives_a_parent_that_was_killed(state: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, state], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid, directory = parent.stdout.readline().split()
    assert not gone(int(pid))
    parent.kill()
    parent.communicate()
    assert until(lambda: gone(int(pid)))
    assert until(lambda: not Path(directory).exists())


def test_free_ports_lie_outside_of_the_range_that_clients_are_given() -> None:
    path = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(path.read_text().split()[0]) if path.exists() else 32_768
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"port": 0}, "port"),
        ({"port": True}, "port"),
        ({"port": 7000, "unix": True}, "port"),
        ({"append_fsync": "sometimes"}, "append_fsync"),
        ({"maxmemory": -1}, "maxmemory"),
        ({"maxmemory": True}, "maxmemory"),
        ({"password": ""}, "password"),
        ({"password": "a\nb"}, "password"),
        ({"lines": "maxclients 20"}, "lines"),
        ({"lines": ["maxclients 20\nsave 1 1"]}, "lines"),
        ({"binary": "no-such-server"}, "binary"),
    ],
)
def test_bad_options_are_named_before_anything_happens(options: dict[str, object], argument: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        RedisServer(ServerOptions(**options))  # type: ignore[arg-type]  # that is the point
    assert refused.value.argument == argument
