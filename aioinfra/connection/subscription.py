"""A pub/sub subscription that says when it has a gap.

Every (re)subscription is reported, since whoever waits for a message must look for what it missed meanwhile. A
connection of its own; PING finds out whether it still lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aioinfra.backoff import RECONNECT
from aioinfra.connection.pool import RedisClient
from aioinfra.connection.translate import ReplyError
from aioinfra.connection.wire import PushWire
from aioinfra.errors import StoreDenied, StoreError

logger = logging.getLogger("aioinfra.connection")

PING_INTERVAL = 5.0
"""Seconds between probes; a connection that answers none of two is given up."""
REFUSED_RETRY = 30.0
"""Seconds between attempts where the server does not allow the subscription."""


class Subscription:
    """One channel on a connection of its own.

    Args:
        client: where to; owned by the caller.
        channel: its exact name.
        on_message: called with each message, on the loop; must not block or raise.
        on_subscribed: called after each (re)subscription, before any message of it.
    """

    def __init__(
        self,
        client: RedisClient,
        channel: str,
        on_message: Callable[[bytes], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        self._client = client
        self._channel = channel
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._up = False
        self._refused = False
        self._heard = False

    @property
    def is_up(self) -> bool:
        """Whether the channel is subscribed, as far as is known."""
        return self._up

    async def run(self) -> None:
        """Stay subscribed until cancelled. Faults of the server lead to a new connection, with backoff."""
        attempt = 0
        while True:
            attempt = 1 if await self._once() else attempt + 1
            await asyncio.sleep(REFUSED_RETRY if self._refused else RECONNECT.delay(attempt))

    async def _once(self) -> bool:
        """One connection from opening to its end; whether it was subscribed."""
        subscribed = False
        try:
            wire = await self._client.open_wire(PushWire)
        except StoreError as error:
            logger.debug("not subscribed (%s)", type(error).__name__)
            return subscribed
        try:
            await self._subscribe(wire)
            subscribed, self._refused = True, False
            await self._watch(wire)
        except (ReplyError, StoreDenied) as error:
            if not self._refused:
                logger.warning("%s refuses the channel %s: %s", self._client.location, self._channel, error)
            self._refused = True
        except StoreError as error:
            logger.debug("subscription lost (%s)", type(error).__name__)
        finally:
            self._up = False
            wire.abort()
            await asyncio.wait([wire.closed], timeout=1.0)
        return subscribed

    async def _subscribe(self, wire: PushWire) -> None:
        wire.on_push = self._received
        [reply] = await wire.ask([("SUBSCRIBE", self._channel)], self._client.options.socket_timeout)
        if isinstance(reply, StoreError):
            raise reply
        self._up = True
        self._on_subscribed()

    async def _watch(self, wire: PushWire) -> None:
        """Probe the connection until it has ended or is silent."""
        self._heard = True
        while not wire.closed.done() and self._heard:
            self._heard = False
            wire.send(("PING",))
            await asyncio.wait([wire.closed], timeout=PING_INTERVAL)

    def _received(self, push: Any) -> None:
        self._heard = True
        match push:
            case [b"message", _, message]:
                self._on_message(message)
            case _:  # the answer to a PING
                return
