"""Waits for the announcement that the master has moved, at one Sentinel after the other.

Two things find a Sentinel that lives but is cut off from the others: every few seconds another one is asked, and
the server's role is read again. While all of that goes well, a PONG of the Sentinel proves that it had announced
nothing before the PING (`Master.vouched_at`). Where no Sentinel can be listened to, asking more often stands in.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Protocol

from aioinfra.backoff import RECONNECT
from aioinfra.clock import SYSTEM_CLOCK
from aioinfra.connection.master import Master, Place
from aioinfra.connection.opener import WireT
from aioinfra.connection.wire import Argument, PushWire, Wire
from aioinfra.errors import StoreError, StoreUnavailable

logger = logging.getLogger("aioinfra.connection")

_SWITCHED: Final = "+switch-master"
"""``<name> <old host> <old port> <new host> <new port>``"""
_PROMOTED: Final = "+failover-state-reconf-slaves"
"""``master <name> ...``: the Sentinel that leads a failover names the new master from then on. It announces the
switch only once the other replicas follow, which may be ten seconds later."""
_PING_INTERVAL: Final = 0.5
"""Seconds between PINGs, and between looks at whether another thread has heard of a move."""
_SILENCE: Final = 2.0
"""Seconds without a PONG after which another Sentinel is tried."""
_AUDIT_INTERVAL: Final = 5.0
_AUDIT_AGAIN: Final = 0.5
"""Seconds between audits; the shorter one after one that failed, or while no Sentinel announces."""


class Opening(Protocol):
    """What the watch needs of a `MasterOpener`."""

    async def open(self, make: type[WireT], timeout: float) -> WireT: ...

    async def sentinel(
        self, member: int, make: type[WireT], then: list[tuple[Argument, ...]]
    ) -> tuple[WireT, list[Any]]: ...

    async def ask(self, member: int) -> Place: ...

    def drop_moved(self) -> None: ...


class MasterWatch:
    """Follows what the Sentinels announce. Whoever starts `run` as a task ends it by cancelling.

    Args:
        opener: whose connections are to be dropped.
        master: what is known.
        timeout: seconds for an answer.
    """

    def __init__(self, opener: Opening, master: Master, timeout: float) -> None:
        self._opener = opener
        self._master = master
        self._timeout = timeout
        self._announced = asyncio.Event()
        self._news = 0  # announcements, the subscription itself counting as one: it may come after another
        self._understood = 0  # of them, those that a Sentinel was asked about
        self._sound = False  # whether a Sentinel announces, and the last audit went well
        self._listening = False
        self._refused = False
        self._pinged_at: float | None = None
        self._heard_at = 0.0

    async def run(self) -> None:
        """Keep watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._audit())
            group.create_task(self._stay_subscribed())

    async def _stay_subscribed(self) -> None:
        """Move to another Sentinel when one fails."""
        attempt = 0
        while True:
            member = self._master.order()[0]
            if await self._listen(member):
                attempt = 0
            self._master.postpone(member)
            attempt += 1
            await asyncio.sleep(RECONNECT.delay(attempt))

    async def _listen(self, member: int) -> bool:
        """One subscription from its beginning to its end; whether it stood."""
        try:
            wire, _ = await self._opener.sentinel(member, PushWire, [])
        except StoreError as error:
            logger.debug("no Sentinel to listen to (%s)", type(error).__name__)
            return False
        try:
            wire.on_push = self._received
            for reply in await wire.ask([("SUBSCRIBE", _SWITCHED), ("SUBSCRIBE", _PROMOTED)], self._timeout):
                if isinstance(reply, StoreError):
                    raise reply
            self._pinged_at, self._heard_at = None, SYSTEM_CLOCK.monotonic()
            self._sound, self._listening, self._refused = True, True, False
            self._hear_news()
            self._master.seek = lambda: self._ping(wire)
            async with asyncio.TaskGroup() as group:
                following = group.create_task(self._follow(member))
                await self._beat(wire)
                following.cancel()
        except StoreUnavailable as error:
            logger.debug("a Sentinel is gone (%s)", type(error).__name__)
            return False
        except StoreError as error:
            if not self._refused:
                logger.warning("a Sentinel does not let this client subscribe to %s: %s", _SWITCHED, error)
            self._refused = True
            return False
        finally:
            self._sound = self._listening = False
            self._master.seek = None
            wire.abort()
        return True

    async def _beat(self, wire: PushWire) -> None:
        """PING until the connection ends or is silent."""
        while not wire.closed.done() and SYSTEM_CLOCK.monotonic() - self._heard_at <= _SILENCE:
            self._ping(wire)
            self._opener.drop_moved()
            await asyncio.wait([wire.closed], timeout=_PING_INTERVAL)

    def _ping(self, wire: PushWire) -> None:
        if self._pinged_at is None:
            self._pinged_at = SYSTEM_CLOCK.monotonic()
            wire.send(("PING",))

    def _received(self, push: Any) -> None:
        self._heard_at = SYSTEM_CLOCK.monotonic()
        match push:
            case [b"message", _, bytes(text)] if self._master.name.encode() in text.split(b" ")[:2]:
                self._hear_news()
            case [b"pong", _] if self._pinged_at is not None:
                if self._sound and self._understood == self._news:
                    self._master.vouch(self._pinged_at)
                self._pinged_at = None

    def _hear_news(self) -> None:
        self._news += 1
        self._announced.set()

    async def _follow(self, member: int) -> None:
        """After each announcement learn what it means from the Sentinel that made it: it does not say the epoch."""
        while True:
            await self._announced.wait()
            self._announced.clear()
            news = self._news
            try:
                await self._opener.ask(member)
            except StoreError:
                self._announced.set()
                await asyncio.sleep(_AUDIT_AGAIN)
            else:
                self._understood = news

    async def _audit(self) -> None:
        """Look again from time to time: another Sentinel, and the server itself."""
        while True:
            await asyncio.sleep(_AUDIT_INTERVAL if self._sound else _AUDIT_AGAIN)
            self._master.postpone(self._master.order()[0])
            try:
                wire = await self._opener.open(Wire, self._timeout)
            except StoreError:
                self._sound = False
            else:
                wire.abort()
                self._sound = self._listening
