"""The fault proxy: each toxic does to a socket what it says, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument, LifecycleError, StoreUnavailable
from aioinfra.testing import (
    Bandwidth,
    Direction,
    FaultProxy,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
)
from tests.fair_time import Stopwatch


class Client:
    """A plain socket through a proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, data: bytes, timeout: float = 5.0) -> bytes:
        """Send bytes and read as many."""
        self.writer.write(data)
        async with asyncio.timeout(timeout):
            return await self.reader.readexactly(len(data))

    async def end(self, timeout: float = 5.0) -> bytes:
        """Read to the end of the stream."""
        async with asyncio.timeout(timeout):
            return await self.reader.read()

    async def is_silent(self, seconds: float = 0.1) -> bool:
        """Whether nothing comes, not even an end."""
        try:
            async with asyncio.timeout(seconds):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    """URL of a server that sends back what it gets and closes when its client does."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


@pytest.fixture
async def proxy(echo: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(echo, seed=1) as opened:
        yield opened


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _takes(client: Client, data: bytes, least: float, below: float) -> bool:
    """Whether the echo comes in so many seconds."""
    watch = Stopwatch()
    assert await client.ask(data) == data
    return watch.shows(least, below)


# Passing bytes


async def test_bytes_and_ends_pass_both_ways_and_are_counted(proxy: FaultProxy) -> None:
    payload = bytes(range(256)) * 8_192
    async with connected(proxy) as client:
        assert await client.ask(payload) == payload
        client.writer.write_eof()
        assert await client.end() == b""
    figures = proxy.figures()
    assert (figures.connections, figures.bytes_upstream, figures.bytes_downstream) == (1, 1 << 21, 1 << 21)


async def test_the_url_differs_in_its_address_alone() -> None:
    async with FaultProxy("redis://ada:s%40cret@example.org:7000/3?client_name=x") as proxy:
        assert proxy.url == f"redis://ada:s%40cret@127.0.0.1:{proxy.port}/3?client_name=x"
        assert "cret" not in repr(proxy)
    async with FaultProxy("unix:///run/some%20where?db=5") as proxy:
        assert proxy.url == f"redis://127.0.0.1:{proxy.port}/5"


async def test_a_redis_on_a_unix_socket_is_reached_by_tcp(valkey_url: str) -> None:
    assert valkey_url.startswith("unix://")
    async with FaultProxy(valkey_url) as proxy, RedisClient(proxy.url) as client:
        assert await client.execute("ECHO", "hello") == b"hello"


@pytest.mark.parametrize(
    "upstream", ["", "localhost:6379", "unix://", "tcp://example.org", "redis://h:99999999", 7]
)
def test_what_names_no_server_is_refused_and_not_repeated(upstream: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        FaultProxy(upstream)
    assert caught.value.argument == "upstream"
    assert "999" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Latency(-1), "delay"),
        (lambda: Latency(1, jitter=float("nan")), "jitter"),
        (lambda: Bandwidth(0), "rate"),
        (lambda: Bandwidth(True), "rate"),
        (lambda: Slicer(4, variation=5), "variation"),
        (lambda: LimitData(-1), "limit"),
        (lambda: Timeout(float("inf")), "after"),
        (lambda: ResetPeer(-0.1), "after"),
        (lambda: SlowClose(-0.1), "delay"),
    ],
)
def test_impossible_toxics_are_refused(make: object, argument: str) -> None:
    assert callable(make)
    with pytest.raises(InvalidArgument) as caught:
        make()
    assert caught.value.argument == argument


async def test_a_proxy_is_used_while_it_is_open(echo: str) -> None:
    proxy = FaultProxy(echo)
    with pytest.raises(LifecycleError):
        proxy.partition()
    async with proxy:
        pass
    await proxy.aclose()
    with pytest.raises(LifecycleError):
        proxy.toxic(Latency(1))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(proxy.host, proxy.port)


async def test_a_server_that_is_not_there_is_a_closed_connection(tmp_path: Path) -> None:
    async with FaultProxy(f"unix://{tmp_path}/none") as proxy, connected(proxy) as client:
        assert await client.end() == b""


# Toxics


async def test_latency_delays_each_byte_once(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        with proxy.toxic(Latency(0.4)):
            assert await _takes(client, b"x", 0.4, 0.75)
            watch = Stopwatch()
            for number in range(20):  # one on the heels of another: late together, not one after another
                client.writer.write(bytes([number]))
                await asyncio.sleep(0.002)
            assert await client.ask(b"") == b""
            assert await client.reader.readexactly(20) == bytes(range(20))
            assert watch.shows(0.4, 2)
        assert await _takes(client, b"x", 0.0, 0.35)


async def test_latency_in_both_directions_counts_twice(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        with proxy.toxic(Latency(0.3), direction=Direction.BOTH):
            assert await _takes(client, b"x", 0.6, 0.88)


async def test_removing_a_toxic_lets_what_it_held_go_on_at_once(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        held = proxy.toxic(Latency(60))
        client.writer.write(b"held")
        assert await client.is_silent()
        held.remove()
        held.remove()
        assert await client.ask(b"") == b""
        assert await asyncio.wait_for(client.reader.readexactly(4), 1) == b"held"


async def test_bandwidth_bounds_bytes_a_second(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        with proxy.toxic(Bandwidth(100_000)):
            assert await _takes(client, b"x" * 60_000, 0.6, 1.1)


async def test_a_slicer_cuts_and_spaces_but_changes_nothing(proxy: FaultProxy) -> None:
    payload = bytes(range(100))
    async with connected(proxy) as client:
        with proxy.toxic(Slicer(10, variation=5, delay=0.02)):
            client.writer.write(payload)
            pieces: list[bytes] = []
            while sum(len(piece) for piece in pieces) < 100:
                pieces.append(await client.reader.read(1000))
    assert b"".join(pieces) == payload
    assert len(pieces) >= 5
    assert max(map(len, pieces)) <= 30  # 15, or two of them when the reader came late


async def test_limit_data_closes_after_exactly_so_many_bytes(proxy: FaultProxy) -> None:
    with proxy.toxic(LimitData(150)):
        async with connected(proxy) as client:
            assert await client.ask(b"x" * 100) == b"x" * 100
            client.writer.write(b"y" * 100)
            assert await client.end() == b"y" * 50
        async with connected(proxy) as client:  # counted per connection
            assert await client.ask(b"x" * 100) == b"x" * 100


async def test_timeout_swallows_and_then_closes(proxy: FaultProxy) -> None:
    with proxy.toxic(Timeout(0.2)):
        async with connected(proxy) as client:
            watch = Stopwatch()
            client.writer.write(b"lost")
            assert await client.end() == b""
            assert watch.shows(0.15, 2)


async def test_timeout_for_ever_closes_only_what_lost_bytes_and_only_when_removed(proxy: FaultProxy) -> None:
    async with connected(proxy) as loser, connected(proxy) as other:
        assert await loser.ask(b"a") == b"a"
        assert await other.ask(b"b") == b"b"
        with proxy.toxic(Timeout()):
            loser.writer.write(b"lost")
            assert await loser.is_silent(0.2)
        assert await loser.end() == b""
        assert await other.ask(b"b") == b"b"


async def test_reset_peer_is_an_rst_and_not_a_fin(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        assert await client.ask(b"a") == b"a"
        with proxy.toxic(ResetPeer(0.05)), pytest.raises(ConnectionResetError):
            await client.end()


async def test_slow_close_delays_the_end_alone(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        with proxy.toxic(SlowClose(0.5)):
            assert await _takes(client, b"x", 0.0, 0.4)
            watch = Stopwatch()
            client.writer.write_eof()
            assert await client.end() == b""
            assert watch.shows(0.5, 2)


async def test_toxics_act_together_in_a_fixed_order(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        with proxy.toxic(LimitData(10)), proxy.toxic(Slicer(3)), proxy.toxic(Latency(0.3)):
            watch = Stopwatch()
            client.writer.write(b"0123456789abc")
            assert await client.end() == b"0123456789"
            assert watch.shows(0.3, 0.9)  # 4 slices one after the other would take 1.2


async def test_a_toxic_of_ones_own(proxy: FaultProxy) -> None:
    class Shout(Toxic):
        async def carry(self, stage: object, data: bytes, came: float, forward: object) -> None:
            assert callable(forward)
            await forward(data.upper(), came)

    async with connected(proxy) as client:
        with proxy.toxic(Shout()):
            client.writer.write(b"quiet")
            assert await client.reader.readexactly(5) == b"QUIET"


async def _slow_ones(echo: str, seed: int) -> list[bool]:
    """Which of 12 connections a toxic meets."""
    async with FaultProxy(echo, seed=seed) as proxy:
        proxy.toxic(Timeout(0.001), toxicity=0.5)
        found = []
        for _ in range(12):
            async with connected(proxy) as client:
                client.writer.write(b"x")
                answer = b""  # of a connection that was closed or, with the byte not yet read, reset
                with suppress(ConnectionError):
                    async with asyncio.timeout(10):
                        answer = await client.reader.read(1)
                found.append(answer == b"")
        return found


async def test_toxicity_is_a_share_of_connections_that_the_seed_decides(echo: str) -> None:
    first = await _slow_ones(echo, 3)
    assert await _slow_ones(echo, 3) == first
    assert await _slow_ones(echo, 4) != first
    assert 2 <= sum(first) <= 10


# Partitions, cuts, lost replies


async def test_a_partition_is_silence_and_healing_it_delivers(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        assert await client.ask(b"a") == b"a"
        proxy.partition()
        client.writer.write(b"during")
        assert await client.is_silent()
        async with connected(proxy) as newcomer:  # accepted, and silent
            newcomer.writer.write(b"new")
            assert await newcomer.is_silent()
            proxy.heal()
            assert await asyncio.wait_for(client.reader.readexactly(6), 1) == b"during"
            assert await asyncio.wait_for(newcomer.reader.readexactly(3), 1) == b"new"


async def test_a_partition_hides_that_a_side_has_gone(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        assert await client.ask(b"a") == b"a"
        proxy.partition()
        client.writer.write_eof()
        assert await client.is_silent()
        proxy.heal()
        assert await client.end() == b""


async def test_a_partition_may_refuse_newcomers(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        assert await client.ask(b"a") == b"a"
        port = proxy.port
        proxy.partition(refuse=True)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, port)
        client.writer.write(b"held")
        assert await client.is_silent(0.05)
        proxy.heal()
        assert await asyncio.wait_for(client.reader.readexactly(4), 1) == b"held"
        async with connected(proxy) as again:
            assert proxy.port == port
            assert await again.ask(b"b") == b"b"


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_closes_what_is_open_and_nothing_else(proxy: FaultProxy, reset: bool) -> None:
    async with connected(proxy) as client:
        assert await client.ask(b"a") == b"a"
        proxy.cut(reset=reset)
        if reset:
            with pytest.raises(ConnectionResetError):
                await client.end()
        else:
            assert await client.end() == b""
    async with connected(proxy) as client:
        assert await client.ask(b"b") == b"b"


async def test_a_lost_reply_belongs_to_a_request_that_was_served(valkey_url: str, prefix: str) -> None:
    async with FaultProxy(valkey_url) as proxy, RedisClient(proxy.url) as client:
        lost = proxy.lose_reply(matching=b"INCR", times=2)
        for _ in range(2):
            assert await client.execute("GET", prefix + "other") is None
            with pytest.raises(StoreUnavailable) as caught:
                await client.execute("INCR", prefix + "n")
            assert caught.value.sent
        assert await client.execute("GET", prefix + "n") == b"2"
        assert await client.execute("INCR", prefix + "n") == 3
        assert (lost.lost, lost.left) == (2, 0)


async def test_a_request_in_pieces_is_recognised(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        lost = proxy.lose_reply(matching=b"needle")
        assert await client.ask(b"hay nee") == b"hay nee"
        client.writer.write(b"dle hay")
        assert await client.end() == b""
        assert lost.lost == 1


# Bounds and ends


async def test_a_slow_receiver_slows_its_sender(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        assert await client.ask(b"a") == b"a"
        with proxy.toxic(Latency(60), direction=Direction.UPSTREAM):
            sent = 0
            with suppress(TimeoutError):
                while sent < 1 << 28:
                    client.writer.write(b"x" * (1 << 16))
                    await asyncio.wait_for(client.writer.drain(), 0.2)
                    sent += 1 << 16
            assert sent < 1 << 25  # the proxy's 1 MiB and the kernel's socket buffers
            client.writer.transport.abort()


async def test_nothing_is_left_behind(echo: str) -> None:
    """Closed in the middle of everything: transfers, pauses, partitions, connections just accepted."""
    process = psutil.Process()

    async def once(seed: int) -> None:
        async with FaultProxy(echo, seed=seed) as proxy:
            async with connected(proxy) as client, connected(proxy) as other:
                proxy.toxic(Latency(30), toxicity=0.5)
                proxy.toxic(SlowClose(30))
                client.writer.write(b"x" * 300_000)
                other.writer.write_eof()
                await asyncio.sleep(0.005 * seed)
                if seed % 2:
                    proxy.partition(refuse=seed % 4 == 1)
            late = [asyncio.create_task(_try_to_connect(proxy)) for _ in range(3)]
            await asyncio.sleep(0.001 * seed)
        await asyncio.gather(*late)

    await once(1)
    gc.collect()
    before, tasks = process.num_fds(), len(asyncio.all_tasks())
    for seed in range(8):
        await once(seed)
    async with asyncio.timeout(5):
        while process.num_fds() > before or len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


async def _try_to_connect(proxy: FaultProxy) -> None:
    with suppress(OSError):
        async with connected(proxy) as client:
            await client.end()
