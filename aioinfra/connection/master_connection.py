"""redis-py's connections, leading to the master that the Sentinels name at the time.

Each connect asks anew and checks the server's role. A connection at rest is opened anew by its pool when the
master has moved, or when nobody can say that it has not; in the middle of a conversation (WATCH, MULTI) it ends
with an error instead, as it would if the old server had closed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import redis
from redis.asyncio import connection as redis_asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from aioinfra.clock import SYSTEM_CLOCK
from aioinfra.connection.master import ROLE_COMMAND, TRUST, Master, Place, leads
from aioinfra.errors import StoreError

_NO_TIMEOUT = 2.0  # seconds for all Sentinels together, where redis-py has no bound


class Following:
    """What the synchronous and the asyncio connections know in common."""

    def __init__(self, *, master: Master, members: Sequence[Mapping[str, Any]], **options: Any) -> None:
        super().__init__(**options)
        self._master = master
        self._members = members
        self._place: Place | None = None
        self._used_at = 0.0

    @property
    def place(self) -> Place | None:
        """Where it leads; None before its first connect."""
        return self._place

    def _moved(self) -> bool:
        return self._place != self._master.place

    def _doubtful(self) -> bool:
        last = max(self._used_at, self._master.vouched_at)
        return self._moved() or SYSTEM_CLOCK.monotonic() - last > TRUST

    def _refuse_moved(self) -> None:
        if self._moved():
            raise RedisConnectionError("the master has moved")
        self._used_at = SYSTEM_CLOCK.monotonic()

    def _member(self, index: int, timeout: float | None) -> dict[str, Any]:
        """The arguments of a connection to a Sentinel: each gets its share of the time."""
        share = (timeout or _NO_TIMEOUT) / len(self._members)
        bounds = {"socket_timeout": share, "socket_connect_timeout": share}
        return {**self._members[index], **bounds, "lib_name": None, "lib_version": None}

    def _accept(self, index: int, replies: list[Any], asked_at: float) -> Place:
        found = self._master.read(replies)
        self._master.accept(index, found, asked_at)
        return found.place

    def _check_role(self, reply: Any) -> None:
        if not leads(reply):
            raise RedisConnectionError("the server is not a master")
        self._used_at = SYSTEM_CLOCK.monotonic()


class MasterConnection(Following, redis_asyncio.Connection):
    """For pools of `redis.asyncio`."""

    async def _connect(self) -> None:
        self.host, self.port = self._place = await self._find()
        self._master.connections.add(self)
        await super()._connect()  # type: ignore[no-untyped-call] # redis-py's

    async def on_connect(self) -> None:
        await super().on_connect()
        await self.send_command(*ROLE_COMMAND, check_health=False)
        self._check_role(await self.read_response())

    async def can_read_destructive(self) -> Any:
        """True makes a pool open the connection anew before it is used."""
        return self._doubtful() or await super().can_read_destructive()  # type: ignore[no-untyped-call] # redis-py's

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self.is_connected:
            self._refuse_moved()
        await super().send_packed_command(command, check_health)

    def sever(self) -> None:
        """Drop it at once: a read under way ends with an error."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def _find(self) -> Place:
        for index in self._master.order():
            asked_at = SYSTEM_CLOCK.monotonic()
            try:
                return self._accept(index, await self._ask(index), asked_at)
            except (RedisError, OSError, StoreError):
                continue
        raise RedisConnectionError(f"{self._master.source} name no master")

    async def _ask(self, index: int) -> list[Any]:
        kind = (
            redis_asyncio.SSLConnection if isinstance(self, TlsMasterConnection) else redis_asyncio.Connection
        )
        sentinel = kind(**self._member(index, self.socket_connect_timeout))
        try:
            await sentinel.connect()  # type: ignore[no-untyped-call] # redis-py's
            replies: list[Any] = []
            for command in self._master.question():
                await sentinel.send_command(*command)
                try:
                    replies.append(await sentinel.read_response())
                except ResponseError:
                    replies.append(None)
            return replies
        finally:
            await sentinel.disconnect(nowait=True)


class TlsMasterConnection(MasterConnection, redis_asyncio.SSLConnection):
    """As `MasterConnection`, over TLS."""


class BlockingMasterConnection(Following, redis.Connection):
    """For pools of `redis`."""

    def _connect(self) -> Any:
        self.host, self.port = self._place = self._find()
        return super()._connect()  # type: ignore[no-untyped-call] # redis-py's

    def on_connect(self) -> None:
        super().on_connect()  # type: ignore[no-untyped-call] # redis-py's
        self.send_command(*ROLE_COMMAND, check_health=False)  # type: ignore[no-untyped-call] # redis-py's
        self._check_role(self.read_response())  # type: ignore[no-untyped-call] # redis-py's

    def can_read(self, timeout: float = 0) -> Any:
        """True makes a pool open the connection anew before it is used."""
        return self._doubtful() or super().can_read(timeout)  # type: ignore[no-untyped-call] # redis-py's

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        connected: object = self._sock
        if connected is not None:
            self._refuse_moved()
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call] # redis-py's

    def _find(self) -> Place:
        for index in self._master.order():
            asked_at = SYSTEM_CLOCK.monotonic()
            try:
                return self._accept(index, self._ask(index), asked_at)
            except (RedisError, OSError, StoreError):
                continue
        raise RedisConnectionError(f"{self._master.source} name no master")

    def _ask(self, index: int) -> list[Any]:
        kind = redis.SSLConnection if isinstance(self, BlockingTlsMasterConnection) else redis.Connection
        sentinel = kind(**self._member(index, self.socket_connect_timeout))
        try:
            sentinel.connect()  # type: ignore[no-untyped-call] # redis-py's
            replies: list[Any] = []
            for command in self._master.question():
                sentinel.send_command(*command)  # type: ignore[no-untyped-call] # redis-py's
                try:
                    replies.append(sentinel.read_response())  # type: ignore[no-untyped-call] # redis-py's
                except ResponseError:
                    replies.append(None)
            return replies
        finally:
            sentinel.disconnect()  # type: ignore[no-untyped-call] # redis-py's


class BlockingTlsMasterConnection(BlockingMasterConnection, redis.SSLConnection):
    """As `BlockingMasterConnection`, over TLS."""
