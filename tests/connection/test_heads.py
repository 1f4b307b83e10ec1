"""Replies that announce more than they bring: nothing is allocated or waited for on their word."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import hiredis
import pytest

from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.connection.wire import MOST_PUSH_BYTES, PushWire
from aioinfra.errors import DeadlineExceeded, ReplyTooLarge

QUICK = PoolOptions(socket_timeout=0.3)


@asynccontextmanager
async def answering(path: str, *pieces: bytes, options: PoolOptions = QUICK) -> AsyncIterator[RedisClient]:
    """A client of a server that answers each call with these pieces, one after the other."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    async with await asyncio.start_unix_server(serve, path), RedisClient(f"unix://{path}", options) as client:
        yield client


async def until_closed(client: RedisClient) -> None:
    async with asyncio.timeout(2):
        while client.figures().size:  # noqa: ASYNC110 - figures have no event
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"*500000000\r\n"],
        [b"*5000", b"00000\r", b"\n"],
        [b"*2\r\n:1\r\n*500000000\r\n"],
        [b"*2\r\n$3\r\nab", b"c\r\n*500000000", b"\r\n:1\r\n"],
        [b"%100000000\r\n"],
        [b"~500000000\r\n"],
        [b"$600000000\r\n"],
        [b"*60000000\r\n" * 7],
    ],
    ids=lambda pieces: repr(pieces)[:40],
)
async def test_a_length_beyond_the_bound_is_refused_on_its_word(tmp_path: Path, pieces: list[bytes]) -> None:
    async with answering(
        f"{tmp_path}/s", *pieces, options=PoolOptions(max_reply_bytes=150_000_000)
    ) as client:
        began = time.process_time()
        with pytest.raises(ReplyTooLarge):
            await client.execute("GET", "k")
        assert time.process_time() - began < 0.5  # an array of that size alone takes seconds
        await until_closed(client)


@pytest.mark.parametrize(
    "reply",
    [b"*100000000\r\n", b"*10000000\r\n" * 7, b"*1000\r\n" * 9_000, b"*1\r\n%50000000\r\n"],
    ids=["wide", "nested", "narrow", "map"],
)
async def test_an_array_is_not_allocated_before_its_elements_have_come(tmp_path: Path, reply: bytes) -> None:
    async with answering(f"{tmp_path}/s", reply) as client:
        began = time.process_time()
        with pytest.raises(DeadlineExceeded):
            await client.execute("GET", "k")
        assert time.process_time() - began < 0.3


async def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    async with answering(f"{tmp_path}/s", b"+", *[b"x" * 65_536] * 300) as client:
        with pytest.raises(ReplyTooLarge, match="1048576"):
            await client.execute("GET", "k")


@pytest.mark.parametrize("seed", range(3))
async def test_any_reply_in_any_pieces_is_read_as_it_is(tmp_path: Path, seed: int) -> None:
    """Values full of what looks like heads, cut anywhere."""
    chance = random.Random(seed)
    for number in range(40):
        replies = [_reply(chance) for _ in range(chance.randint(1, 4))]
        stream = b"".join(replies)
        most = chance.choice([7, 1_000, 70_000]) if len(stream) < 3_000 else 70_000
        cuts = [0]
        while cuts[-1] < len(stream):
            cuts.append(cuts[-1] + chance.randint(1, most))
        pieces = [stream[begin:end] for begin, end in pairwise(cuts)]
        async with answering(f"{tmp_path}/{number}", *pieces) as client:
            reader = hiredis.Reader()
            reader.feed(stream)
            expected = [reader.gets() for _ in replies]
            assert await client.pipeline([["PING"]] * len(replies)) == expected
            assert client.figures().idle == 1


def _reply(chance: random.Random, depth: int = 0) -> bytes:
    kind = chance.randint(0, 4 if depth < 3 else 3)
    if kind == 0:
        return chance.choice([b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"$0\r\n\r\n", b":7\r\n", b"+\r\n"])
    if kind == 1:
        return b"+" + b"x" * chance.choice([1, 300]) + b"\r\n"
    if kind in (2, 3):
        part = chance.choice(
            [b"\n*500000000\r\n", b"\n*100", b"\r\n*5", b"*", b"\n$100000\r\n", b"\n+a", b"\r"]
        )
        value = (part * 5_000)[: chance.choice([1, 5, 14, 100, 9_999, 20_000])] * chance.choice([1, 1, 1, 9])
        return b"$%d\r\n%s\r\n" % (len(value), value)
    count = chance.choice([1, 2, 3, 100, 1_200])
    if count < 100:
        return b"*%d\r\n" % count + b"".join(_reply(chance, depth + 1) for _ in range(count))
    return b"*%d\r\n" % count + b"".join(
        chance.choice([b":1\r\n", b"+\r\n", b"*0\r\n"]) for _ in range(count)
    )


async def test_bytes_that_trickle_do_not_hold_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 MB/s of a reply of 400 MB, which at 4 MiB/s might take 100 s: the allowance has an end."""
    monkeypatch.setattr("aioinfra.connection.wire.MOST_ALLOWANCE", 0.5)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"$400000000\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 200_000)
            await asyncio.sleep(0.01)
        writer.close()
        gone.set()

    gone = asyncio.Event()
    path = f"{tmp_path}/s"
    async with await asyncio.start_unix_server(serve, path), RedisClient(f"unix://{path}", QUICK) as client:
        async with asyncio.timeout(3):
            with pytest.raises(DeadlineExceeded):
                await client.execute("GET", "k")
            await gone.wait()


async def test_bytes_that_no_call_asked_for_end_an_idle_connection(tmp_path: Path) -> None:
    """Also those that never make a reply, which would gather without a bound."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while await reader.read(1000):
            writer.write(b"+PONG\r\n")
        writer.close()

    path = f"{tmp_path}/s"
    async with await asyncio.start_unix_server(serve, path), RedisClient(f"unix://{path}", QUICK) as client:
        await client.ping()
        writers[0].write(b"$100000000\r\n")
        await until_closed(client)


@pytest.mark.parametrize(
    ("head", "pieces"),
    [(b"$500000000\r\n", MOST_PUSH_BYTES // (1 << 20) + 1), (b"*500000000\r\n", 1)],
    ids=["value", "array"],
)
async def test_a_push_is_bounded(tmp_path: Path, head: bytes, pieces: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"*2\r\n+pong\r\n+\r\n" + head)
        with contextlib.suppress(ConnectionError):
            for _ in range(pieces):
                writer.write(b"x" * (1 << 20))
                await writer.drain()
            await reader.read()  # until the client closes
        writer.close()

    path = f"{tmp_path}/s"
    pushes: list[object] = []
    async with await asyncio.start_unix_server(serve, path), RedisClient(f"unix://{path}", QUICK) as client:
        wire = await client.open_wire(PushWire)
        wire.on_push = pushes.append
        wire.send(("PING",))
        async with asyncio.timeout(5):
            await wire.closed
    assert pushes == [[b"pong", b""]]
