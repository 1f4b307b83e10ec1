"""Hands calls to connections: an idle one at once, else the next that becomes free, else a new one.

A call waits, not a caller: what is queued is the packed command with its future, so that no connection is
ever passed to a task that may have been cancelled meanwhile. Connections are opened by tasks of the
dispatcher, side by side and outside of any lock: a hung server costs every caller one timeout, not a queue of
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from aioinfra.connection.opener import Opener
from aioinfra.connection.wire import MOST_REPLY_BYTES, Call, Wire
from aioinfra.errors import DeadlineExceeded, InvalidArgument, PoolExhausted, StoreError, StoreUnavailable


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """Bounds of one pool.

    Attributes:
        max_connections: at most so many connections at once.
        socket_timeout: seconds for one reply, the write included; bounds every call by itself. A large call may
            take longer by what it has transferred, at 4 MiB/s, up to 10 s.
        connect_timeout: seconds to connect and greet.
        acquire_timeout: seconds that a call may wait for a connection.
        max_reply_bytes: of the replies of one call together, as they come or by what they announce (an array at 3
            bytes an element); beyond, the call ends with ReplyTooLarge and its connection is closed. The default is
            the server's own bound of one value.
    """

    max_connections: int = 50
    socket_timeout: float = 2.0
    connect_timeout: float = 1.0
    acquire_timeout: float = 1.0
    max_reply_bytes: int = MOST_REPLY_BYTES

    def __post_init__(self) -> None:
        for name in ("max_connections", "max_reply_bytes"):
            count: object = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise InvalidArgument(name, "must be a whole number of at least 1")
        for name in ("socket_timeout", "connect_timeout", "acquire_timeout"):
            check_seconds(name, getattr(self, name))


def check_seconds(name: str, value: object) -> None:
    """Raise InvalidArgument unless ``value`` is a finite number of seconds above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidArgument(name, "must be a finite number of seconds above 0")


DEFAULT_OPTIONS: Final = PoolOptions()

_PAUSE_AFTER_REFUSAL: Final = 0.25  # seconds until the next attempt, while other connections serve the calls


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """A pool's state now. ``size`` counts connections being opened; ``in_use`` is all that are not idle.

    ``switches`` is how often the client has followed its master to another server (Sentinel).
    """

    size: int
    in_use: int
    idle: int
    max_connections: int
    switches: int = 0


class Dispatcher:
    """The connections of one address on one loop. Not thread-safe; owned by a RedisClient."""

    def __init__(self, loop: asyncio.AbstractEventLoop, opener: Opener, options: PoolOptions) -> None:
        self.loop = loop
        self._opener = opener
        self._options = options
        self._wires: set[Wire] = set()
        self._idle: list[Wire] = []
        self._queue: deque[Call] = deque()
        self._queue_timer: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None  # until then no attempt, while connections live
        self._refused = False  # the last attempt failed: the next is a single one, while connections live
        self._failure: StoreError | None = None  # of the last attempt, until a connection answers
        self._quiet: asyncio.Future[None] | None = None

    @property
    def crowded(self) -> bool:
        """Whether a waiting call waits for other calls, not for a connection to be opened.

        Where none can be opened, those calls may be hung as well: that is no crowd until one of them is answered.
        """
        return bool(self._wires) and not self._opening and self._failure is None

    def figures(self) -> PoolFigures:
        size = len(self._wires) + len(self._opening)
        idle = len(self._idle)
        return PoolFigures(size, size - idle, idle, self._options.max_connections)

    def submit(self, call: Call) -> None:
        """Send now, or as soon as a connection is there. The call's future is settled in any case."""
        idle = self._idle
        while idle:
            wire = idle.pop()
            if wire.usable:
                wire.start(call)
                return
        call.queued_at = self.loop.time()
        self._queue.append(call)
        if self._queue_timer is None:
            self._arm()
        self._grow()

    # Owner of the wires

    def free(self, wire: Wire) -> None:
        """The wire's call has ended: give it the next one, or keep it."""
        if not wire.usable:
            return
        self._failure = None
        call = self._next_call()
        if call is not None:
            wire.start(call)
            return
        self._idle.append(wire)
        if self._quiet is not None:
            self._tell_quiet()

    def turned_away(self, wire: Wire, call: Call, error: StoreError) -> None:
        """The server took no such client: it has read nothing, so the call goes to another connection.

        With none left it fails, and so do those that were turned away before and waited for the others.
        """
        self._wires.discard(wire)
        self._hold()
        call.refusal, call.sent, call.wire = error, False, None
        call.queued_at = call.queued_at or self.loop.time()  # it may never have waited
        self._queue.appendleft(call)
        if self._queue_timer is None:
            self._arm()
        while not self._wires and self._queue and self._queue[0].refusal is not None:
            self._queue[0].fail(self._queue.popleft().refusal or error)

    def accepted(self) -> None:
        """A new connection has got its first answer."""
        self._refused = False
        self._grow()

    def lost(self, wire: Wire) -> None:
        """The wire is gone."""
        self._wires.discard(wire)
        if wire in self._idle:
            self._idle.remove(wire)
        self._grow()
        if self._quiet is not None:
            self._tell_quiet()

    # The queue

    def _next_call(self) -> Call | None:
        """The oldest call whose caller still waits."""
        while self._queue:
            call = self._queue.popleft()
            if not call.future.done():
                return call
        return None

    def _arm(self) -> None:
        if self._queue:
            due = self._queue[0].queued_at + self._options.acquire_timeout
            self._queue_timer = self.loop.call_at(due, self._expire_queue)

    def _expire_queue(self) -> None:
        self._queue_timer = None
        seconds = self._options.acquire_timeout
        # The loop may call a timer early by its clock's resolution.
        horizon = self.loop.time() - seconds + 0.001
        while self._queue and self._queue[0].queued_at <= horizon:
            self._queue.popleft().fail(self._no_connection(seconds))
        self._arm()

    def _no_connection(self, seconds: float) -> StoreUnavailable:
        if self._opening:
            return DeadlineExceeded(
                f"{self._opener.location}: not connected within {seconds:g} s", sent=False
            )
        if self._failure is not None:
            return StoreUnavailable(str(self._failure), sent=False)
        limit = self._options.max_connections
        return PoolExhausted(f"none of {limit} connections became free within {seconds:g} s", sent=False)

    # Opening

    def _grow(self) -> None:
        """Open connections for the calls that wait, within the limit."""
        room = self._options.max_connections - len(self._wires) - len(self._opening)
        if self._wires and self._refused:
            room = 0 if self._pause is not None else min(room, 1 - len(self._opening))
        for _ in range(min(room, len(self._queue) - len(self._opening))):
            task = self.loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self._grow()
        if self._quiet is not None:
            self._tell_quiet()

    async def _open(self) -> None:
        try:
            wire = await self._opener.open(Wire, self._options.connect_timeout)
        except StoreError as error:
            self._refuse(error)
            return
        self._refused = self._refused and not wire.proven
        wire.owner = self
        wire.most = self._options.max_reply_bytes
        self._wires.add(wire)
        self.free(wire)

    def _refuse(self, error: StoreError) -> None:
        self._hold()
        self._failure = error
        if self._wires:  # they serve who waits
            return
        # The oldest caller learns of this failure; the others have attempts of their own under way.
        call = self._next_call()
        if call is not None:
            call.fail(error)

    def _hold(self) -> None:
        """An attempt failed: no further one for a while, as long as connections live."""
        self._refused = True
        if self._pause is None:
            self._pause = self.loop.call_later(_PAUSE_AFTER_REFUSAL, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._grow()

    # Closing

    async def aclose(self, grace: float) -> None:
        """Wait up to ``grace`` seconds for calls under way and waiting, then drop what is left."""
        self._quiet = self.loop.create_future()
        self._tell_quiet()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._quiet
        finally:
            self._drop_all()
        if self._opening:
            await asyncio.wait(self._opening)
        if self._wires:
            await asyncio.wait([wire.closed for wire in self._wires], timeout=self._options.connect_timeout)

    def _tell_quiet(self) -> None:
        busy = len(self._wires) > len(self._idle) or self._opening or self._queue
        if self._quiet is not None and not self._quiet.done() and not busy:
            self._quiet.set_result(None)

    def _drop_all(self) -> None:
        for timer in (self._queue_timer, self._pause):
            if timer is not None:
                timer.cancel()
        while (call := self._next_call()) is not None:
            call.fail(StoreUnavailable("the client was closed", sent=False))
        for task in self._opening:
            task.cancel()
        for wire in list(self._wires):
            if wire in self._idle:
                wire.close()
            else:
                wire.abort()
        self._idle.clear()
