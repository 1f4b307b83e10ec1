"""Connections to whichever server the Sentinels, or a Cluster's nodes (`cluster`), call the master.

Every new connection asks them, and counts only when the server says of itself that it is a master. When a later
failover is heard of, from a Sentinel asked or from the announcement that `MasterWatch` waits for, the connections
to the old master are dropped at once: a server that was paused and comes back is not believed.

Asynchronous replication stays what it is: what the old master acknowledged and did not pass on is lost.

Protocol: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

from aioinfra.clock import SYSTEM_CLOCK
from aioinfra.connection.address import Address
from aioinfra.connection.cluster import SlotMaster, SlotWatch
from aioinfra.connection.dispatch import Dispatcher, PoolFigures, PoolOptions
from aioinfra.connection.master import ROLE_COMMAND, TRUST, Master, Place, leads
from aioinfra.connection.opener import Opener, WireT
from aioinfra.connection.sentinel_watch import MasterWatch
from aioinfra.connection.translate import open_error
from aioinfra.connection.wire import Argument, Call, Wire
from aioinfra.errors import InvalidArgument, StoreError, StoreUnavailable

_STAGGER: Final = 0.1
"""Seconds without an answer after which the next Sentinel is asked as well."""
_ASK_AGAIN: Final = 0.05
"""Seconds until the Sentinels are asked again, when the server that they named is not a master."""


class MasterOpener(Opener):
    """Makes connections to the master, and drops them when it has moved.

    Args:
        address: with Sentinels.
        master: what is known of the master; shared with the client's other connections.
        timeout: seconds to connect and greet, also a Sentinel.
    """

    def __init__(self, address: Address, master: Master, timeout: float) -> None:
        super().__init__(address)
        if not address.members:
            raise InvalidArgument("address", "has nobody to ask for a master")
        self._members = address.members
        self._timeout = timeout
        self.master = master
        self._wires: dict[Wire, Place] = {}
        self._lookup: asyncio.Task[Place] | None = None
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        following = isinstance(self.master, SlotMaster)
        watch = SlotWatch(self, self.master) if following else MasterWatch(self, self.master, self._timeout)
        self._watch = asyncio.get_running_loop().create_task(watch.run())

    async def aclose(self) -> None:
        tasks = [task for task in (self._watch, self._lookup) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._watch = self._lookup = None

    # The master

    async def _greeted(self, make: Callable[[asyncio.AbstractEventLoop], WireT], timeout: float) -> WireT:
        while True:
            place = await self._named()
            try:
                return await self._open_at(place, make, timeout)
            except StoreError:
                if self.master.place == place:
                    raise
            except _NotMaster:
                self._drop(place, "the server is no longer a master")
                self.master.postpone(self.master.order()[0])
                await asyncio.sleep(_ASK_AGAIN)

    async def _open_at(
        self, place: Place, make: Callable[[asyncio.AbstractEventLoop], WireT], timeout: float
    ) -> WireT:
        """A connection that is dropped from now on when the master moves, also while it greets."""
        made: list[Wire] = []

        def registered(loop: asyncio.AbstractEventLoop) -> WireT:
            wire = make(loop)
            made.append(wire)
            self._wires[wire] = place
            wire.closed.add_done_callback(lambda _: self._wires.pop(wire, None))
            return wire

        try:
            wire, [role] = await self._connect(self._address.at(place), registered, timeout, [ROLE_COMMAND])
            if isinstance(role, StoreError):
                raise role
            if not leads(role):
                wire.abort()
                raise _NotMaster
        except BaseException:
            for wire_made in made:
                self._wires.pop(wire_made, None)
            raise
        return wire

    def drop_moved(self) -> None:
        """Drop all connections to where the master is no longer. Their calls end as StoreUnavailable."""
        now = self.master.place
        for place in {place for place in self._wires.values() if place != now}:
            self._drop(place, "the master has moved")
        for connection in list(self.master.connections):
            if connection.place != now:
                connection.sever()

    def _drop(self, place: Place, reason: str) -> None:
        for wire in [wire for wire, at in self._wires.items() if at == place]:
            wire.abort(StoreUnavailable(reason))

    # The Sentinels

    async def _named(self) -> Place:
        """Where the Sentinels say that the master is. Those who ask at once share the answer."""
        if self._lookup is None or self._lookup.done():
            self._lookup = _started(self._look_up())
        return await asyncio.shield(self._lookup)

    async def _look_up(self) -> Place:
        """Ask one Sentinel after the other, without waiting for long; the first good answer counts."""
        error: StoreError = StoreUnavailable("none was asked")
        waiting: set[asyncio.Task[Place]] = set()
        left = self.master.order()
        try:
            async with asyncio.timeout(self._timeout):
                while left or waiting:
                    if left:
                        waiting.add(_started(self.ask(left.pop(0))))
                    bound = _STAGGER if left else None
                    done, waiting = await asyncio.wait(
                        waiting, timeout=bound, return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in done:
                        try:
                            return task.result()
                        except StoreError as failure:
                            error = failure
        except TimeoutError:
            error = StoreUnavailable("they did not answer in time")
        finally:
            for task in waiting:
                task.cancel()
            if waiting:
                await asyncio.wait(waiting)
        raise StoreUnavailable(f"{self.master.source} name no master ({error})", sent=False)

    async def ask(self, member: int) -> Place:
        """What one Sentinel says; connections to elsewhere are dropped.

        Raises:
            StoreError: it does not answer, knows no such master, or is behind the others.
        """
        asked_at = SYSTEM_CLOCK.monotonic()
        wire, replies = await self.sentinel(member, Wire, self.master.question())
        wire.abort()
        found = self.master.read(replies)
        self.master.accept(member, found, asked_at)
        self.drop_moved()
        return found.place

    async def sentinel(
        self,
        member: int,
        make: Callable[[asyncio.AbstractEventLoop], WireT],
        then: Sequence[Sequence[Argument]],
    ) -> tuple[WireT, list[Any]]:
        """A connection to one Sentinel, and its answers to ``then``. The caller closes it. Raises StoreError."""
        address = self._members[member]
        try:
            async with asyncio.timeout(self._timeout):
                return await self._connect(address, make, self._timeout, then)
        except Exception as error:  # noqa: BLE001 - as in `open`: whatever it is, somebody waits for it
            failure = open_error(error, address.location)
        raise failure


class MasterDispatcher(Dispatcher):
    """Uses a connection that was at rest only while somebody can say that it still leads to the master."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, opener: Opener, options: PoolOptions, master: Master
    ) -> None:
        super().__init__(loop, opener, options)
        self._master = master
        self._rested: dict[Wire, float] = {}  # since when

    def figures(self) -> PoolFigures:
        return replace(super().figures(), switches=self._master.switches)

    def submit(self, call: Call) -> None:
        if self._idle:
            # The last one has rested for the shortest time: when it is in doubt, all are.
            since = max(self._rested[self._idle[-1]], self._master.vouched_at)
            if self.loop.time() - since > TRUST:
                self._close_idle()
        super().submit(call)

    def free(self, wire: Wire) -> None:
        self._rested[wire] = self.loop.time()
        super().free(wire)

    def lost(self, wire: Wire) -> None:
        self._rested.pop(wire, None)
        self._close_idle()  # a call had no answer, or the server goes: what rests is to be opened anew
        super().lost(wire)

    def _close_idle(self) -> None:
        for wire in self._idle:
            wire.close()
        self._idle.clear()


class _NotMaster(Exception):
    """The server that the Sentinels named is none."""


def _started(work: Coroutine[Any, Any, Place]) -> asyncio.Task[Place]:
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_heed)
    return task


def _heed(task: asyncio.Task[Place]) -> None:
    """Nobody may wait for a failure any more."""
    if not task.cancelled():
        task.exception()
