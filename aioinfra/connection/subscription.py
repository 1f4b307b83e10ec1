"""A pub/sub subscription that says when it has a gap.

redis-py's own PubSub reconnects silently. Here every (re)subscription is reported, since whoever waits for a
message must look for what it missed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from aioinfra.backoff import RECONNECT
from aioinfra.connection.pool import RedisClient

logger = logging.getLogger("aioinfra.connection")

PING_INTERVAL = 5.0
"""Seconds of silence after which the connection is probed; twice that without an answer ends it."""


class Subscription:
    """Channels on a connection of their own.

    Args:
        client: where to; owned by the caller.
        channels: exact names.
        on_message: called with channel and message, on the loop; must not block.
        on_subscribed: called after each (re)subscription, before any message of it.
    """

    def __init__(
        self,
        client: RedisClient,
        channels: Sequence[str],
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        self._client = client
        self._channels = list(channels)
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._up = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether the channels are subscribed, as far as is known."""
        return self._up.is_set()

    async def wait_up(self, timeout: float) -> bool:
        """Wait for the subscription, at most ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._up.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Stay subscribed until cancelled. Faults of the server lead to a new connection, with backoff."""
        failures = 0
        while True:
            connection = self._client.new_connection()
            try:
                await self._subscribe(connection)
                failures = 0
                await self._read(connection)
            except (RedisError, OSError) as error:
                failures += 1
                logger.debug("subscription lost (%s)", type(error).__name__)
            finally:
                self._up.clear()
                await asyncio.shield(connection.disconnect(nowait=True))
            await asyncio.sleep(RECONNECT.delay(failures))

    async def _subscribe(self, connection: AbstractConnection) -> None:
        await connection.connect()
        await connection.send_command("SUBSCRIBE", *self._channels)
        for _ in self._channels:
            await connection.read_response()
        self._up.set()
        self._on_subscribed()

    async def _read(self, connection: AbstractConnection) -> None:
        silent = False
        while True:
            reply: Any = await connection.read_response(timeout=PING_INTERVAL)
            if reply is None:
                if silent:
                    return
                silent = True
                await connection.send_command("PING")
                continue
            silent = False
            if isinstance(reply, list) and reply[0] == b"message":
                self._on_message(reply[1], reply[2])
