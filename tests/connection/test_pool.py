"""The client of one server: what calls return, what they raise, and what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import shutil
import subprocess
import threading
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import redis.exceptions

from aioinfra.connection.pool import PoolFigures, PoolOptions, RedisClient, Script, translate
from aioinfra.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LifecycleError,
    PoolExhausted,
    ReplyTooLarge,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    WrongEventLoop,
    WrongType,
)
from tests.conftest import OwnServerFactory, free_port
from tests.fair_time import fair_time

SECRET = "hunter2-planted"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    async with RedisClient(redis_url) as opened:
        yield opened


@pytest.fixture
async def other(redis_url: str) -> AsyncIterator[RedisClient]:
    """A second client of the same server."""
    async with RedisClient(redis_url) as opened:
        yield opened


async def raw_ping(client: RedisClient) -> None:
    assert await cast("Awaitable[bool]", client.raw.ping())


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """The block must end in ``seconds``."""
    started = fair_time()
    yield
    assert fair_time() - started < seconds


async def until(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - figures have no event
            await asyncio.sleep(0.001)


async def connection_id(client: RedisClient) -> int:
    return int(await client.execute("CLIENT", "ID"))


# What calls return


async def test_values_come_back_as_bytes(client: RedisClient, prefix: str) -> None:
    assert await client.execute("SET", prefix + "k", b"\x00\xff", "PX", 10_000) == b"OK"
    assert await client.execute("GET", prefix + "k") == b"\x00\xff"
    assert await client.execute("GET", prefix + "absent") is None
    assert await client.execute("INCRBYFLOAT", prefix + "f", 1.5) == b"1.5"
    assert await client.execute("MGET", prefix + "k", prefix + "absent") == [b"\x00\xff", None]


async def test_ping_answers_in_seconds(client: RedisClient) -> None:
    assert 0 < await client.ping() < 1


async def test_a_large_value_passes_both_ways(client: RedisClient, prefix: str) -> None:
    value = b"x" * 5_000_000
    await client.execute("SET", prefix + "large", value, "EX", 60)
    assert await client.execute("GET", prefix + "large") == value


async def test_a_pipeline_keeps_order_and_puts_errors_in_their_places(
    client: RedisClient, prefix: str
) -> None:
    replies = await client.pipeline(
        [
            ("SET", prefix + "k", "v"),
            ("LPUSH", prefix + "k", SECRET),
            ("GET", prefix + "k"),
            ("NOSUCHCOMMAND", SECRET),
            ("DEL", prefix + "k"),
        ]
    )
    assert replies[0] == b"OK"
    assert isinstance(replies[1], WrongType)
    assert replies[2] == b"v"
    assert isinstance(replies[3], StoreError)
    assert replies[4] == 1
    assert SECRET not in f"{replies}"
    assert await client.pipeline([]) == []


async def test_a_pipeline_is_one_round_trip_on_one_connection(client: RedisClient) -> None:
    replies = await client.pipeline([("CLIENT", "ID")] * 5_000)
    assert len(replies) == 5_000
    assert len(set(replies)) == 1
    assert client.figures().size == 1


async def test_many_callers_get_their_own_answers(redis_url: str, prefix: str) -> None:
    async with RedisClient(redis_url, PoolOptions(max_connections=7)) as client:

        async def one(number: int) -> None:
            text = str(number).encode()
            if number % 3:
                assert await client.execute("ECHO", text) == text
            else:
                assert await client.pipeline([("ECHO", text), ("ECHO", "x")]) == [text, b"x"]

        await asyncio.gather(*[one(number) for number in range(2_000)])
        assert client.figures() == PoolFigures(size=7, in_use=0, idle=7, max_connections=7)


async def test_a_script_is_sent_once_and_again_after_a_flush(own_server: OwnServerFactory) -> None:
    script = Script("sum", "return {KEYS[1], tonumber(ARGV[1]) + tonumber(ARGV[2])}")
    async with RedisClient(own_server().url) as client:
        for _ in range(2):
            assert await client.run_script(script, ["k"], [2, 3]) == [b"k", 5]
            assert await client.run_script(script, ["k"], [2, 3], deadline=1.0) == [b"k", 5]
            await client.execute("SCRIPT", "FLUSH")


async def test_an_error_code_of_a_script_reaches_the_caller(client: RedisClient, prefix: str) -> None:
    script = Script("refuse", "return redis.error_reply('STALE ' .. ARGV[1])")
    with pytest.raises(StoreError, match="STALE") as caught:
        await client.run_script(script, [prefix], [SECRET])
    assert SECRET not in str(caught.value)


# Bad input


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("",)[:0],
        (None,),
        ("SET", "k", None),
        ("SET", "k", True),
        ("SET", "k", "\ud800"),
        ("SET", "k", [1]),
        (5, "k"),
        ("MULTI",),
        (b"subscribe", "c"),
        ("client", "Tracking", "on"),
        ("SELECT", 1),
    ],
)
async def test_bad_commands_are_refused_before_any_connection(command: tuple[Any, ...]) -> None:
    async with RedisClient("unix:///nowhere/at/all") as client:
        with pytest.raises(InvalidArgument, match="command"):
            await client.execute(*command)
        with pytest.raises(InvalidArgument, match="command"):
            await client.pipeline([("GET", "k"), command])
        assert client.figures().size == 0


@pytest.mark.parametrize("deadline", [True, float("nan"), "1"])
async def test_bad_deadlines_are_refused(deadline: Any) -> None:
    async with RedisClient("unix:///nowhere/at/all") as client:
        with pytest.raises(InvalidArgument, match="deadline"):
            await client.execute("PING", deadline=deadline)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://localhost",
        f"redis://:{SECRET}@host:99999",
        f"redis://:{SECRET}@host/notanumber",
        f"redis://host?passwort={SECRET}",
        "redis://host?db=-1",
        "unix://",
        "rediss://host?ssl_cert_reqs=maybe",
        "rediss://host?ssl_cert_reqs=none&ssl_check_hostname=true",
        "redis://host?ssl_cert_reqs=none",
        None,
    ],
)
def test_bad_urls_are_refused_without_repeating_them(url: Any) -> None:
    with pytest.raises(InvalidArgument, match="url") as caught:
        RedisClient(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_connections", 0),
        ("max_connections", True),
        ("max_connections", 1.5),
        ("max_reply_bytes", 0),
        ("socket_timeout", 0),
        ("connect_timeout", float("inf")),
        ("acquire_timeout", "1"),
    ],
)
def test_bad_options_name_the_argument(argument: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=argument):
        PoolOptions(**{argument: value})


@pytest.mark.parametrize(
    ("url", "location"),
    [
        (f"redis://user:{SECRET}@example.org:7000/3", "redis://example.org:7000/3"),
        (f"rediss://:{SECRET}@[::1]", "rediss://[::1]:6379/0"),
        (f"unix://:{SECRET}@/run/r.sock?db=2", "unix:///run/r.sock?db=2"),
        (f"unix:///run/r.sock?password={SECRET}", "unix:///run/r.sock?db=0"),
    ],
)
def test_the_location_has_no_credentials(url: str, location: str) -> None:
    client = RedisClient(url)
    assert client.location == location
    assert SECRET not in repr(client)


# Loop and lifecycle


def test_a_second_event_loop_is_refused(valkey_url: str) -> None:
    client = RedisClient(valkey_url)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(client.ping())
        first.run(raw_ping(client))
        with pytest.raises(WrongEventLoop, match="another event loop"):
            second.run(client.ping())
        with pytest.raises(WrongEventLoop):
            second.run(raw_ping(client))
        with pytest.raises(WrongEventLoop):
            second.run(client.aclose())
        first.run(client.aclose())


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the connections that the stray use left
def test_a_stray_first_use_on_a_loop_that_is_gone_spoils_nothing(valkey_url: str) -> None:
    client = RedisClient(valkey_url)
    for _ in range(2):
        with asyncio.Runner() as runner:
            assert runner.run(client.ping()) > 0
            runner.run(raw_ping(client))
    with asyncio.Runner() as runner:
        assert runner.run(client.ping()) > 0
        runner.run(client.aclose())
    del client
    gc.collect()


async def test_a_closed_client_refuses(valkey_url: str) -> None:
    client = RedisClient(valkey_url)
    await raw_ping(client)
    await client.aclose()
    await client.aclose()
    for call in (client.ping, lambda: raw_ping(client), lambda: client.pipeline([("PING",)])):
        with pytest.raises(LifecycleError, match="closed"):
            await call()


async def test_closing_waits_for_calls_under_way_and_leaves_no_connection(
    client: RedisClient, redis_url: str, prefix: str
) -> None:
    closing = RedisClient(redis_url, PoolOptions(max_connections=2))
    name = prefix.rstrip(":")
    await asyncio.gather(*[closing.execute("CLIENT", "SETNAME", name) for _ in range(2)])
    waiting = [asyncio.create_task(closing.execute("BLPOP", f"{prefix}{n}", 2)) for n in range(3)]
    await until(lambda: closing.figures().in_use == 2)
    closed = asyncio.create_task(closing.aclose())
    for number in range(3):
        await client.execute("RPUSH", f"{prefix}{number}", "v")
    assert [(await call)[1] for call in waiting] == [b"v"] * 3
    await closed
    assert closing.figures().size == 0
    assert name.encode() not in await client.execute("CLIENT", "LIST")


async def test_closing_is_bounded_when_the_server_hangs(own_server: OwnServerFactory) -> None:
    server = own_server()
    client = RedisClient(server.url, PoolOptions(socket_timeout=0.3))
    await client.ping()
    server.stop_process()
    calls = [asyncio.create_task(client.ping()) for _ in range(3)]
    await asyncio.sleep(0)
    async with within(1.0):
        await client.aclose()
    assert all(
        isinstance(answer, StoreUnavailable)
        for answer in await asyncio.gather(*calls, return_exceptions=True)
    )
    assert client.figures().size == 0


# Detached calls


async def test_a_cancelled_caller_leaves_the_connection_in_step(
    client: RedisClient, other: RedisClient, prefix: str
) -> None:
    before = await connection_id(client)
    for _ in range(20):
        blocked = asyncio.create_task(client.execute("BLPOP", prefix + "q", 1))
        await asyncio.sleep(0)
        blocked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocked
        assert client.figures().in_use == 1
        await other.execute("RPUSH", prefix + "q", "late")
        await until(lambda: client.figures().in_use == 0)
        assert await connection_id(client) == before


async def test_a_deadline_frees_the_caller_and_not_the_connection(
    client: RedisClient, other: RedisClient, prefix: str
) -> None:
    before = await connection_id(client)
    async with within(0.3):
        with pytest.raises(DeadlineExceeded) as caught:
            await client.execute("BLPOP", prefix + "q", 1, deadline=0.05)
    assert caught.value.sent
    assert client.figures().in_use == 1
    await other.execute("RPUSH", prefix + "q", "late")
    await until(lambda: client.figures().in_use == 0)
    assert await connection_id(client) == before


async def test_a_spent_deadline_sends_nothing(client: RedisClient, prefix: str) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await client.execute("SET", prefix + "k", 1, deadline=-0.1)
    assert not caught.value.sent
    assert await client.execute("EXISTS", prefix + "k") == 0


async def test_a_call_that_waits_for_a_connection_is_withdrawn(
    redis_url: str, other: RedisClient, prefix: str
) -> None:
    async with RedisClient(redis_url, PoolOptions(max_connections=1)) as client:
        holder = asyncio.create_task(client.execute("BLPOP", prefix + "q", 2))
        await until(lambda: client.figures().in_use == 1 and client.figures().size == 1)
        late = asyncio.create_task(client.execute("SET", prefix + "cancelled", 1))
        with pytest.raises(DeadlineExceeded) as caught:
            await client.execute("SET", prefix + "expired", 1, deadline=0.05)
        assert not caught.value.sent
        late.cancel()
        await other.execute("RPUSH", prefix + "q", "v")
        await holder
        assert await client.execute("EXISTS", prefix + "expired", prefix + "cancelled") == 0


async def test_a_longer_reply_timeout_lets_a_command_block(redis_url: str, prefix: str) -> None:
    async with RedisClient(redis_url, PoolOptions(socket_timeout=0.1)) as client:
        assert await client.execute("BLPOP", prefix + "q", 0.2, reply_timeout=2.0) is None
        with pytest.raises(DeadlineExceeded):
            await client.execute("BLPOP", prefix + "q", 1)


async def test_the_timeout_counts_for_each_reply_of_a_pipeline(redis_url: str, prefix: str) -> None:
    async with RedisClient(redis_url, PoolOptions(socket_timeout=0.6)) as client:
        assert await client.pipeline([("BLPOP", prefix + "q", 0.3)] * 3) == [None] * 3
        with pytest.raises(DeadlineExceeded):
            await client.pipeline([("PING",), ("BLPOP", prefix + "q", 1)])


class CancelAtSuspension:
    """Awaits a coroutine and cancels it the way a Task does when it suspends for the ``n``-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], n: int) -> None:
        self._coroutine, self._n = coroutine, n
        self.reached = False

    @types.coroutine
    def run(self) -> Generator[Any, Any, Any]:
        suspension = 0
        try:
            waiting = self._coroutine.send(None)
            while True:
                suspension += 1
                if suspension == self._n:
                    self.reached = True
                    waiting.cancel()
                    waiting = self._coroutine.throw(asyncio.CancelledError())
                    continue
                try:
                    yield waiting
                except BaseException as error:
                    waiting = self._coroutine.throw(error)
                else:
                    waiting = self._coroutine.send(None)
        except StopIteration as stop:
            return stop.value


OPERATIONS: dict[str, Callable[[RedisClient, str], Coroutine[Any, Any, Any]]] = {
    "execute": lambda client, key: client.execute("INCR", key),
    "deadline": lambda client, key: client.execute("INCR", key, deadline=1.0),
    "pipeline": lambda client, key: client.pipeline([("INCR", key)] * 3),
    "script": lambda client, key: client.run_script(Script("i", f"--{key}\nreturn 1"), [key], []),
    "ping": lambda client, key: client.ping(),
}


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancel_at_every_suspension(valkey_url: str, prefix: str, name: str, warm: bool) -> None:
    n, reached = 0, True
    while reached:
        n += 1
        assert n < 100
        async with RedisClient(valkey_url, PoolOptions(max_connections=2)) as client:
            if warm:
                await client.ping()
            victim = CancelAtSuspension(OPERATIONS[name](client, f"{prefix}{n}"), n)
            try:
                await victim.run()
            except asyncio.CancelledError:
                assert victim.reached
            reached = victim.reached
            await answers_right(client)
    assert n > 1  # something was cancelled


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancel_after_any_number_of_loop_ticks(valkey_url: str, prefix: str, name: str) -> None:
    """Finds the moments between a reply's arrival and its caller's wake-up."""
    async with RedisClient(valkey_url, PoolOptions(max_connections=3)) as client:
        for ticks in range(60):
            task = asyncio.create_task(OPERATIONS[name](client, f"{prefix}{ticks}"))
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await answers_right(client)


async def answers_right(client: RedisClient) -> None:
    """Every connection of the pool is in step, and none is lost."""
    limit = client.figures().max_connections
    texts = [f"echo-{number}".encode() for number in range(limit * 3)]
    assert await asyncio.gather(*[client.execute("ECHO", text) for text in texts]) == texts
    await until(lambda: client.figures().in_use == 0)
    assert client.figures().idle <= limit


# Faults


async def test_nobody_listens(tmp_path: Path) -> None:
    for url in (f"unix://{tmp_path}/none", "redis://127.0.0.1:1"):
        async with RedisClient(url) as client, within(1.0):
            with pytest.raises(StoreUnavailable) as caught:
                await client.execute("SET", "k", SECRET)
            assert not caught.value.sent
            assert SECRET not in str(caught.value)


async def test_a_killed_connection_ends_its_call_alone(client: RedisClient, prefix: str) -> None:
    victim = await connection_id(client)
    call = asyncio.create_task(client.execute("BLPOP", prefix + "q", 1))
    await asyncio.sleep(0)
    await client.execute("CLIENT", "KILL", "ID", victim)
    with pytest.raises(StoreUnavailable) as caught:
        await call
    assert caught.value.sent
    assert await client.execute("ECHO", "x") == b"x"


async def test_after_a_restart_the_first_call_works(own_server: OwnServerFactory) -> None:
    server = own_server()
    async with RedisClient(server.url) as client:
        await asyncio.gather(*[client.ping() for _ in range(20)])
        server.restart()
        await until(lambda: client.figures().size == 0)
        assert client.figures() == PoolFigures(0, 0, 0, 50)
        assert await client.execute("ECHO", "x") == b"x"


async def test_who_waits_for_a_killed_connection_gets_a_new_one(
    redis_url: str, other: RedisClient, prefix: str
) -> None:
    async with RedisClient(redis_url, PoolOptions(max_connections=1)) as client:
        victim = await connection_id(client)
        holder = asyncio.create_task(client.execute("BLPOP", prefix + "q", 1))
        waiter = asyncio.create_task(client.execute("ECHO", "x"))
        await until(lambda: client.figures().in_use == 1)
        await other.execute("CLIENT", "KILL", "ID", victim)
        assert await waiter == b"x"
        with pytest.raises(StoreUnavailable):
            await holder


@pytest.mark.parametrize("greeting", ["", "?client_name=greeted"], ids=["silent", "greeting"])
async def test_a_hung_server_costs_every_caller_one_timeout(
    own_server: OwnServerFactory, greeting: str
) -> None:
    server = own_server(tcp=True)
    options = PoolOptions(max_connections=10, socket_timeout=0.4, connect_timeout=0.4, acquire_timeout=0.4)
    async with RedisClient(server.url + greeting, options) as client:
        server.stop_process()
        async with within(0.9):
            answers = await asyncio.gather(*[client.ping() for _ in range(100)], return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        server.continue_process()
        await until(lambda: client.figures().in_use == 0)
        assert await client.execute("ECHO", "x") == b"x"


async def test_no_free_connection_is_a_bounded_wait(redis_url: str, other: RedisClient, prefix: str) -> None:
    options = PoolOptions(max_connections=2, acquire_timeout=0.1)
    async with RedisClient(redis_url, options) as client:
        holders = [asyncio.create_task(client.execute("BLPOP", f"{prefix}{n}", 2)) for n in range(2)]
        await until(lambda: client.figures() == PoolFigures(2, 2, 0, 2))
        async with within(0.5):
            answers = await asyncio.gather(*[client.ping() for _ in range(20)], return_exceptions=True)
        assert all(isinstance(answer, PoolExhausted) and not answer.sent for answer in answers)
        await other.execute("RPUSH", f"{prefix}0", "v")
        await holders[0]
        assert await client.execute("ECHO", "x") == b"x"
        await other.execute("RPUSH", f"{prefix}1", "v")
        await holders[1]


@asynccontextmanager
async def peer(path: str, answer: bytes) -> AsyncIterator[RedisClient]:
    """A client of a server that answers everything with the same bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(serve, path), RedisClient(f"unix://{path}") as client:
        yield client


async def test_a_peer_that_speaks_something_else(tmp_path: Path) -> None:
    async with peer(f"{tmp_path}/s", b"HTTP/1.1 400 Bad Request\r\n\r\n") as client:
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="does not speak"):
                await client.ping()
            await until(lambda: client.figures().size == 0)


async def test_a_connection_with_a_reply_too_many_is_not_used_again(tmp_path: Path) -> None:
    async with peer(f"{tmp_path}/s", b"+OK\r\n+OK\r\n") as client:
        assert await client.execute("PING") == b"OK"
        await until(lambda: client.figures().size == 0)


@pytest.mark.parametrize("query", ["", "?client_name=greeted"], ids=["silent", "greeting"])
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "unix"])
async def test_a_server_at_its_limit_of_clients_serves_all_calls_on_the_connections_that_live(
    own_server: OwnServerFactory, *, query: str, tcp: bool
) -> None:
    server = own_server("--maxclients", "6", tcp=tcp)
    url = server.url + (query.replace("?", "&") if query and not tcp else query)
    async with RedisClient(url, PoolOptions(acquire_timeout=5)) as client:
        await client.ping()
        began = time.monotonic()
        answers = await asyncio.gather(*[client.execute("INCR", "n") for _ in range(500)])
        assert sorted(answers) == list(range(1, 501))  # each ran, and none twice
        slow = await asyncio.gather(*[client.execute("BLPOP", "nothing", 0.01) for _ in range(30)])
        assert slow == [None] * 30
        refused = int((await client.execute("INFO", "stats")).split(b"rejected_connections:")[1].split()[0])
        assert refused < 200 * max(1.0, time.monotonic() - began)  # no storm of attempts


async def test_the_pool_grows_again_once_the_server_takes_clients(own_server: OwnServerFactory) -> None:
    server = own_server("--maxclients", "3")
    async with RedisClient(server.url, PoolOptions(max_connections=10, acquire_timeout=5)) as client:
        await client.ping()
        await asyncio.gather(*[client.execute("BLPOP", "nothing", 0.01) for _ in range(10)])
        assert client.figures().size <= 3
        await client.execute("CONFIG", "SET", "maxclients", 100)
        await asyncio.gather(*[client.execute("BLPOP", "nothing", 0.1) for _ in range(60)])
        assert client.figures().size == 10


async def test_a_server_without_room_for_a_single_client_is_an_error_for_each_call(tmp_path: Path) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR max number of clients reached\r\n")
        writer.close()

    listening = await asyncio.start_unix_server(refuse, tmp_path / "s")
    async with listening, RedisClient(f"unix://{tmp_path}/s") as client, within(2):
        answers = await asyncio.gather(*[client.ping() for _ in range(200)], return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) and not answer.sent for answer in answers)


# Size


async def test_a_reply_beyond_its_bound_is_a_typed_error_and_ends_its_connection_alone(
    redis_url: str, prefix: str
) -> None:
    async with RedisClient(redis_url, PoolOptions(max_reply_bytes=1 << 20)) as client:
        await client.execute("SET", prefix + "large", b"x" * (2 << 20))
        await client.execute("SET", prefix + "fits", b"x" * (1 << 19))
        for _ in range(2):
            with pytest.raises(ReplyTooLarge, match="1048576"):
                await client.execute("GET", prefix + "large")
        with pytest.raises(ReplyTooLarge):
            await client.pipeline([("GET", prefix + "fits")] * 3)
        assert len(await client.execute("GET", prefix + "fits")) == 1 << 19
        await until(lambda: client.figures().in_use == 0)


async def test_a_large_reply_that_keeps_coming_outlives_the_timeout(tmp_path: Path) -> None:
    """16 MB in 0.8 s, with a timeout of 0.3 s: late is what stands still, not what is large."""
    piece = b"x" * (1 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(b"$%d\r\n" % (16 * len(piece)))
            for _ in range(16):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.05)
            writer.write(b"\r\n")
        writer.close()

    listening = await asyncio.start_unix_server(serve, tmp_path / "s")
    options = PoolOptions(socket_timeout=0.3)
    async with listening, RedisClient(f"unix://{tmp_path}/s", options) as client:
        assert len(await client.execute("GET", "k")) == 16 * len(piece)


async def test_a_large_call_to_a_server_that_reads_nothing_ends_in_time(own_server: OwnServerFactory) -> None:
    server = own_server()
    async with RedisClient(server.url, PoolOptions(socket_timeout=0.3)) as client:
        await client.ping()
        server.stop_process()
        async with within(4.0):  # at 4 MiB/s the whole would be allowed 8
            with pytest.raises(DeadlineExceeded):
                await client.execute("SET", "k", b"x" * (32 << 20))
        server.continue_process()


# Credentials


async def test_credentials_reach_every_kind_of_connection(own_server: OwnServerFactory) -> None:
    server = own_server("--requirepass", SECRET)
    url = server.url.replace("unix://", f"unix://:{SECRET}@").replace("db=0", "db=3")
    async with RedisClient(url) as client:
        await client.execute("SET", "k", "in-db-3")
        assert await client.raw.get("k") == b"in-db-3"
        own = client.new_connection()
        await own.connect()  # type: ignore[no-untyped-call] # redis-py has no hint here
        await own.send_command("GET", "k")
        assert await own.read_response() == b"in-db-3"
        await own.disconnect()
        assert await asyncio.to_thread(read_in_a_thread, client) == b"in-db-3"


def read_in_a_thread(client: RedisClient) -> Any:
    assert threading.current_thread() is not threading.main_thread()
    with client.blocking_connection() as connection:
        return connection.get("k")


async def test_refused_credentials_name_no_secret(own_server: OwnServerFactory) -> None:
    server = own_server("--requirepass", SECRET)
    async with RedisClient(server.url.replace("unix://", "unix://:wrong@")) as client:
        with pytest.raises(StoreDenied, match="WRONGPASS") as caught:
            await client.ping()
        with pytest.raises(redis.exceptions.RedisError) as theirs:
            await raw_ping(client)
    assert isinstance(translate(theirs.value), StoreDenied)
    assert "wrong@" not in repr(caught.value)
    async with RedisClient(server.url) as client:
        with pytest.raises(StoreDenied, match="NOAUTH"):
            await client.execute("GET", "k")


async def test_figures_count_the_raw_client_too(client: RedisClient) -> None:
    assert client.figures() == PoolFigures(0, 0, 0, 50)
    await client.ping()
    assert client.figures() == PoolFigures(1, 0, 1, 50)
    await raw_ping(client)
    assert client.figures() == PoolFigures(2, 0, 2, 100)


def uvloop_runner() -> asyncio.Runner:
    uvloop = pytest.importorskip("uvloop")
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def test_it_runs_on_uvloop(valkey_url: str, prefix: str) -> None:
    async def scenario() -> None:
        async with RedisClient(valkey_url, PoolOptions(max_connections=3)) as client:
            await answers_right(client)
            with pytest.raises(DeadlineExceeded):
                await client.execute("BLPOP", prefix + "q", 0.2, deadline=0.05)
            await answers_right(client)

    with uvloop_runner() as runner:
        runner.run(scenario())


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a self-signed certificate for `localhost`: cert.pem, key.pem."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH")
    directory = tmp_path_factory.mktemp("tls")
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem"))
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *subject],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return directory


async def test_tls_verifies_the_host_name(own_server: OwnServerFactory, certificate: Path) -> None:
    port, own = free_port(), certificate / "cert.pem"
    files = ("--tls-cert-file", str(own), "--tls-key-file", str(certificate / "key.pem"))
    own_server("--tls-port", str(port), *files, "--tls-auth-clients", "no", kind="redis")
    trusted = f"ssl_ca_certs={own}"
    async with RedisClient(f"rediss://localhost:{port}/2?{trusted}") as client:
        await client.execute("SET", "k", "v" * 500_000)
        assert len(await client.execute("GET", "k")) == 500_000
        assert await client.raw.get("k") is not None
        assert client.location == f"rediss://localhost:{port}/2"
    for url, reason in (
        (f"rediss://127.0.0.1:{port}/0?{trusted}", "certificate refused: .*IP address mismatch"),
        (f"rediss://localhost:{port}/0", "certificate refused"),
        (f"redis://localhost:{port}/0", "lost|closed"),
    ):
        async with RedisClient(url) as client:
            with pytest.raises(StoreUnavailable, match=reason):
                await client.ping()
    patient = PoolOptions(connect_timeout=10)  # a handshake costs a busy machine its time
    async with RedisClient(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none", patient) as client:
        assert await client.ping() > 0
