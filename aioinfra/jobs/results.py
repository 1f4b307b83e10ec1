"""Waiting for results: told by the worker's finish, not by polling.

An enqueue puts the name of the client's channel into the job's headers; the script that records the result
publishes the job's id there. The client listens on one connection, opened when a result is first waited for.
While that connection is down, and for jobs enqueued by others, waiting falls back to looking every now and then.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from aioinfra.connection.pool import RedisClient
from aioinfra.connection.subscription import Subscription

REPLY_PREFIX = "aioinfra:reply:"

_LOOK_WHEN_TOLD = 5.0
"""Seconds between looks while the channel is up: covers jobs that were enqueued without it."""
_LOOK_FIRST = 0.02
_LOOK_MOST = 0.5


class ReplyListener:
    """Wakes the tasks that wait for a job when the job ends. Owned by the client; one per event loop.

    Args:
        client: the server; owned by the caller.
        name: unique name of the channel.
    """

    def __init__(self, client: RedisClient, name: str) -> None:
        self.channel = REPLY_PREFIX + name
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._subscription = Subscription(client, [self.channel], self._told, self._resubscribed)
        self._task: asyncio.Task[None] | None = None

    async def start(self, timeout: float = 1.0) -> bool:
        """Listen, from the first call on; answers whether the channel is up. Waits at most ``timeout`` seconds."""
        if self._task is None:
            self._task = asyncio.create_task(self._subscription.run(), name="aioinfra-replies")
        return await self._subscription.wait_up(timeout)

    def watch(self, job_id: str) -> Watch:
        """A context in which the end of a job sets an event."""
        return Watch(self, job_id)

    async def aclose(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    @property
    def is_up(self) -> bool:
        """Whether the channel is subscribed right now."""
        return self._subscription.is_up

    def _told(self, _channel: bytes, message: bytes) -> None:
        for event in self._waiting.get(message.decode("utf-8", "surrogateescape"), ()):
            event.set()

    def _resubscribed(self) -> None:
        """After a gap anything may have ended: let every waiter look."""
        for events in self._waiting.values():
            for event in events:
                event.set()

    def _add(self, job_id: str, event: asyncio.Event) -> None:
        self._waiting[job_id].add(event)

    def _remove(self, job_id: str, event: asyncio.Event) -> None:
        events = self._waiting[job_id]
        events.discard(event)
        if not events:
            del self._waiting[job_id]


class Watch:
    """One task's interest in one job."""

    __slots__ = ("_event", "_job_id", "_listener", "_looks")

    def __init__(self, listener: ReplyListener, job_id: str) -> None:
        self._listener = listener
        self._job_id = job_id
        self._event = asyncio.Event()
        self._looks = 0

    def __enter__(self) -> Watch:
        self._listener._add(self._job_id, self._event)  # noqa: SLF001 - the listener's other half
        return self

    def __exit__(self, *_: object) -> None:
        self._listener._remove(self._job_id, self._event)  # noqa: SLF001 - the listener's other half

    async def wait(self) -> None:
        """Return when it is time to look again: told, or after a while."""
        pause = min(_LOOK_FIRST * 2**self._looks, _LOOK_MOST)
        if self._listener.is_up:
            pause = _LOOK_WHEN_TOLD
        self._looks = min(self._looks + 1, 10)
        try:
            async with asyncio.timeout(pause):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()
