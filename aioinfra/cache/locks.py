"""Locks of the fleet: a lease that its holder renews, and a fence that tells later holders from earlier ones.

A lease cannot stop a holder that was paused for longer than it: only what the holder writes to can, by refusing a
fence lower than one it has seen. The local judgement is the careful one: the lease counts from before the question
that got it, so a holder knows of its loss no later than the server lets others in, clocks running alike.

Fencing: M. Kleppmann, "How to do distributed locking", 2016.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from types import TracebackType
from typing import Final, Self

from aioinfra.cache.completed import completed
from aioinfra.cache.lock_gate import Gates
from aioinfra.cache.lock_store import LockStore
from aioinfra.cache.wakes import Wakes
from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.codec.bounds import check_number
from aioinfra.errors import AioinfraError, LifecycleError, LockLost, LockTimeout, StoreError, StoreUnavailable

LEAST_LEASE: Final = 0.05
MOST_LEASE: Final = 86_400.0
_MOST_WAIT: Final = 86_400.0 * 366
_REPEATS: Final = 2
_SPREAD: Final = 0.02  # seconds over which the waiters of a fleet ask once a lease has lapsed


class Lock:
    """One lock, for one holder at a time. May be taken again after its release.

    ::

        async with cache.lock("import", lease=5) as lock:
            await warehouse.write(rows, fence=lock.fence)

    Attributes:
        name: of the lock.
        lost: set when the lease ended although the lock was not released. Nothing is cancelled: whoever holds it
            decides what to stop.
    """

    def __init__(self, locks: Locks, key: str, name: str, lease: float, wait: float | None) -> None:
        self.name = name
        self.lost = asyncio.Event()
        self._locks = locks
        self._key = key
        self._lease = lease
        self._wait = wait
        self._token = ""
        self._fence = 0
        self._ends = 0.0  # of the lease, monotonic
        self._taking = False
        self._renewal: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Lock({self.name!r}, {'held' if self.held else 'not held'})"

    @property
    def held(self) -> bool:
        """Whether it is held now: taken, not released, not lost."""
        return self._renewal is not None and not self.lost.is_set() and self._locks.now() < self._ends

    @property
    def fence(self) -> int:
        """Above the fence of every earlier holder; to be handed to what the holder writes to.

        Raises:
            LifecycleError: it was never taken.
        """
        if not self._fence:
            raise LifecycleError(f"the lock {self.name!r} was not taken")
        return self._fence

    async def acquire(self, timeout: float | None = None) -> bool:
        """Take the lock; False when it did not become free.

        Cancelling it leaves no lock behind: an answer under way is awaited, for at most some store budgets, and
        what it granted is released.

        Args:
            timeout: seconds to wait, 0 to ask once; None for ``wait``, and without one for no bound.

        Raises:
            LifecycleError: this object holds it, or is taking it; the cache is closed.
            StoreUnavailable: the server cannot say.
            StoreError: its answer.
        """
        seconds = self._wait if timeout is None else check_wait("timeout", timeout)
        if self._taking or self._renewal is not None:
            raise LifecycleError(
                f"the lock {self.name!r} is taken by this object already: it is not reentrant"
            )
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._taking = True
        self._token = secrets.token_hex(
            16
        )  # a call of an earlier time that lands late must not touch this one
        gate = self._locks.gates.take(self._key)
        try:
            if not await gate.enter(deadline):
                return False
            try:
                return await self._take(deadline)
            finally:
                gate.leave()
        finally:
            self._locks.gates.drop(self._key)
            self._taking = False

    async def release(self) -> bool:
        """Free the lock. False when it was lost before.

        Ends although its caller is cancelled, and raises the cancellation then.

        Raises:
            LifecycleError: it is not taken.
            StoreUnavailable: the server did not confirm; the lock is free when its lease ends.
        """
        if self._renewal is None:
            raise LifecycleError(f"the lock {self.name!r} is not taken")
        renewal, self._renewal = self._renewal, None
        return await completed(self._free(renewal))

    async def __aenter__(self) -> Self:
        if not await self.acquire():
            raise LockTimeout(f"the lock {self.name!r} was not free within {self._wait:g} s")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release.

        Raises:
            LockLost: it was lost while the block ran, and the block raised nothing.
            StoreUnavailable: as `release`, when the block raised nothing.
        """
        if self._renewal is None:  # the block has released it
            return
        try:
            kept = await self.release()
        except StoreError:
            if error is None:
                raise
            return
        if not kept and error is None:
            raise LockLost(f"the lock {self.name!r} was lost before it was released")

    # Taking

    async def _take(self, deadline: float | None) -> bool:
        """Ask until it is granted; the turn of this process is ours."""
        loop = asyncio.get_running_loop()
        # Listening begins before the question, so that no change between its answer and the wait is missed.
        with self._locks.wakes.listen(self._key) as waiter:
            while True:
                self._locks.check_open()
                left = await self._ask()
                if left is None:
                    return True
                pause = left + random.random() * _SPREAD  # noqa: S311 - jitter, no secret
                if deadline is not None:
                    pause = min(pause, deadline - loop.time())
                    if pause <= 0:
                        return False
                await waiter.wait(pause)

    async def _ask(self) -> float | None:
        """None when the lock is ours now; otherwise the seconds that its holder has left."""
        asked = asyncio.ensure_future(self._ask_store())
        try:
            await asyncio.wait([asked])
        except asyncio.CancelledError:
            with contextlib.suppress(asyncio.CancelledError):
                await completed(self._give_back(asked))
            raise
        fence, ends, left = asked.result()
        if not fence:
            return left
        self._fence, self._ends = fence, ends
        self.lost = asyncio.Event()
        self._renewal = asyncio.create_task(self._renew(), name="aioinfra-lock-renewal")
        self._locks.held.add(self)
        return None

    async def _ask_store(self) -> tuple[int, float, float]:
        """Fence, end of the lease, seconds left. An uncertain answer is asked for again: the token is the same."""
        sent = False
        for attempt in range(_REPEATS):
            asked = self._locks.now()
            try:
                fence, left = await self._locks.store.acquire(self._key, self._token, self._lease)
            except StoreUnavailable as error:
                sent = sent or error.sent
                if attempt < _REPEATS - 1:
                    continue
                if sent:  # it may be ours without our knowing
                    with contextlib.suppress(StoreError):
                        await self._locks.store.release(self._key, self._token)
                raise
            return fence, asked + self._lease, left
        raise AssertionError

    async def _give_back(self, asked: asyncio.Future[tuple[int, float, float]]) -> None:
        """The caller is gone: release what the answer under way grants."""
        await asyncio.wait([asked])
        if not asked.cancelled() and asked.exception() is None and asked.result()[0]:
            with contextlib.suppress(StoreError):
                await self._locks.store.release(self._key, self._token)
            self._locks.wakes.wake(self._key)

    # Holding

    async def _renew(self) -> None:
        """Extend the lease until it is lost; cancelled by the release."""
        locks, pause = self._locks, self._lease / 3
        while (left := self._ends - locks.now()) > 0:
            await locks.clock.sleep(min(pause, left))
            asked = locks.now()
            kept: bool | None = None
            with contextlib.suppress(AioinfraError, TimeoutError):
                async with asyncio.timeout(max(0.0, self._ends - asked)):
                    kept = await locks.store.renew(self._key, self._token, self._lease)
            if kept is False:
                break
            if kept:
                self._ends = asked + self._lease
            pause = self._lease / (3 if kept else 10)
        self.lost.set()

    # Releasing

    async def _free(self, renewal: asyncio.Task[None]) -> bool:
        renewal.cancel()
        await asyncio.wait([renewal])
        try:
            if self.lost.is_set() or self._locks.now() >= self._ends or not await self._unlock():
                self.lost.set()
                return False
        finally:
            self._locks.held.discard(self)
            self._locks.wakes.wake(self._key)
        return True

    async def _unlock(self) -> bool:
        """Whether it was ours to the end."""
        for attempt in range(_REPEATS):
            try:
                freed = await self._locks.store.release(self._key, self._token)
            except StoreUnavailable:
                if attempt == _REPEATS - 1:
                    raise
                continue
            # Asked twice within the lease, another holder has come after the first of our releases.
            return freed or (attempt > 0 and self._locks.now() < self._ends)
        raise AssertionError


class Locks:
    """The locks of one open cache: who takes which here, and which are held. One event loop.

    Args:
        store: where the locks are.
        wakes: hears of changes of their keys; where it does not, waiters ask again by themselves.
        clock: leases are counted by its ``monotonic``.
    """

    __slots__ = ("_closed", "clock", "gates", "held", "now", "store", "wakes")

    def __init__(self, store: LockStore, wakes: Wakes, clock: Clock = SYSTEM_CLOCK) -> None:
        self.store = store
        self.wakes = wakes
        self.clock = clock
        self.now = clock.monotonic
        self.gates = Gates()
        self.held: set[Lock] = set()
        self._closed = False

    def lock(self, key: str, name: str, lease: float, wait: float | None) -> Lock:
        """A lock of a full key, not yet taken.

        Raises:
            InvalidArgument: ``lease`` is not 0.05 to 86,400 seconds, or ``wait`` not 0 to a year or None.
        """
        check_number("lease", lease, LEAST_LEASE, MOST_LEASE)
        return Lock(self, key, name, float(lease), None if wait is None else check_wait("wait", wait))

    async def aclose(self) -> None:
        """Refuse who waits, release what is held; all of it, within some store budgets, also when cancelled."""
        self._closed = True
        await completed(self._end())

    async def _end(self) -> None:
        for key in self.gates:
            self.wakes.wake(key)
        await self.gates.idle.wait()
        held = [lock.release() for lock in self.held]
        for answer in await asyncio.gather(*held, return_exceptions=True):
            if isinstance(answer, BaseException) and not isinstance(answer, StoreError | LifecycleError):
                raise answer

    def check_open(self) -> None:
        """LifecycleError when the cache was closed."""
        if self._closed:
            raise LifecycleError("the cache was closed")


def check_wait(argument: str, seconds: float) -> float:
    """Raise InvalidArgument unless it is 0 to 366 days, in seconds."""
    check_number(argument, seconds, 0, _MOST_WAIT)
    return float(seconds)
