"""One connection through a `FaultProxy`: two sockets, two links, and the order in which they end.

    client socket -> Link UPSTREAM   -> upstream socket
    client socket <- Link DOWNSTREAM <- upstream socket

A link is a reading and a writing task with a bounded buffer between them, so that delayed bytes do not hold
back the reading of those behind them, and a slow receiver slows its sender. The connection's task owns all
four and the sockets; sockets are closed when no task can touch them any more. Plain sockets instead of
transports: no buffer is hidden, and a close is a FIN or an RST by choice.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import socket
import struct
from collections.abc import Callable
from typing import Final, Protocol

from aioinfra.testing.toxics import Stage, Toxic
from aioinfra.testing.upstream import Upstream, send_at_once

_READ_BYTES: Final = 1 << 14
_BUFFERED_READS: Final = 64  # with the former: at most 1 MiB waits in each direction
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds


class Direction(enum.Enum):
    """Which way bytes go."""

    UPSTREAM = "upstream"  # from the client to the server
    DOWNSTREAM = "downstream"  # from the server to the client
    BOTH = "both"

    def covers(self, other: Direction) -> bool:
        """Whether what acts in this direction acts in the other."""
        return self is other or self is Direction.BOTH


class LostReplies:
    """A promise to lose replies; see `FaultProxy.lose_reply`.

    Attributes:
        matching: what a request contains whose reply is lost.
        left: how many are still to be lost.
        lost: how many were.
    """

    __slots__ = ("left", "lost", "matching")

    def __init__(self, matching: bytes, times: int) -> None:
        self.matching = matching
        self.left = times
        self.lost = 0


class Traffic(Protocol):
    """What a connection asks and tells its proxy."""

    upstream: Upstream
    passing: asyncio.Event  # clear during a partition

    def sent(self, link: Link, data: bytes) -> None:
        """Bytes were handed to the server or the client."""

    def arrived(self, link: Link, data: bytes) -> bool:
        """Bytes are about to be handed on; False when they are not to be."""


class Link:
    """One direction of one connection."""

    def __init__(self, connection: ProxyConnection, direction: Direction) -> None:
        self.connection = connection
        self.direction = direction
        self.stages: list[tuple[int, Stage]] = []  # with the numbers of their toxics, in the order they act
        self.tail = b""  # the last bytes that were handed on, for a match across two reads
        self._buffer: asyncio.Queue[tuple[bytes, float]] = asyncio.Queue(_BUFFERED_READS)

    def add(self, number: int, toxic: Toxic, draw: random.Random) -> None:
        """Let a toxic act here from now on."""
        self.stages.append((number, Stage(toxic, draw, lambda reset: self.connection.end(reset=reset))))
        self.stages.sort(key=lambda entry: (entry[1].toxic.order, entry[0]))

    def remove(self, number: int) -> None:
        """Take a toxic away; nothing when it does not act here."""
        for entry in [entry for entry in self.stages if entry[0] == number]:
            self.stages.remove(entry)
            entry[1].end()
            entry[1].toxic.removed(entry[1])

    async def read(self, source: socket.socket) -> None:
        """Take what comes until the stream ends; an error is its end."""
        loop = asyncio.get_running_loop()
        data = b"?"
        while data:
            try:
                data = await loop.sock_recv(source, _READ_BYTES)
            except OSError:
                data = b""
            await self._buffer.put((data, loop.time()))

    async def write(self, target: socket.socket) -> None:
        """Hand on what was read, through the toxics and the gate of a partition, and then its end."""
        while True:
            data, came = await self._buffer.get()
            if not data:
                break
            await self._carry(data, came, [stage for _, stage in self.stages], target)
        for _, stage in list(self.stages):
            await stage.toxic.at_end(stage)
        await self.connection.traffic.passing.wait()
        with contextlib.suppress(OSError):  # the other side has gone first
            target.shutdown(socket.SHUT_WR)

    async def _carry(self, data: bytes, came: float, stages: list[Stage], target: socket.socket) -> None:
        if not stages:
            await self._hand_on(data, target)
            return
        stage, rest = stages[0], stages[1:]
        if stage.ended:
            await self._carry(data, came, rest, target)
        else:
            await stage.toxic.carry(stage, data, came, lambda piece, at: self._carry(piece, at, rest, target))
        if self.connection.ended:
            await (
                asyncio.get_running_loop().create_future()
            )  # until the cancellation that is under way arrives

    async def _hand_on(self, data: bytes, target: socket.socket) -> None:
        traffic = self.connection.traffic
        await traffic.passing.wait()
        if not traffic.arrived(self, data):
            return
        try:
            await asyncio.get_running_loop().sock_sendall(target, data)
        except OSError:
            self.connection.end()
            return
        traffic.sent(self, data)


class ProxyConnection:
    """One accepted connection. Its proxy keeps the task and calls `close` when that has ended."""

    def __init__(
        self,
        number: int,
        client: socket.socket,
        traffic: Traffic,
        on_closed: Callable[[ProxyConnection], None],
    ) -> None:
        self.number = number
        self.traffic = traffic
        self.ended = False
        self.lost_reply: LostReplies | None = None  # whose turn the next bytes from the server are
        self._client = client
        self._upstream: socket.socket | None = None
        self._reset = False
        self._on_closed = on_closed
        client.setblocking(False)
        send_at_once(client)
        self.up = Link(self, Direction.UPSTREAM)
        self.down = Link(self, Direction.DOWNSTREAM)
        self.task = asyncio.create_task(self._run(), name=f"aioinfra-proxy-connection-{number}")
        self.task.add_done_callback(lambda _: self.close())

    @property
    def links(self) -> tuple[Link, Link]:
        """Both directions."""
        return self.up, self.down

    def end(self, *, reset: bool = False) -> None:
        """Close both sides soon, with an RST if ``reset``; what is buffered is dropped."""
        if not self.ended:
            self.ended = True
            self._reset = reset
            self.task.cancel()

    def close(self) -> None:
        """Close the sockets. Its task must have ended. Idempotent."""
        self.ended = True
        for link in self.links:
            for _, stage in link.stages:
                stage.end()
        for opened in (self._client, self._upstream):
            if opened is not None:
                _close(opened, reset=self._reset)
        self._on_closed(self)

    async def _run(self) -> None:
        await self.traffic.passing.wait()
        try:
            self._upstream = server = await self.traffic.upstream.connect()
        except OSError:
            return
        client = self._client
        async with asyncio.TaskGroup() as group:
            group.create_task(self.up.read(client))
            group.create_task(self.up.write(server))
            group.create_task(self.down.read(server))
            group.create_task(self.down.write(client))


def _close(opened: socket.socket, *, reset: bool) -> None:
    if reset and opened.fileno() >= 0:
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    opened.close()
