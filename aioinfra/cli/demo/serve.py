"""The middle of a run: traffic and looks side by side, then silence until the queues are empty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aioinfra.cli.demo.ledger import Ledger
from aioinfra.cli.demo.monitor import EVERY, Monitor
from aioinfra.cli.demo.picture import Picture
from aioinfra.cli.demo.processes import Children
from aioinfra.cli.demo.traffic import Traffic
from aioinfra.cli.demo.view import View
from aioinfra.clock import SYSTEM_CLOCK

DRAIN_TIMEOUT: Final = 30.0  # seconds for the queues to become empty once the traffic has stopped


@dataclass(frozen=True, slots=True)
class Serving:
    """What works together while the demo serves. Owns none of it."""

    children: Children
    traffic: Traffic
    monitor: Monitor
    view: View
    picture: Picture
    ledger: Ledger

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set or the picture's seconds are over, then drain.

        Raises:
            ChildDiedError: a process ended by itself.
            OSError: a process does not answer.
            ValueError: a process answers something else than it should.
        """
        try:
            async with asyncio.TaskGroup() as group:
                following = group.create_task(self.traffic.follow())
                visiting = group.create_task(self.traffic.run(stop))
                self.picture.phase = "serving"
                await self._look_until(lambda: stop.is_set() or self._time_is_up(), stop)
                stop.set()
                await visiting
                self.picture.phase = "draining"
                deadline = SYSTEM_CLOCK.monotonic() + DRAIN_TIMEOUT
                await self._look_until(lambda: self._drained() or SYSTEM_CLOCK.monotonic() > deadline)
                following.cancel()
        except ExceptionGroup as group:
            raise _first(group) from group

    async def _look_until(self, done: Callable[[], bool], wake: asyncio.Event | None = None) -> None:
        """Look and draw, at least once; ``wake`` ends the wait between two looks."""
        while True:
            self.children.check()
            await self.monitor.look()
            self.view.show(self.picture)
            if done():
                return
            try:
                async with asyncio.timeout(EVERY):
                    await (wake or asyncio.Event()).wait()
            except TimeoutError:
                pass

    def _time_is_up(self) -> bool:
        return self.picture.seconds is not None and self.picture.elapsed >= self.picture.seconds

    def _drained(self) -> bool:
        """Nothing waits or runs, and every report has been seen finished by its reader."""
        busy = any(queue.waiting or queue.running for queue in self.picture.queues.values())
        return not busy and not self.ledger.unfinished()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
