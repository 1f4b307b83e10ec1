"""Server-assisted invalidation: what is heard, when it may be believed, and how gaps show."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.connection.tracking import (
    TrackingListener,
    TrackingOptions,
    TrackingState,
    shortest_prefixes,
)
from aioinfra.errors import InvalidArgument, LifecycleError
from tests.conftest import OwnServerFactory
from tests.fair_time import fair_time

QUICK = TrackingOptions(ping_interval=0.05, silence_limit=0.2, reconnect_after=0.6, refused_retry=0.2)


class Heard:
    """What a listener reported, in order; None for "everything"."""

    def __init__(self) -> None:
        self.reports: list[bytes | None] = []
        self._more = asyncio.Event()

    def __call__(self, keys: Sequence[bytes] | None) -> None:
        self.reports += [None] if keys is None else keys
        self._more.set()

    def __contains__(self, key: bytes) -> bool:
        return key in self.reports

    async def until(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def listening(
    client: RedisClient,
    prefixes: Sequence[str | bytes],
    heard: Callable[[Sequence[bytes] | None], None],
    options: TrackingOptions = QUICK,
) -> AsyncIterator[TrackingListener]:
    listener = TrackingListener(client, prefixes, heard, options)
    task = asyncio.create_task(listener.run())
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert listener.state is TrackingState.DOWN


async def until_state(listener: TrackingListener, *wanted: TrackingState, timeout: float = 5.0) -> None:
    async with asyncio.timeout(timeout):
        while listener.state not in wanted:  # noqa: ASYNC110 - a state that silence changes has no event
            await asyncio.sleep(0.001)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    async with RedisClient(redis_url) as opened:
        yield opened


@pytest.fixture
async def foreign(redis_url: str) -> AsyncIterator[RedisClient]:
    """Another application writing to the same server."""
    async with RedisClient(redis_url) as opened:
        yield opened


# What is heard


async def test_a_foreign_write_is_heard_at_once(
    client: RedisClient, foreign: RedisClient, prefix: str
) -> None:
    heard = Heard()
    key = f"{prefix}k".encode()
    async with listening(client, [prefix], heard) as listener:
        assert await listener.wait_up(5)
        assert heard.reports == [None]
        took = []
        for command in (("SET", key, 1), ("EXPIRE", key, 100), ("DEL", key)):
            heard.reports.clear()
            started = time.monotonic()
            await foreign.execute(*command)
            await heard.until(lambda: key in heard)
            took.append(time.monotonic() - started)
        assert min(took) < 0.1


async def test_own_writes_are_heard_too(client: RedisClient, prefix: str) -> None:
    heard = Heard()
    async with listening(client, [prefix], heard) as listener:
        assert await listener.wait_up(5)
        await client.execute("SET", prefix + "own", 1)
        await heard.until(lambda: f"{prefix}own".encode() in heard)


async def test_expiry_is_heard(client: RedisClient, foreign: RedisClient, prefix: str) -> None:
    heard = Heard()
    key = f"{prefix}k".encode()
    async with listening(client, [prefix], heard) as listener:
        assert await listener.wait_up(5)
        await foreign.execute("SET", key, 1, "PX", 30)
        await heard.until(lambda: heard.reports.count(key) >= 2)


async def test_other_prefixes_are_not_heard(client: RedisClient, foreign: RedisClient, prefix: str) -> None:
    heard = Heard()
    async with listening(client, [prefix + "a:", prefix + "b:", prefix + "a:within:"], heard) as listener:
        assert await listener.wait_up(5)
        for name in ("c:1", "a:1", "a:within:2", "b:1", "a"):
            await foreign.execute("SET", prefix + name, 1)
        assert await listener.barrier(5)
    assert heard.reports[0] is None
    names = {key.decode().removeprefix(prefix) for key in heard.reports[1:] if key is not None}
    assert names == {"a:1", "a:within:2", "b:1"}


@pytest.mark.parametrize("command", ["FLUSHDB", "FLUSHALL"])
async def test_a_flush_means_everything(own_server: OwnServerFactory, command: str) -> None:
    heard = Heard()
    async with RedisClient(own_server().url) as client, listening(client, ["p:"], heard) as listener:
        assert await listener.wait_up(5)
        await client.execute("SET", "p:k", 1)
        await heard.until(lambda: b"p:k" in heard)
        heard.reports.clear()
        await client.execute(command)
        await heard.until(lambda: heard.reports == [None])


async def test_a_failing_callback_is_logged_once_and_ends_nothing(
    client: RedisClient, foreign: RedisClient, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()

    def failing(keys: Sequence[bytes] | None) -> None:
        heard(keys)
        raise ValueError("broken callback")

    async with listening(client, [prefix], failing) as listener:
        assert await listener.wait_up(5)
        for number in range(3):
            await foreign.execute("SET", f"{prefix}{number}", 1)
        assert await listener.barrier(5)
        assert len(heard.reports) == 4
    failures = [record for record in caplog.records if record.name == "aioinfra.connection"]
    assert len(failures) == 1
    assert failures[0].levelno == logging.ERROR


# Gaps


async def test_a_killed_connection_arms_again_and_reports_everything(
    client: RedisClient, foreign: RedisClient, prefix: str
) -> None:
    heard = Heard()
    key = f"{prefix}k".encode()
    async with listening(client, [prefix], heard) as listener:
        assert await listener.wait_up(5)
        for _ in range(3):
            victim = await tracking_id(client)
            heard.reports.clear()
            await foreign.execute("CLIENT", "KILL", "ID", victim)
            await heard.until(lambda: None in heard.reports)
            assert await listener.wait_up(1)
            await foreign.execute("SET", key, 1)
            await heard.until(lambda: key in heard)


async def tracking_id(client: RedisClient) -> int:
    """The id of the connection that tracks; there is one, since tests run one after the other."""
    listing = (await client.execute("CLIENT", "LIST")).decode()
    for line in listing.splitlines():
        fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
        if fields["sub"] == "1" and "B" in fields["flags"]:
            return int(fields["id"])
    raise AssertionError(listing)


async def test_nothing_confirms_while_the_connection_is_gone(own_server: OwnServerFactory) -> None:
    server = own_server()
    heard = Heard()
    async with RedisClient(server.url) as client, listening(client, ["p:"], heard) as listener:
        assert await listener.wait_up(5)
        before = listener.confirmed_at
        assert time.monotonic() - before < 1
        server.kill()
        await until_state(listener, TrackingState.DOWN)
        assert listener.confirmed_at < before
        assert not await listener.barrier(1)
        assert not await listener.wait_up(0.1)
        heard.reports.clear()
        server.start()
        assert await listener.wait_up(2)
        assert heard.reports == [None]


async def test_a_stopped_server_shows_as_stale_and_continues_without_a_gap(
    own_server: OwnServerFactory,
) -> None:
    server = own_server()
    heard = Heard()
    options = TrackingOptions(ping_interval=0.05, silence_limit=0.2, reconnect_after=30)
    async with RedisClient(server.url) as client, listening(client, ["p:"], heard, options) as listener:
        assert await listener.wait_up(5)
        await client.ping()
        server.stop_process()
        stopped = fair_time()
        await until_state(listener, TrackingState.STALE)
        assert fair_time() - stopped < 1.5
        assert time.monotonic() - listener.confirmed_at > 0.2
        assert not await listener.barrier(0.05)
        write = asyncio.create_task(client.execute("SET", "p:k", 1))
        await asyncio.sleep(0)
        server.continue_process()
        await write
        assert await listener.barrier(5)
        assert listener.state is TrackingState.UP
        assert heard.reports == [None, b"p:k"]


async def test_long_silence_ends_the_connection(own_server: OwnServerFactory) -> None:
    server = own_server()
    heard = Heard()
    client = RedisClient(server.url, PoolOptions(socket_timeout=0.2, connect_timeout=0.2))
    async with client, listening(client, ["p:"], heard) as listener:
        assert await listener.wait_up(5)
        server.stop_process()
        await until_state(listener, TrackingState.DOWN, TrackingState.ARMING)
        heard.reports.clear()
        server.continue_process()
        assert await listener.wait_up(5)
        assert heard.reports == [None]


async def test_an_answer_after_silence_can_be_distrusted(own_server: OwnServerFactory) -> None:
    server = own_server()
    heard = Heard()
    options = TrackingOptions(
        ping_interval=0.05, silence_limit=0.2, reconnect_after=30, rearm_after_silence=True
    )
    async with RedisClient(server.url) as client, listening(client, ["p:"], heard, options) as listener:
        assert await listener.wait_up(5)
        server.stop_process()
        await until_state(listener, TrackingState.STALE)
        heard.reports.clear()
        server.continue_process()
        await heard.until(lambda: heard.reports == [None])


async def test_an_absent_server_is_found_when_it_comes(own_server: OwnServerFactory) -> None:
    server = own_server(start=False)
    heard = Heard()
    async with RedisClient(server.url) as client, listening(client, ["p:"], heard) as listener:
        assert not await listener.wait_up(0.1)
        assert listener.state is TrackingState.DOWN
        server.start()
        assert await listener.wait_up(2)


# Refusal


@pytest.mark.parametrize("rights", ["-client|tracking", "resetchannels", "-ping"])
async def test_a_user_without_the_right_is_refused_and_let_in_later(
    own_server: OwnServerFactory, rights: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    heard = Heard()
    async with RedisClient(server.url) as admin:
        await admin.execute("ACL", "SETUSER", "app", "on", ">pw", "~*", "allchannels", "+@all", rights)
        client = RedisClient(server.url.replace("unix://", "unix://app:pw@"))
        async with client, listening(client, ["p:"], heard) as listener:
            await until_state(listener, TrackingState.REFUSED)
            assert not await listener.barrier(0.1)
            assert heard.reports == []
            await admin.execute("ACL", "SETUSER", "app", "allchannels", "+@all")
            assert await listener.wait_up(2)
    refusals = [
        record.getMessage() for record in caplog.records if "refuses client tracking" in record.getMessage()
    ]
    assert len(refusals) == 1
    assert "pw" not in refusals[0].replace("NOPERM", "")


# Barrier


async def test_after_a_barrier_every_acknowledged_write_was_heard(
    client: RedisClient, foreign: RedisClient, prefix: str
) -> None:
    heard = Heard()
    running = True

    async def noise() -> None:
        number = 0
        while running:
            number += 1
            await foreign.execute("SET", f"{prefix}noise{number % 50}", number)

    async with listening(client, [prefix], heard) as listener:
        assert await listener.wait_up(5)
        noises = [asyncio.create_task(noise()) for _ in range(3)]
        missing = 0
        for number in range(500):
            key = f"{prefix}{number}".encode()
            await foreign.execute("SET", key, number)
            assert await listener.barrier(5)
            missing += key not in heard
        running = False
        await asyncio.gather(*noises)
        assert missing == 0


async def test_concurrent_barriers_and_a_cancelled_one(client: RedisClient, prefix: str) -> None:
    async with listening(client, [prefix], Heard()) as listener:
        assert await listener.wait_up(5)
        tasks = [asyncio.create_task(listener.barrier(5)) for _ in range(100)]
        await asyncio.sleep(0)
        tasks[50].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert answers.count(True) == 99
        assert listener.state is TrackingState.UP


# Idle cost, bad input, lifecycle


async def test_an_idle_listener_costs_one_command_a_ping_interval(own_server: OwnServerFactory) -> None:
    async with RedisClient(own_server().url) as client:
        options = TrackingOptions(ping_interval=0.2, silence_limit=1, reconnect_after=2)
        async with listening(client, ["p:"], Heard(), options) as listener:
            assert await listener.wait_up(5)
            before = await processed(client)
            await asyncio.sleep(1.0)
            assert await processed(client) - before <= 7  # five PINGs and this INFO


async def processed(client: RedisClient) -> int:
    text = (await client.execute("INFO", "stats")).decode()
    return int(text.split("total_commands_processed:")[1].split()[0])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["a:"], [b"a:"]),
        (["a:", b"a:", "a:b"], [b"a:"]),
        (["b", "a", "ab", "c"], [b"a", b"b", b"c"]),
        (["", "a"], [b""]),
    ],
)
def test_prefixes_are_reduced_to_the_shortest(given: list[str | bytes], kept: list[bytes]) -> None:
    assert shortest_prefixes(given) == kept


@pytest.mark.parametrize("prefixes", [[], "p:", b"p:", [1], ["\ud800"]])
def test_bad_prefixes_are_refused(prefixes: Any) -> None:
    with pytest.raises(InvalidArgument, match="prefixes"):
        TrackingListener(RedisClient("redis://"), prefixes, Heard())


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("ping_interval", {"ping_interval": 0}),
        ("silence_limit", {"ping_interval": 1, "silence_limit": 1}),
        ("reconnect_after", {"silence_limit": 3, "reconnect_after": 2}),
        ("refused_retry", {"refused_retry": True}),
    ],
)
def test_bad_options_name_the_argument(argument: str, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=argument):
        TrackingOptions(**values)


async def test_it_runs_once_at_a_time(client: RedisClient, prefix: str) -> None:
    async with listening(client, [prefix], Heard()) as listener:
        assert await listener.wait_up(5)
        with pytest.raises(LifecycleError, match="running already"):
            await listener.run()
        assert listener.state is TrackingState.UP
