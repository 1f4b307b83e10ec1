"""The fake server: what clients get to hear, alone and in front of a real one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psutil
import pytest
import redis.asyncio

from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.connection.tracking import TrackingListener
from aioinfra.connection.translate import ReplyError
from aioinfra.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LifecycleError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    WrongType,
)
from aioinfra.testing import (
    BUSY,
    CLUSTERDOWN,
    JUNK,
    LOADING,
    MASTERDOWN,
    MAX_CLIENTS,
    MISCONF,
    NOAUTH,
    NOPERM,
    NOREPLICAS,
    NOSCRIPT,
    OOM,
    READONLY,
    TRYAGAIN,
    WRONGPASS,
    WRONGTYPE,
    Answer,
    Delayed,
    ErrorReply,
    FakeRedis,
    LostReply,
    OversizeBulk,
    Raw,
    Silence,
    ThenClose,
    Truncated,
    Value,
)
from aioinfra.testing.frames import FrameCutter, NotRespError
from tests.conftest import OwnServerFactory

SHORT = PoolOptions(max_connections=4, socket_timeout=0.3)


@pytest.fixture
async def alone() -> AsyncIterator[FakeRedis]:
    async with FakeRedis() as fake:
        yield fake


@pytest.fixture
async def front(redis_url: str) -> AsyncIterator[FakeRedis]:
    """In front of both servers in turn."""
    async with FakeRedis(redis_url) as fake:
        yield fake


@asynccontextmanager
async def plain(fake: FakeRedis) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(fake.host, fake.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


# Cutting frames

FRAMES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":7\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$4\r\na\r\nb\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n*2\r\n:1\r\n$1\r\nx\r\n*0\r\n",
    b"%1\r\n+a\r\n*1\r\n:2\r\n",
    b"|1\r\n+ttl\r\n:3\r\n$1\r\nv\r\n",
    b">2\r\n+push\r\n:1\r\n",
    b"PING\r\n",
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_stream_is_cut_into_the_same_frames_however_it_comes(step: int) -> None:
    stream, cutter = b"".join(FRAMES), FrameCutter()
    found = [frame for at in range(0, len(stream), step) for frame in cutter.feed(stream[at : at + step])]
    assert found == FRAMES


@pytest.mark.parametrize(
    "junk", [b"$x\r\n", b"$-2\r\n", b"*9999999999\r\n", b"*1\r\n$99999999999\r\n", b"x" * (1 << 21)]
)
def test_what_could_never_end_is_refused(junk: bytes) -> None:
    with pytest.raises(NotRespError):
        FrameCutter().feed(junk)


# Alone


async def test_clients_can_greet_a_server_that_has_no_data(alone: FakeRedis) -> None:
    async with RedisClient(f"redis://ada:pw@{alone.host}:{alone.port}/3") as client:
        assert 0 < await client.ping() < 1
        assert b"maxmemory_policy:noeviction" in await client.execute("INFO", "memory")
        assert await client.execute("ECHO", "x") == b"x"
        with pytest.raises(ReplyError):
            await client.execute("GET", "k")
    assert alone.count("AUTH") == 1
    assert (b"SELECT", b"3") in alone.commands
    theirs = redis.asyncio.Redis.from_url(alone.url)
    assert await theirs.ping()
    await theirs.aclose()


async def test_resp3_is_refused_and_typed_commands_are_understood(alone: FakeRedis) -> None:
    async with plain(alone) as (reader, writer):
        writer.write(b"HELLO 3\r\n")
        assert (await reader.readline()).startswith(b"-NOPROTO")
        writer.write(b"\r\nPING\r\n")
        assert await reader.readline() == b"+PONG\r\n"
        writer.write(b"*x\r\n")
        assert (await reader.read()).startswith(b"-ERR Protocol error")


ERRORS: list[tuple[ErrorReply, type[StoreError]]] = [
    *((each, StoreUnavailable) for each in (LOADING, READONLY, NOREPLICAS, MISCONF, BUSY, TRYAGAIN)),
    *((each, StoreUnavailable) for each in (CLUSTERDOWN, MASTERDOWN, MAX_CLIENTS)),
    *((each, StoreDenied) for each in (NOAUTH, NOPERM, WRONGPASS)),
    (OOM, StoreFull),
    (WRONGTYPE, WrongType),
    (NOSCRIPT, ReplyError),
]


@pytest.mark.parametrize(("answer", "kind"), ERRORS, ids=lambda each: getattr(each, "code", ""))
async def test_each_error_reaches_the_client_as_its_own(
    alone: FakeRedis, answer: ErrorReply, kind: type[StoreError]
) -> None:
    async with RedisClient(alone.url) as client:
        with alone.answer("GET", answer):
            for _ in range(2):
                with pytest.raises(kind, match=answer.code):
                    await client.execute("GET", "k")
    if answer is not MAX_CLIENTS:  # with it, a real server closes the connection, and so may the client
        assert alone.connections == 1  # an error is a reply: the connection stays


async def test_the_texts_are_those_of_a_real_server(own_server: OwnServerFactory) -> None:
    server = own_server("--maxmemory", "1", kind="redis")
    asked = [
        (b"SET k v\r\n", OOM),
        (b"EVALSHA " + b"0" * 40 + b" 0\r\n", NOSCRIPT),
        (b"AUTH ada pw\r\n", WRONGPASS),
    ]
    reader, writer = await asyncio.open_unix_connection(server.socket_path)
    for command, answer in asked:
        writer.write(command)
        assert (await reader.readline()).decode().strip() == f"-{answer.text}"
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("value", "reply"),
    [(None, None), (7, 7), (b"\xff", b"\xff"), ("é", "é".encode()), ([1, [b"a", None]], [1, [b"a", None]])],
)
async def test_values_are_answered(alone: FakeRedis, value: Any, reply: Any) -> None:
    alone.answer("GET", Value(value))
    async with RedisClient(alone.url) as client:
        assert await client.execute("GET", "k") == reply


# Rules


async def test_a_rule_may_count_skip_and_end(alone: FakeRedis) -> None:
    alone.answer("GET", Value("usual"))
    async with RedisClient(alone.url) as client:

        async def got() -> bytes:
            answer: bytes = await client.execute("GET", "k")
            return answer

        third = alone.answer("get", Value("third"), skip=2, times=1)
        assert [await got() for _ in range(4)] == [b"usual", b"usual", b"third", b"usual"]
        assert third.used == 1
        with alone.answer(lambda command: command[1:] == (b"k",), Value("newest")):
            assert await got() == b"newest"
        assert await got() == b"usual"
        alone.remove_rules()
        with pytest.raises(ReplyError):
            await got()
    assert alone.count("GET") == 7


async def test_a_rule_may_name_two_words(alone: FakeRedis) -> None:
    async with RedisClient(alone.url) as client:
        alone.answer("CLIENT ID", Value(42))
        assert await client.execute("client", "id") == 42
        assert await client.execute("CLIENT", "SETNAME", "x") == b"OK"


async def test_the_record_is_bounded() -> None:
    async with FakeRedis(remember=3) as fake, RedisClient(fake.url) as client:
        for number in range(5):
            await client.execute("ECHO", number)
        assert [command[1] for command in fake.commands] == [b"2", b"3", b"4"]


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        (("", LOADING), "match"),
        ((7, LOADING), "match"),
        (("GET", "LOADING"), "answer"),
        (("GET", LOADING, 0), "times"),
        (("GET", LOADING, True), "times"),
    ],
)
def test_impossible_rules_are_refused(arguments: tuple[Any, ...], argument: str) -> None:
    match, answer, *times = arguments
    with pytest.raises(InvalidArgument) as caught:
        FakeRedis().answer(match, answer, times=times[0] if times else None)
    assert caught.value.argument == argument


@pytest.mark.parametrize("upstream", ["rediss://localhost:1", "tcp://localhost:1", "nonsense"])
def test_an_upstream_that_cannot_be_read_is_refused(upstream: str) -> None:
    with pytest.raises(InvalidArgument, match="upstream"):
        FakeRedis(upstream)


async def test_a_server_is_opened_once(alone: FakeRedis) -> None:
    with pytest.raises(LifecycleError):
        await alone.__aenter__()


# Answers that break the connection


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (JUNK, StoreUnavailable),
        (Raw(b"$abc\r\n"), StoreUnavailable),
        (Truncated(b"$100\r\nhalf", keep=10), StoreUnavailable),
        (Truncated(b"$100\r\nhalf", keep=10, hang=True), DeadlineExceeded),
        (OversizeBulk(), StoreError),
        (Silence(), DeadlineExceeded),
        (Delayed(5, LOADING), DeadlineExceeded),
    ],
    ids=["junk", "bad-length", "half-close", "half-hang", "oversize", "silence", "late"],
)
async def test_a_broken_reply_costs_one_call_and_its_connection(
    alone: FakeRedis, answer: Answer, kind: type[StoreError]
) -> None:
    async with RedisClient(alone.url, SHORT) as client:
        alone.answer("GET", answer, times=1)
        with pytest.raises(kind):
            await client.execute("GET", "k")
        alone.answer("GET", Value("whole"))
        assert await client.execute("GET", "k") == b"whole"
        assert client.figures().in_use == 0


async def test_a_late_answer_is_late_and_keeps_the_order(alone: FakeRedis) -> None:
    alone.answer("GET", Delayed(0.1, Value("late")))
    async with RedisClient(alone.url) as client:
        before = asyncio.get_running_loop().time()
        assert await client.pipeline([("GET", "k"), ("ECHO", "x")]) == [b"late", b"x"]
        assert 0.1 <= asyncio.get_running_loop().time() - before < 0.3


async def test_a_server_that_is_full_says_so_to_newcomers(alone: FakeRedis) -> None:
    async with RedisClient(alone.url) as client:
        alone.on_connect(ThenClose(MAX_CLIENTS), times=1)
        with pytest.raises(StoreUnavailable):
            await client.ping()
        await client.ping()
    assert alone.connections == 2


async def test_after_a_silence_later_commands_are_not_run(front: FakeRedis, prefix: str) -> None:
    async with plain(front) as (reader, writer):
        front.answer("PING", Silence(), times=1)
        writer.write(f"PING\r\nSET {prefix}k v\r\n".encode())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
    async with RedisClient(front.url) as client:
        assert await client.execute("EXISTS", prefix + "k") == 0


# In front of a real server


async def test_what_no_rule_names_passes_unchanged(front: FakeRedis, prefix: str) -> None:
    async with RedisClient(front.url, PoolOptions(acquire_timeout=10)) as client:
        large = bytes(range(256)) * 4_000
        assert await client.execute("SET", prefix + "k", large, "PX", 60_000) == b"OK"
        assert await client.execute("GET", prefix + "k") == large
        assert await client.pipeline([("ECHO", str(n)) for n in range(5_000)]) == [
            str(n).encode() for n in range(5_000)
        ]
        await asyncio.gather(*[client.execute("INCR", prefix + "n") for _ in range(500)])
        assert await client.execute("GET", prefix + "n") == b"500"


async def test_one_command_of_a_pipeline_fails_and_the_others_do_not(front: FakeRedis, prefix: str) -> None:
    async with RedisClient(front.url) as client:
        front.answer("SET", OOM, times=1, skip=1)
        replies = await client.pipeline([("SET", prefix + str(n), n) for n in range(3)])
        assert replies[0] == replies[2] == b"OK"
        assert isinstance(replies[1], StoreFull)
        assert await client.execute("MGET", *(prefix + str(n) for n in range(3))) == [b"0", None, b"2"]


@pytest.mark.parametrize("answer", [LostReply(), LostReply(reset=True), Truncated(keep=2)])
async def test_a_command_may_be_run_and_its_reply_lost(front: FakeRedis, prefix: str, answer: Answer) -> None:
    async with RedisClient(front.url) as client:
        front.answer("INCR", answer, times=1)
        with pytest.raises(StoreUnavailable) as caught:
            await client.execute("INCR", prefix + "n")
        assert caught.value.sent
        assert await client.execute("INCR", prefix + "n") == 2


async def test_the_real_reply_and_then_the_end(front: FakeRedis, prefix: str) -> None:
    front.answer("ECHO", ThenClose(), times=1)
    async with plain(front) as (reader, writer):
        writer.write(b"ECHO x\r\nECHO y\r\n")
        assert await reader.read() == b"$1\r\nx\r\n"
    async with plain(front) as (reader, writer):
        writer.write(b"ECHO y\r\n")
        assert await reader.readexactly(7) == b"$1\r\ny\r\n"


async def test_subscriptions_and_tracking_work_through_it(front: FakeRedis, prefix: str) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()
    async with RedisClient(front.url) as client:
        listener = TrackingListener(client, [prefix], heard.put_nowait)
        run = asyncio.create_task(listener.run())
        assert await listener.wait_up(5)
        while not heard.empty():
            heard.get_nowait()
        await client.execute("SET", prefix + "k", "v", "EX", 60)
        assert list(await asyncio.wait_for(heard.get(), 5)) == [f"{prefix}k".encode()]
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_redis_py_subscribes_to_many_channels_at_once(front: FakeRedis, prefix: str) -> None:
    theirs = redis.asyncio.Redis.from_url(front.url)
    async with theirs.pubsub() as pubsub:
        await pubsub.subscribe(*(prefix + str(n) for n in range(3)))
        for _ in range(3):
            found = await pubsub.get_message(timeout=5)
            assert found is not None
            assert found["type"] == "subscribe"
        await theirs.publish(prefix + "1", "hello")
        found = await pubsub.get_message(timeout=5)
        assert found is not None
        assert (found["type"], found["data"]) == ("message", b"hello")
        await pubsub.unsubscribe()
        for _ in range(3):
            found = await pubsub.get_message(timeout=5)
            assert found is not None
            assert found["type"] == "unsubscribe"
        await pubsub.ping()
    await theirs.aclose()


async def test_a_server_that_goes_takes_the_connection_with_it(own_server: OwnServerFactory) -> None:
    server = own_server()
    async with FakeRedis(server.url) as fake, RedisClient(fake.url) as client:
        await client.ping()
        server.kill()
        with pytest.raises(StoreUnavailable):
            await client.ping()
        server.start()
        await client.ping()
        fake.drop_connections()
        with suppress(StoreUnavailable):
            await client.ping()
        await client.ping()


async def test_nothing_is_left_behind(front: FakeRedis, redis_url: str) -> None:
    process = psutil.Process()

    async def once() -> None:
        async with FakeRedis(redis_url) as fake:
            fake.answer("ECHO", Silence())
            fake.answer("TIME", Delayed(60))
            async with RedisClient(fake.url, PoolOptions(socket_timeout=0.05)) as client:
                calls = [client.ping(), client.execute("ECHO", "x"), client.execute("TIME")]
                await asyncio.gather(*calls, return_exceptions=True)
                with suppress(TimeoutError):
                    await asyncio.wait_for(client.execute("BLPOP", "none", 5), 0.01)

    await once()
    gc.collect()
    before, tasks = process.num_fds(), len(asyncio.all_tasks())
    for _ in range(5):
        await once()
    async with asyncio.timeout(5):
        while process.num_fds() > before or len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
