"""Hearing of results: told by the worker's finish, not by polling.

An enqueue puts the name of the client's channel into the job's headers; the script that records results publishes
the jobs' ids there, and short results with them. The client listens on one connection, opened when a result is
first waited for. While that connection is down, and for jobs enqueued by others, waiting falls back to looking
every now and then.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from aioinfra.connection.pool import RedisClient
from aioinfra.connection.subscription import Subscription
from aioinfra.jobs.job import REPLY_PREFIX

_LOOK_WHEN_TOLD = 5.0
"""Seconds between looks while the channel is up: covers jobs that were enqueued without it."""
_LOOK_FIRST = 0.02
_LOOK_MOST = 0.5
_LENGTH_DIGITS = 9


class ReplyListener:
    """Wakes the tasks that wait for a job when the job ends. Owned by the client; one per event loop.

    Args:
        client: the server; owned by the caller.
        name: unique name of the channel; None listens to nothing, and whoever waits looks.

    Attributes:
        channel: its whole name.
    """

    def __init__(self, client: RedisClient, name: str | None) -> None:
        self.channel = None if name is None else REPLY_PREFIX + name
        self._waiting: defaultdict[str, set[Watch]] = defaultdict(set)
        self._subscription = (
            None
            if self.channel is None
            else Subscription(client, self.channel, self._told, self._resubscribed)
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen, from the first call on. Whoever waits already looks again when the channel is up."""
        if self._task is None and self._subscription is not None:
            self._task = asyncio.create_task(self._subscription.run(), name="aioinfra-replies")

    def watch(self, job_id: str) -> Watch:
        """A context in which the end of a job is heard."""
        return Watch(self, job_id)

    async def aclose(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def is_up(self) -> bool:
        """Whether the channel is subscribed right now."""
        return self._subscription is not None and self._subscription.is_up

    def _told(self, message: bytes) -> None:
        for job_id, result in read_message(message):
            for watch in self._waiting.get(job_id, ()):
                watch.tell(result)

    def _resubscribed(self) -> None:
        """After a gap anything may have ended: let every waiter look."""
        for watches in self._waiting.values():
            for watch in watches:
                watch.tell(None)

    def _add(self, job_id: str, watch: Watch) -> None:
        self._waiting[job_id].add(watch)

    def _remove(self, job_id: str, watch: Watch) -> None:
        watches = self._waiting[job_id]
        watches.discard(watch)
        if not watches:
            del self._waiting[job_id]


class Watch:
    """One task's interest in one job.

    Attributes:
        result: what the worker said of the job's end: its stored result, if it was short.
    """

    __slots__ = ("_event", "_job_id", "_listener", "_looks", "result")

    def __init__(self, listener: ReplyListener, job_id: str) -> None:
        self._listener = listener
        self._job_id = job_id
        self._event = asyncio.Event()
        self._looks = 0
        self.result: bytes | None = None

    def __enter__(self) -> Watch:
        self._listener._add(self._job_id, self)  # noqa: SLF001 - the listener's other half
        return self

    def __exit__(self, *_: object) -> None:
        self._listener._remove(self._job_id, self)  # noqa: SLF001 - the listener's other half

    def tell(self, result: bytes | None) -> None:
        """The job has ended, or may have; its result, if that came along."""
        self.result = self.result or result
        self._event.set()

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


def read_message(message: bytes) -> list[tuple[str, bytes | None]]:
    """The jobs that a message of finish.lua names, each with its result if that came along."""
    names, _, rest = message.partition(b"\n\0")
    ids = names.decode("utf-8", "surrogateescape").split("\n")
    results: list[bytes | None] = []
    while rest:
        length, colon, rest = rest.partition(b":")
        if not colon or not (length == b"-" or (length.isdigit() and len(length) <= _LENGTH_DIGITS)):
            break  # in no form of ours: whoever waits looks for itself
        size = 0 if length == b"-" else int(length)
        results.append(rest[:size] or None)
        rest = rest[size:]
    if len(results) != len(ids):
        results = [None] * len(ids)
    return list(zip(ids, results, strict=True))
