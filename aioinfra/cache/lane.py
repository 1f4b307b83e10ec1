"""One line of calls to the server, a batch at a time, and the cutting of large calls into bounded ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

from aioinfra.connection.batch import Batcher, BatchLimits
from aioinfra.connection.pool import RedisClient
from aioinfra.connection.wire import Call

Item = TypeVar("Item")
Reply = TypeVar("Reply")
T = TypeVar("T")

Command = tuple[str | bytes | int, ...]

MOST_ALLOWANCE: Final = 2.0
"""Seconds beyond its budget that a batch may take at most for what it transfers."""

_LONG: Final = 3600.0  # seconds; the call ends by itself long before


class Lane(Generic[Item, Reply]):
    """A Batcher that knows how far the call of its batch in flight has come.

    Args:
        send: answers one batch by means of `call`.
        budget: seconds for a batch, to which what was transferred so far is added, up to `MOST_ALLOWANCE`.
        size_of: bytes of an item.
    """

    __slots__ = ("_batcher", "_call", "_client", "received", "submit")

    def __init__(
        self,
        client: RedisClient,
        send: Callable[[list[Item]], Awaitable[Sequence[Reply | BaseException]]],
        limits: BatchLimits,
        budget: float,
        size_of: Callable[[Item], int] | None = None,
    ) -> None:
        self._client = client
        self._call: Call | None = None
        self.received = 0
        """Bytes of the last replies."""
        self._batcher: Batcher[Item, Reply] = Batcher(
            send,
            limits,
            size_of=size_of,
            deadline=budget,
            allowance=self._allowance,
            loop=_running(),
        )
        self.submit = self._batcher.submit

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands in one round trip, errors in their places. For ``send`` alone."""
        self._call = call = self._client.begin(commands)
        replies: list[Any] = await call.future
        self.received = call.received
        return replies

    async def settled(self) -> None:
        """Return when nothing is under way, not even what callers have given up: within the socket timeout."""
        await self._batcher.settled()

    async def aclose(self) -> None:
        """Wait for what is under way, then refuse."""
        await self._batcher.aclose()

    def _allowance(self) -> float:
        call = self._call
        if call is None:
            return 0.0
        # Answered: its batch is about to end. Not sent, behind other users of the pool: that wait has a bound.
        if call.future.done() or (not call.sent and self._client.crowded):
            return _LONG
        return min(call.allowance(), MOST_ALLOWANCE)


def chunked(items: Sequence[T], most: int, most_bytes: int, size_of: Callable[[T], int]) -> list[Sequence[T]]:
    """Cut into pieces of at most ``most`` items and ``most_bytes``; an item larger than that stands alone."""
    chunks: list[Sequence[T]] = []
    begin = total = 0
    for at, size in enumerate(map(size_of, items)):
        if at > begin and (at - begin >= most or total + size > most_bytes):
            chunks.append(items[begin:at])
            begin, total = at, 0
        total += size
    if items:
        chunks.append(items[begin:])
    return chunks


def grouped(chunks: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The chunks, some at a time."""
    return (chunks[at : at + size] for at in range(0, len(chunks), size))


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
