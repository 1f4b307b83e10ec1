"""The Store on a Redis or Valkey server.

Gets go through one Batcher and leave as one MGET for all that gathered while the previous one was in flight.
Sets and deletes go through another, in order, and leave as one pipeline. Only a write that its caller gave up on,
since its connection was silent for longer than the budget, may land after a later one to the same key: until
`settled` has returned.

A caller waits at most the budget for a server that does not answer; the call behind it ends by itself, bounded
by the client's socket timeout. Waiting for the calls of this process that are ahead is no fault of the server:
it takes as long as they do, up to 40 budgets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from aioinfra.cache.lane import Command, Lane, chunked, grouped
from aioinfra.cache.ttl import milliseconds
from aioinfra.codec.bounds import check_number
from aioinfra.connection.batch import DEFAULT_LIMITS, BatchLimits
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import DeadlineExceeded, PoolExhausted, ReplyTooLarge, StoreError

_KEYS_A_COMMAND: Final = 1000  # in one MGET or UNLINK: bounds how long the server is busy with one command
_BYTES_A_READ: Final = 1 << 20  # of values expected in one MGET; beyond, large values gain nothing by waiting
_CHUNKS_AT_ONCE: Final = 4  # of one caller's many keys: keeps the lane busy, and leaves room for others
_SCAN_COUNT: Final = 1000


@dataclass(frozen=True, slots=True)
class RedisStoreOptions:
    """Bounds of one store.

    Attributes:
        budget: seconds that the server may take for a batch; more for a large one by what has been transferred,
            at 4 MiB/s.
        limits: of the batches that gets, and that writes, are gathered into.
    """

    budget: float = 0.25
    limits: BatchLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        check_number("budget", self.budget, 0.001, 3600)


class Write(NamedTuple):
    """Commands that one caller waits for, and their size in bytes."""

    commands: Sequence[Command]
    size: int


class RedisStore:
    """A Store over a RedisClient, which stays its owner's to close. One event loop.

    The three lanes have one batch in flight each: gets; reads of many keys, EXISTS and SCAN; writes. What waits
    in a lane waits for the batch before it, which ends in time or ends all: see `Batcher`.
    """

    era = 0
    returning = False
    __slots__ = ("_budget", "_bulk", "_client", "_gets", "_limits", "_typical", "_writes")

    def __init__(self, client: RedisClient, options: RedisStoreOptions = RedisStoreOptions()) -> None:
        self._client = client
        self._budget = options.budget
        self._limits = options.limits
        self._typical = 0  # bytes of a recent value
        self._gets: Lane[str, bytes | None] = Lane(client, self._send_gets, options.limits, options.budget)
        self._bulk: Lane[Command, Any] = Lane(
            client, self._send_bulk, options.limits, options.budget, self._expected
        )
        self._writes: Lane[Write, Any] = Lane(
            client, self._send_writes, options.limits, options.budget, _size
        )

    def get(self, key: str) -> Awaitable[bytes | None]:
        return self._gets.submit(key)

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        chunks = self._chunks(keys, self._step())
        if len(chunks) == 1:
            return cast("list[bytes | None]", await self._bulk.submit(("MGET", *keys)))
        values: list[bytes | None] = []
        for group in grouped(chunks, _CHUNKS_AT_ONCE):
            for found in await self._all([self._bulk.submit(("MGET", *chunk)) for chunk in group]):
                values.extend(found)
        return values

    def set(self, key: str, value: bytes, ttl: float | None) -> Awaitable[None]:
        return self._writes.submit(Write((_set(key, value, ttl),), len(key) + len(value)))

    async def add(self, key: str, value: bytes, ttl: float | None) -> bytes:
        put = _set(key, value, ttl)
        write = Write((("SET", key, value, "NX", *put[3:]), ("GET", key)), len(key) * 2 + len(value))
        held: bytes | None = await self._writes.submit(write)
        return value if held is None else held  # expired in between

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        limits = self._limits
        chunks = chunked(
            items,
            min(limits.max_items, _KEYS_A_COMMAND),
            limits.max_bytes,
            lambda item: len(item[0]) + len(item[1]),
        )
        for group in grouped(chunks, _CHUNKS_AT_ONCE):
            await self._all(
                [
                    self._writes.submit(
                        Write(
                            [_set(key, value, ttl) for key, value in chunk],
                            sum(len(key) + len(value) for key, value in chunk),
                        )
                    )
                    for chunk in group
                ]
            )

    async def delete(self, keys: Sequence[str], uncounted: Sequence[str] = ()) -> int:
        if uncounted and len(keys) + len(uncounted) <= _KEYS_A_COMMAND:  # both in one pipeline
            size = sum(map(len, keys)) + sum(map(len, uncounted))
            removed: int = await self._writes.submit(Write((("UNLINK", *uncounted), ("UNLINK", *keys)), size))
            return removed
        if uncounted:
            await self._unlink(uncounted)
        return await self._unlink(keys)

    async def _unlink(self, keys: Sequence[str]) -> int:
        removed = 0
        for group in grouped(self._chunks(keys, _KEYS_A_COMMAND), _CHUNKS_AT_ONCE):
            writes = [Write((("UNLINK", *chunk),), sum(map(len, chunk))) for chunk in group]
            removed += sum(await self._all([self._writes.submit(write) for write in writes]))
        return removed

    async def exists(self, key: str) -> bool:
        return bool(await self._bulk.submit(("EXISTS", key)))

    async def clear(self, pattern: str) -> int:
        removed, cursor = 0, "0"
        while True:
            reply = await self._bulk.submit(("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT))
            cursor = reply[0].decode()
            if reply[1]:
                removed += await self._writes.submit(Write((("UNLINK", *reply[1]),), sum(map(len, reply[1]))))
            if cursor == "0":
                return removed

    async def ping(self) -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            await self._client.execute("PING", deadline=self._budget)
        except DeadlineExceeded as error:
            if error.sent or not self._client.crowded:
                raise
            raise PoolExhausted(f"no connection became free within {self._budget:g} s", sent=False) from None
        return loop.time() - started

    async def settled(self) -> None:
        await self._writes.settled()

    async def aclose(self) -> None:
        for lane in (self._gets, self._bulk, self._writes):
            await lane.aclose()

    async def _send_gets(self, keys: list[str]) -> Sequence[bytes | None]:
        if len(keys) == 1:  # GET, unlike MGET, tells a key that holds something else
            replies = await self._gets.call([("GET", keys[0])])
            return cast("list[bytes | None]", replies)
        distinct = list(dict.fromkeys(keys))
        values = await self._read(distinct)
        if len(distinct) == len(keys):
            return values
        found = dict(zip(distinct, values, strict=True))
        return [found[key] for key in keys]

    async def _read(self, keys: list[str]) -> Sequence[bytes | None]:
        """One MGET; several in one round trip when large values are to be expected."""
        return await self._mget(self._gets, keys, self._step())

    async def _mget(self, lane: Lane[Any, Any], keys: Sequence[str], step: int) -> list[bytes | None]:
        """The values; in two calls when together they are beyond the bound of a reply."""
        try:
            replies = await lane.call([("MGET", *chunk) for chunk in self._chunks(keys, step)])
        except ReplyTooLarge:
            if len(keys) == 1:
                raise
            middle = len(keys) // 2
            return [
                *await self._mget(lane, keys[:middle], step),
                *await self._mget(lane, keys[middle:], step),
            ]
        values: list[bytes | None] = []
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
            values = [*values, *reply] if values else reply
        self._typical = lane.received // len(keys)
        return values

    async def _send_bulk(self, commands: list[Command]) -> Sequence[Any]:
        try:
            replies = await self._bulk.call(commands)
        except ReplyTooLarge:
            return [await self._again(command) for command in commands]
        keys = sum(len(command) - 1 for command in commands if command[0] == "MGET")
        if keys:
            self._typical = self._bulk.received // keys
        return replies

    async def _again(self, command: Command) -> Any:
        """One command whose reply, or a neighbour's, was too large."""
        try:
            if command[0] == "MGET":
                return await self._mget(self._bulk, cast("tuple[str, ...]", command[1:]), _KEYS_A_COMMAND)
            return (await self._bulk.call([command]))[0]
        except StoreError as error:
            return error

    async def _send_writes(self, writes: list[Write]) -> Sequence[Any]:
        replies = iter(await self._writes.call([command for write in writes for command in write.commands]))
        return [_outcome([next(replies) for _ in write.commands]) for write in writes]

    async def _all(self, futures: Sequence[asyncio.Future[Any]]) -> list[Any]:
        """Wait for all, then raise the first error."""
        replies = await asyncio.gather(*futures, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    def _step(self) -> int:
        """Keys of one MGET, by the size of recent values."""
        return min(_KEYS_A_COMMAND, max(1, _BYTES_A_READ // (self._typical or 1)))

    def _chunks(self, keys: Sequence[str], most: int) -> list[Sequence[str]]:
        if 0 < len(keys) <= most and sum(map(len, keys)) <= self._limits.max_bytes:
            return [keys]
        return chunked(keys, most, self._limits.max_bytes, len)

    def _expected(self, command: Command) -> int:
        """Bytes of a reply, for the bound of a batch."""
        return (len(command) - 1) * self._typical


def _set(key: str, value: bytes, ttl: float | None) -> Command:
    return ("SET", key, value) if ttl is None else ("SET", key, value, "PX", milliseconds(ttl))


def _outcome(replies: list[Any]) -> Any:
    """What a write's caller gets: the first error among the replies, else the last reply."""
    for reply in replies:
        if isinstance(reply, BaseException):
            return reply
    return replies[-1]


def _size(write: Write) -> int:
    return write.size
