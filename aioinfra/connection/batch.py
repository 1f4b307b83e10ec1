"""Many small calls as few large ones: one batch in flight, the next one gathering behind it.

The first item starts a task that takes what has gathered by the time it runs, so all calls of one loop tick
leave together; what arrives while that batch is in flight leaves as the next one. Batches grow with the load
by themselves and a lone call waits for nobody. Scheme: "smart batching", M. Thompson, 2011.
"""

from __future__ import annotations

import asyncio
import copy
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from itertools import compress
from typing import Final, Generic, TypeVar

from aioinfra.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LifecycleError,
    Overloaded,
    StoreError,
    StoreUnavailable,
    WrongEventLoop,
)

Item = TypeVar("Item")
Reply = TypeVar("Reply")

_TIMER_SLACK: Final = 0.001  # seconds; what is due so soon ends with what is due now
_STALLED: Final = (
    0.01  # seconds that a timer is late when the loop was blocked; it is then given as much again
)
_PATIENCE: Final = 40  # deadlines that an item waits behind batches which all end in time
_CLOSE_TIMEOUT: Final = 5.0
_MOST_LATE: Final = 2  # batches whose time is over, beside the one in flight


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one batcher.

    Attributes:
        max_items: items in one batch.
        max_bytes: bytes in one batch, by ``size_of``; an item larger than this leaves alone.
        max_waiting: items behind the batch in flight.
    """

    max_items: int = 1000
    max_bytes: int = 1 << 20
    max_waiting: int = 100_000

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidArgument(name, "must be a whole number of at least 1")


DEFAULT_LIMITS: Final = BatchLimits()


class Batcher(Generic[Item, Reply]):
    """Collects items and sends them in batches, one batch at a time. Belongs to one event loop.

    That is ``loop``, else the loop of its first item; one that was closed, or whose batch ``send`` refused
    with WrongEventLoop, is let go of, so that a stray use spoils nothing for later ones.

    Args:
        send: takes a batch and returns one reply an item, in order; an exception in a reply's place ends that
            item alone, a raised one ends the whole batch. Never cancelled by a caller, so it bounds itself.
            Runs in an empty context: a batch belongs to no single caller.
        limits: bounds of a batch and of the queue.
        size_of: bytes of an item, for ``max_bytes``.
        deadline: seconds that a batch in flight may take. Then its items end with DeadlineExceeded, and so do
            (``sent=False``) those behind it, each when the same time has passed since its `submit`. The batch
            in flight goes on, and the next one leaves beside it, as long as no more than two are late: it may
            be the connection that is silent, and not the server. Waiting behind batches that end in time is
            back pressure and no fault of the server: that ends after 40 deadlines, with Overloaded.
        allowance: asked when the batch in flight is due: seconds that it may take beyond the deadline, for
            what has been transferred so far.
        loop: the loop it belongs to.
    """

    def __init__(
        self,
        send: Callable[[list[Item]], Awaitable[Sequence[Reply | BaseException]]],
        limits: BatchLimits = DEFAULT_LIMITS,
        *,
        size_of: Callable[[Item], int] | None = None,
        deadline: float | None = None,
        allowance: Callable[[], float] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if deadline is not None:
            _check_deadline(deadline)
        self._send = send
        self._limits = limits
        self._size_of = size_of
        self._deadline = deadline
        self._allowance = allowance
        self._loop = loop
        self._closed = False
        self._drain: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: _Group[Item, Reply] = _Group()
        self._flight: _Group[Item, Reply] = _Group()
        self._flight_due = 0.0
        self._late: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Items that wait behind the batch in flight."""
        return len(self._waiting.items)

    def submit(self, item: Item) -> asyncio.Future[Reply]:
        """Queue one item and return its future. O(1), no await; cancelling the future affects nobody else.

        An error whose future nobody awaits is not logged.

        Raises:
            Overloaded: ``max_waiting`` items wait already.
            LifecycleError, WrongEventLoop: closed, or another loop's.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._closed:
            self._bind(loop)
        waiting = self._waiting
        if len(waiting.items) >= self._limits.max_waiting:
            raise Overloaded(f"{self._limits.max_waiting} items wait behind the batch in flight")
        future: asyncio.Future[Reply] = loop.create_future()
        waiting.items.append(item)
        waiting.futures.append(future)
        if self._deadline is not None:
            due = loop.time() + self._deadline
            waiting.dues.append(due)
            if self._timer is None:
                self._timer = loop.call_at(due, self._expire)
        if self._drain is None:
            self._start(loop)
        return future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._drain = loop.create_task(self._run(), context=Context())
        self._drain.add_done_callback(self._drained)

    async def settled(self) -> None:
        """Return when nothing is under way, not even what its callers have given up."""
        while drains := {*self._late, *([] if self._drain is None else [self._drain])}:
            await asyncio.wait(drains)

    async def aclose(self, timeout: float = _CLOSE_TIMEOUT) -> None:
        """Refuse new items and wait up to ``timeout`` seconds for the others; what is left then fails."""
        self._closed = True
        drains = {*self._late, *([] if self._drain is None else [self._drain])}
        if drains and self._loop is asyncio.get_running_loop():
            try:
                await asyncio.wait(drains, timeout=timeout)
            finally:
                for drain in drains:
                    drain.cancel()
                self._waiting.fail_all(StoreUnavailable("the batcher was closed", sent=False))
            await asyncio.wait(drains, timeout=timeout)
        if self._timer is not None:
            self._timer.cancel()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._closed:
            raise LifecycleError("the batcher is closed")
        if self._loop is not None:
            if not self._loop.is_closed():
                raise WrongEventLoop("the batcher belongs to another event loop: make one per loop")
            # What is left of a closed loop: nobody waits for it, and its task will never run again.
            self._drain = self._timer = None
            self._waiting, self._flight = _Group(), _Group()
            self._late.clear()
        self._loop = loop

    def _drained(self, drain: asyncio.Task[None]) -> None:
        """A task cancelled before its first step has never entered `_run`, and so not cleared up after it."""
        self._late.discard(drain)
        if self._drain is drain:
            self._drain = None
            self._abandon()

    def _abandon(self) -> None:
        """The drain was cancelled: who waits would wait for ever."""
        abandoned, self._waiting = self._waiting, _Group()
        abandoned.fail_all(StoreUnavailable("the batch was cancelled", sent=False))

    async def _run(self) -> None:
        me = asyncio.current_task()
        try:
            while self._waiting.items:
                self._flight = batch = self._take()
                if batch.items:
                    await self._exchange(batch)
                    if self._drain is not me:
                        return  # it was late, and another one has taken over
        except asyncio.CancelledError:
            if self._drain is me:
                self._abandon()
            raise
        except Exception as error:  # noqa: BLE001 - a size_of that raises must not leave callers waiting
            failed, self._waiting = self._waiting, _Group()
            failed.fail_all(error)
        finally:
            # No await since the last look at the queue: a submit in between would find nobody to send it.
            if self._drain is me:
                self._drain = None
                self._flight = _Group()

    def _take(self) -> _Group[Item, Reply]:
        """The next batch within the limits, without items whose caller has gone."""
        waiting = self._waiting
        limits = self._limits
        count = len(waiting.items)
        if count > limits.max_items:
            count = limits.max_items
        if self._size_of is not None:
            count = self._fitting(waiting.items, count)
        if self._deadline is not None and self._loop is not None:
            self._flight_due = self._loop.time() + self._deadline
        if count == len(waiting.items):
            self._waiting = _Group()
            return waiting.alive()
        return waiting.split(count).alive()

    def _fitting(self, items: list[Item], count: int) -> int:
        assert self._size_of is not None  # noqa: S101 - narrows the type
        total = 0
        for index in range(count):
            total += self._size_of(items[index])
            if total > self._limits.max_bytes:
                return max(1, index)
        return count

    async def _exchange(self, batch: _Group[Item, Reply]) -> None:
        try:
            replies = await self._send(batch.items)
        except asyncio.CancelledError:
            batch.fail_all(StoreUnavailable("the batch was cancelled"))
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        except Exception as error:  # noqa: BLE001 - every caller of the batch gets it
            batch.fail_all(error)
            if isinstance(error, WrongEventLoop) and not self._waiting.items:
                self._unbind()
        else:
            batch.settle(replies)

    def _expire(self) -> None:
        """End what is due; one timer serves all items, and looks again when the oldest one left is due."""
        assert self._loop is not None  # noqa: S101 - narrows the type
        assert self._timer is not None  # noqa: S101 - this is its callback
        assert self._deadline is not None  # noqa: S101 - there is no timer without one
        late = self._loop.time() - self._timer.when()
        if late > _STALLED:
            # The loop stood still, so replies may lie in the sockets unread: a slow process is no dead server. On
            # a starved machine the server stood still as long.
            # The connection's own timeout bounds the call in any case.
            self._timer = self._loop.call_later(min(late, self._deadline), self._expire)
            return
        now = self._loop.time()
        flight_due = self._flight_due + (self._allowance() if self._allowance is not None else 0.0)
        if not self._flight.items:  # the next batch is about to leave
            self._tire(now)
            look = now + _STALLED if self._waiting.items else None
        elif flight_due > now + _TIMER_SLACK:
            self._tire(now)
            look = min(flight_due, now + self._deadline)  # no later batch is due before that
        else:
            self._fail_due(now + _TIMER_SLACK)
            look = self._waiting.dues[0] if self._waiting.items else None
        self._timer = self._loop.call_at(look, self._expire) if look is not None else None

    def _fail_due(self, now: float) -> None:
        """The batch in flight is late: end it, and what has waited as long behind it."""
        text = f"no answer within {self._deadline:g} s"
        _fail(self._flight.futures, DeadlineExceeded(text))
        waiting = self._waiting.split(self._waiting.due_until(now))
        _fail(waiting.futures, DeadlineExceeded(text, sent=False))
        if self._drain is not None and self._loop is not None and len(self._late) < _MOST_LATE:
            self._late.add(self._drain)
            self._drain, self._flight = None, _Group()
            if self._waiting.items:
                self._start(self._loop)

    def _tire(self, now: float) -> None:
        """End what has waited for too long although the server answers."""
        assert self._deadline is not None  # noqa: S101 - narrows the type
        most = self._deadline * _PATIENCE
        waiting = self._waiting.split(self._waiting.due_until(now + self._deadline - most))
        if waiting.items:
            _fail(waiting.futures, Overloaded(f"not sent within {most:g} s: too many calls wait"))

    def _unbind(self) -> None:
        """Belong to no loop again: this one is not the one that ``send`` works on."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Group(Generic[Item, Reply]):
    """Items, their futures and their due times (empty without a deadline), oldest first."""

    __slots__ = ("dues", "futures", "items")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.futures: list[asyncio.Future[Reply]] = []
        self.dues: list[float] = []

    def split(self, count: int) -> _Group[Item, Reply]:
        """Take the oldest ``count`` items out."""
        taken: _Group[Item, Reply] = _Group()
        taken.items, taken.futures, taken.dues = self.items[:count], self.futures[:count], self.dues[:count]
        del self.items[:count], self.futures[:count], self.dues[:count]
        return taken

    def alive(self) -> _Group[Item, Reply]:
        """Drop what nobody waits for any more."""
        keep = [not future.done() for future in self.futures]
        if not all(keep):
            self.items = list(compress(self.items, keep))
            self.futures = list(compress(self.futures, keep))
            self.dues = list(compress(self.dues, keep))
        return self

    def due_until(self, now: float) -> int:
        """How many of the oldest items are due."""
        return bisect_right(self.dues, now)

    def settle(self, replies: Sequence[Reply | BaseException]) -> None:
        if len(replies) != len(self.futures):
            self.fail_all(StoreError(f"{len(replies)} replies to a batch of {len(self.futures)}"))
            return
        for future, reply in zip(self.futures, replies, strict=True):
            if not future.done():
                if isinstance(reply, BaseException):
                    _fail([future], reply)
                else:
                    future.set_result(reply)

    def fail_all(self, error: BaseException) -> None:
        _fail(self.futures, error)


def _fail(futures: Sequence[asyncio.Future[Reply]], error: BaseException) -> None:
    """Give each future an error of its own: a shared one would collect every caller's traceback."""
    for future in futures:
        if not future.done():
            future.set_exception(_twin(error) if len(futures) > 1 else error)
            future.exception()  # counts as retrieved: the caller may have gone without cancelling


def _twin(error: BaseException) -> BaseException:
    try:
        twin = copy.copy(error)
    except Exception:  # noqa: BLE001 - an exception class with a signature that copy cannot follow
        return error
    return twin if type(twin) is type(error) else error


def _check_deadline(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InvalidArgument("deadline", "must be a finite number of seconds above 0")
