"""Every answer of a server becomes the documented error, and none carries a command's arguments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
import redis.exceptions
from hypothesis import given, settings
from hypothesis import strategies as st
from redis._parsers.base import BaseParser

from aioinfra.connection.pool import PoolOptions, RedisClient, Script
from aioinfra.connection.translate import ReplyError, open_error, reply_error, translate
from aioinfra.errors import (
    DeadlineExceeded,
    PoolExhausted,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    WrongType,
)
from tests.conftest import OwnServer, OwnServerFactory

SECRET = "hunter2-planted"


async def refusal(server: OwnServer, *command: str | bytes | int) -> StoreError:
    """The error that one command ends with."""
    async with RedisClient(server.url) as client:
        with pytest.raises(StoreError) as caught:
            await client.execute(*command)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


def refused_unsent(error: StoreError, code: str) -> bool:
    return isinstance(error, StoreUnavailable) and not error.sent and str(error).startswith(code)


@pytest.fixture(params=["valkey", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Real answers


async def test_memory_full(own_server: OwnServerFactory, kind: str) -> None:
    server = own_server("--maxmemory", "1mb", "--maxmemory-policy", "noeviction", kind=kind)
    assert isinstance(await refusal(server, "SET", "k", SECRET * 100_000), StoreFull)


async def test_no_permission(own_server: OwnServerFactory, kind: str) -> None:
    server = own_server(kind=kind)
    async with RedisClient(server.url) as admin:
        await admin.execute("ACL", "SETUSER", "reader", "on", f">{SECRET}", "~*", "+get")
    reader = RedisClient(server.url.replace("unix://", f"unix://reader:{SECRET}@"))
    async with reader:
        assert await reader.execute("GET", "k") is None
        with pytest.raises(StoreDenied, match="NOPERM"):
            await reader.execute("SET", "k", SECRET)


async def test_a_replica_refuses_writes(own_server: OwnServerFactory, kind: str) -> None:
    server = own_server("--replicaof", "127.0.0.1 1", kind=kind)
    assert refused_unsent(await refusal(server, "SET", "k", SECRET), "READONLY")


async def test_a_replica_without_its_primary(own_server: OwnServerFactory, kind: str) -> None:
    server = own_server(
        "--replicaof", "127.0.0.1 1", "--replica-serve-stale-data", "no", kind=kind, start=False
    )
    server.start(wait=False)
    for _ in range(500):
        error = await refusal(server, "GET", SECRET)
        if "MASTERDOWN" in str(error):
            break
        await asyncio.sleep(0.01)
    assert refused_unsent(error, "MASTERDOWN")


async def test_too_few_replicas(own_server: OwnServerFactory, kind: str) -> None:
    server = own_server("--min-replicas-to-write", "1", kind=kind)
    assert refused_unsent(await refusal(server, "SET", "k", SECRET), "NOREPLICAS")


async def test_a_disk_that_fails(own_server: OwnServerFactory, kind: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    server = own_server("--appendonly", "no", "--save", "3600 1", "--dir", str(gone), kind=kind)
    gone.rmdir()
    async with RedisClient(server.url) as client:
        await client.execute("SET", "k", "v")
        await client.execute("BGSAVE")
        while b"rdb_bgsave_in_progress:1" in await client.execute("INFO", "persistence"):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    assert refused_unsent(await refusal(server, "SET", "k", SECRET), "MISCONF")


async def test_a_server_busy_with_a_script(own_server: OwnServerFactory, kind: str) -> None:
    server = own_server("--busy-reply-threshold", "10", kind=kind)
    async with RedisClient(server.url) as client:
        endless = asyncio.create_task(client.run_script(Script("endless", "while true do end"), [], []))
        await asyncio.sleep(0.1)
        assert refused_unsent(await refusal(server, "GET", SECRET), "BUSY")
        await client.execute("SCRIPT", "KILL")
        with pytest.raises(ReplyError):
            await endless


async def test_a_server_that_loads(own_server: OwnServerFactory, kind: str) -> None:
    slow = ("--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024")
    server = own_server(*slow, kind=kind)
    async with RedisClient(server.url) as client:
        await client.pipeline([("SET", f"k{n}", "v" * 100) for n in range(5_000)])
        server.restart(wait=False)
        seen: set[str] = set()
        async with asyncio.timeout(10):
            while True:
                try:
                    await client.execute("GET", "k0")
                except StoreUnavailable as error:
                    seen.add(str(error).split(":")[0])
                    await asyncio.sleep(0.01)
                else:
                    break
    assert "LOADING" in seen


async def test_too_many_clients(own_server: OwnServerFactory, kind: str) -> None:
    server = own_server("--maxclients", "1", kind=kind)
    async with RedisClient(server.url, PoolOptions(max_connections=20)) as client:
        async with RedisClient(server.url) as other:
            assert await other.ping() > 0
            answers = await asyncio.gather(*[client.ping() for _ in range(20)], return_exceptions=True)
            assert all(isinstance(answer, StoreUnavailable) and not answer.sent for answer in answers)
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await client.ping() > 0
                    break
                except StoreUnavailable:  # until the server has seen the other leave
                    continue


async def test_other_refusals_keep_their_code_and_harmless_text(redis_url: str, prefix: str) -> None:
    async with RedisClient(redis_url) as client:
        await client.execute("SET", prefix + "k", SECRET)
        with pytest.raises(ReplyError) as caught:
            await client.execute("INCR", prefix + "k")
        assert str(caught.value) == "the server answered ERR: value is not an integer or out of range"
        with pytest.raises(ReplyError) as caught:
            await client.execute("NOSUCH", SECRET)
        assert str(caught.value) == "the server answered ERR"
        with pytest.raises(WrongType):
            await client.execute("LPUSH", prefix + "k", SECRET)


@pytest.fixture
async def theirs(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with RedisClient(redis_url) as client:
        yield client.raw


async def test_pipeline_errors_of_redis_py_lose_their_arguments(
    theirs: redis.asyncio.Redis, prefix: str
) -> None:
    async with theirs.pipeline(transaction=False) as pipeline:
        pipeline.set(prefix + "k", "v")
        pipeline.lpush(prefix + "k", SECRET)
        with pytest.raises(redis.exceptions.ResponseError, match=SECRET) as caught:
            await pipeline.execute()
    error = translate(caught.value)
    assert isinstance(error, WrongType)
    assert SECRET not in str(error)


# The table


CODES: dict[str, type[StoreError]] = {
    "LOADING Redis is loading the dataset in memory": StoreUnavailable,
    "MASTERDOWN Link with MASTER is down": StoreUnavailable,
    "CLUSTERDOWN Hash slot not served": StoreUnavailable,
    "TRYAGAIN Multiple keys request during rehashing of slot": StoreUnavailable,
    "READONLY You can't write against a read only replica.": StoreUnavailable,
    "NOREPLICAS Not enough good replicas to write.": StoreUnavailable,
    "MISCONF Redis is configured to save RDB snapshots": StoreUnavailable,
    "BUSY Redis is busy running a script.": StoreUnavailable,
    "ERR max number of clients reached": StoreUnavailable,
    "OOM command not allowed when used memory > 'maxmemory'.": StoreFull,
    "NOAUTH Authentication required.": StoreDenied,
    "WRONGPASS invalid username-password pair or user is disabled.": StoreDenied,
    "NOPERM this user has no permissions to run the 'set' command": StoreDenied,
    "DENIED Redis is running in protected mode": StoreDenied,
    "ERR invalid password": StoreDenied,
    "ERR Client sent AUTH, but no password is set": StoreDenied,
    "WRONGTYPE Operation against a key holding the wrong kind of value": WrongType,
    "NOSCRIPT No matching script.": ReplyError,
    "EXECABORT Transaction discarded because of previous errors.": ReplyError,
    "ERR unknown command": ReplyError,
}


@pytest.mark.parametrize("reply", CODES)
def test_our_reading_and_redis_pys_agree(reply: str) -> None:
    ours, theirs = reply_error(reply), translate(BaseParser.parse_error(reply))  # type: ignore[no-untyped-call] # no hint there
    assert type(ours) is CODES[reply]
    assert type(theirs) is type(ours)
    if isinstance(ours, StoreUnavailable):
        assert isinstance(theirs, StoreUnavailable)
        assert not ours.sent
        assert not theirs.sent


@pytest.mark.parametrize(
    ("error", "kind", "sent"),
    [
        (redis.exceptions.TimeoutError("Timeout reading from socket"), DeadlineExceeded, True),
        (redis.exceptions.TimeoutError("Timeout connecting to server"), DeadlineExceeded, False),
        (TimeoutError(), DeadlineExceeded, True),
        (redis.exceptions.ConnectionError("No connection available."), PoolExhausted, False),
        (redis.exceptions.ConnectionError("Too many connections"), PoolExhausted, False),
        (redis.exceptions.ConnectionError("Error 111 connecting to h:1. refused."), StoreUnavailable, False),
        (redis.exceptions.ConnectionError("Connection closed by server."), StoreUnavailable, True),
        (ConnectionRefusedError(111, "refused"), StoreUnavailable, False),
        (ConnectionResetError(104, "reset"), StoreUnavailable, True),
        (redis.exceptions.InvalidResponse("Protocol Error"), StoreUnavailable, True),
    ],
)
def test_connection_errors(error: Exception, kind: type[StoreUnavailable], sent: bool) -> None:
    ours = translate(error)
    assert type(ours) is kind
    assert isinstance(ours, StoreUnavailable)
    assert ours.sent is sent
    assert isinstance(ours, ConnectionError)


def test_wrapped_errors_tell_the_inner_one() -> None:
    """redis-py wraps a refused AUTH on a unix socket."""
    inner = redis.exceptions.AuthenticationError("invalid username-password pair")
    assert isinstance(translate(redis.exceptions.ConnectionError(inner)), StoreDenied)


def test_ours_comes_back_as_it_is() -> None:
    ours = StoreFull("full")
    assert translate(ours) is ours


def test_anything_else_is_named_by_its_class_alone() -> None:
    assert str(translate(RuntimeError(SECRET))) == "unexpected RuntimeError"
    assert SECRET not in str(translate(redis.exceptions.DataError(SECRET)))
    assert SECRET not in str(open_error(UnicodeError(SECRET), "redis://h:1/0"))


@settings(deadline=None)
@given(code=st.sampled_from([*(reply.split()[0] for reply in CODES), "", "err", SECRET]), text=st.text())
def test_no_text_of_a_reply_gets_into_a_message(code: str, text: str) -> None:
    for error in (reply_error(f"{code} {SECRET} {text}"), reply_error(f"{code}{SECRET}{text} x")):
        assert SECRET not in str(error)
        assert SECRET not in repr(error)
