"""The Store on a Redis or Valkey server.

Gets go through one Batcher and leave as one MGET for all that gathered while the previous one was in flight.
Sets and deletes go through another and leave as one pipeline. Because all writes of this process pass that one
queue in order, a write that its caller gave up on never lands after a later write to the same key.

A caller waits at most the budget; the call behind it ends by itself, bounded by the client's socket timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from aioinfra.cache.ttl import milliseconds
from aioinfra.codec.bounds import check_number
from aioinfra.connection.batch import DEFAULT_LIMITS, Batcher, BatchLimits
from aioinfra.connection.pool import RedisClient

Command = tuple[str | bytes | int, ...]

_KEYS_A_COMMAND: Final = 1000  # in one MGET or UNLINK: bounds how long the server is busy with one command
_BYTES_A_READ: Final = 1 << 20  # of values expected in one MGET; beyond, large values gain nothing by waiting
_SCAN_COUNT: Final = 1000


@dataclass(frozen=True, slots=True)
class RedisStoreOptions:
    """Bounds of one store.

    Attributes:
        budget: seconds that a caller waits for the server.
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
    """A Store over a RedisClient, which stays its owner's to close. One event loop."""

    __slots__ = ("_budget", "_client", "_limits", "_reads", "_typical", "_writes")

    def __init__(self, client: RedisClient, options: RedisStoreOptions = RedisStoreOptions()) -> None:
        self._client = client
        self._budget = options.budget
        self._limits = options.limits
        self._typical = 0  # bytes of a recent value
        self._reads: Batcher[str, bytes | None] = Batcher(
            self._send_reads, options.limits, deadline=options.budget
        )
        self._writes: Batcher[Write, Any] = Batcher(
            self._send_writes, options.limits, size_of=_size, deadline=options.budget
        )

    def get(self, key: str) -> Awaitable[bytes | None]:
        return self._reads.submit(key)

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        if len(keys) <= _KEYS_A_COMMAND:
            return await self._client.execute("MGET", *keys, deadline=self._budget) if keys else ()
        chunks = [self.get_many(keys[at : at + _KEYS_A_COMMAND]) for at in _steps(len(keys), _KEYS_A_COMMAND)]
        return [value for chunk in await asyncio.gather(*chunks) for value in chunk]

    def set(self, key: str, value: bytes, ttl: float | None) -> Awaitable[None]:
        return self._writes.submit(Write((_set(key, value, ttl),), len(key) + len(value)))

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        limits = self._limits
        commands: list[Command] = []
        size = 0
        writes: list[Write] = []
        for key, value in items:
            if commands and (len(commands) >= limits.max_items or size + len(value) > limits.max_bytes):
                writes.append(Write(commands, size))
                commands, size = [], 0
            commands.append(_set(key, value, ttl))
            size += len(key) + len(value)
        await self._write_all([*writes, Write(commands, size)] if commands else writes)

    async def delete(self, keys: Sequence[str]) -> int:
        chunks = [keys[at : at + _KEYS_A_COMMAND] for at in _steps(len(keys), _KEYS_A_COMMAND)]
        return sum(
            await self._write_all([Write((("UNLINK", *chunk),), sum(map(len, chunk))) for chunk in chunks])
        )

    async def exists(self, key: str) -> bool:
        return bool(await self._client.execute("EXISTS", key, deadline=self._budget))

    async def clear(self, pattern: str) -> int:
        removed, cursor = 0, "0"
        while True:
            reply = await self._client.execute("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
            cursor = reply[0].decode()
            if reply[1]:
                removed += await self._client.execute("UNLINK", *reply[1])
            if cursor == "0":
                return removed

    async def ping(self) -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await self._client.execute("PING", deadline=self._budget)
        return loop.time() - started

    async def aclose(self) -> None:
        await self._reads.aclose()
        await self._writes.aclose()

    async def _send_reads(self, keys: list[str]) -> Sequence[bytes | None]:
        if len(keys) == 1:  # GET, unlike MGET, tells a key that holds something else
            return [await self._client.execute("GET", keys[0])]
        distinct = list(dict.fromkeys(keys))
        values = await self._read(distinct)
        self._typical = len(values[0] or values[-1] or b"")
        if len(distinct) == len(keys):
            return values
        found = dict(zip(distinct, values, strict=True))
        return [found[key] for key in keys]

    async def _read(self, keys: list[str]) -> Sequence[bytes | None]:
        """One MGET; several on connections of their own when large values are to be expected."""
        step = max(1, _BYTES_A_READ // (self._typical or 1))
        if len(keys) <= step:
            return cast("list[bytes | None]", await self._client.execute("MGET", *keys))
        reads = [self._client.execute("MGET", *keys[at : at + step]) for at in _steps(len(keys), step)]
        return [value for values in await asyncio.gather(*reads) for value in values]

    async def _write_all(self, writes: Sequence[Write]) -> list[Any]:
        """Submit all, wait for all, raise the first error."""
        futures = [self._writes.submit(write) for write in writes]
        replies = await asyncio.gather(*futures, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    async def _send_writes(self, writes: list[Write]) -> Sequence[Any]:
        replies = iter(
            await self._client.pipeline([command for write in writes for command in write.commands])
        )
        return [_outcome([next(replies) for _ in write.commands]) for write in writes]


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


def _steps(length: int, step: int) -> range:
    return range(0, length, step)
