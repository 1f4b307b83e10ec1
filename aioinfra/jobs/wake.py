"""When to look at the queues: told of changes by the server, or because something is due.

The queues' keys are tracked (server-assisted invalidation), so that an enqueue by anybody, a plain arq producer
included, wakes the worker without polling and without any setting on the server. Due times and a slow safety
poll are timers: where tracking is refused, a deferred job is still on time and a new one is seen by the poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aioinfra.connection.pool import RedisClient
from aioinfra.connection.tracking import TrackingListener


class Wake:
    """One worker's alarm. `run` belongs to the worker's task group.

    Args:
        client: the jobs server; owned by the caller.
        queues: names of the queues.
    """

    def __init__(self, client: RedisClient, queues: Sequence[str]) -> None:
        self._keys = frozenset(queue.encode() for queue in queues)
        self._event = asyncio.Event()
        self._listener = TrackingListener(client, list(queues), self._changed)

    async def run(self) -> None:
        """Listen until cancelled."""
        await self._listener.run()

    def notify(self) -> None:
        """Wake the worker for a reason of its own: a slot has become free, it is to stop."""
        self._event.set()

    def clear(self) -> None:
        """Forget what has been heard; call it before looking, so that nothing heard while looking is lost."""
        self._event.clear()

    async def wait(self, timeout: float) -> bool:
        """Wait to be woken, at most ``timeout`` seconds; whether it was a message rather than the time."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        return True

    def _changed(self, keys: Sequence[bytes] | None) -> None:
        if keys is None or not self._keys.isdisjoint(keys):
            self._event.set()
