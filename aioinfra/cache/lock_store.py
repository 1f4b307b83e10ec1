"""Where locks are kept: on a server, or in this process for memory-only mode."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple, Protocol

from aioinfra.cache.script_lane import ScriptLane
from aioinfra.cache.ttl import milliseconds
from aioinfra.clock import SYSTEM_CLOCK, Clock


class Grant(NamedTuple):
    """The answer to who asks for a lock."""

    fence: int
    """Above that of every holder before; 0 when it was not granted."""
    left: float
    """Seconds that its holder's lease has left when it was not."""


class LockStore(Protocol):
    """Locks by their keys. Every verb may be repeated with the same token. Raises StoreError."""

    async def acquire(self, key: str, token: str, lease: float) -> Grant:
        """Take a lock for ``lease`` seconds, unless another token holds it."""
        ...

    async def renew(self, key: str, token: str, lease: float) -> bool:
        """Extend to ``lease`` seconds from now; False when this token does not hold it any more."""
        ...

    async def release(self, key: str, token: str) -> bool:
        """Free it; False when this token was not its last holder."""
        ...


class RedisLockStore:
    """Locks on one server, by the scripts lock, renew and unlock. The lane stays its owner's to close."""

    __slots__ = ("_lane",)

    def __init__(self, lane: ScriptLane) -> None:
        self._lane = lane

    async def acquire(self, key: str, token: str, lease: float) -> Grant:
        fence, left = await self._lane.run("lock", key, token, milliseconds(lease))
        return Grant(fence, left / 1000)

    async def renew(self, key: str, token: str, lease: float) -> bool:
        return bool(await self._lane.run("renew", key, token, milliseconds(lease)))

    async def release(self, key: str, token: str) -> bool:
        return bool(await self._lane.run("unlock", key, token))


class MemoryLockStore:
    """Locks among the tasks of one process."""

    __slots__ = ("_fences", "_held", "_now")

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._now = clock.monotonic
        self._fences = count(1)
        self._held: dict[str, tuple[str, float, int]] = {}  # token, end of the lease, fence

    async def acquire(self, key: str, token: str, lease: float) -> Grant:
        now = self._now()
        holder, ends, fence = self._held.get(key, ("", now, 0))
        if ends > now and holder != token:
            return Grant(0, ends - now)
        if ends <= now:
            fence = next(self._fences)
        self._held[key] = (token, now + lease, fence)
        return Grant(fence, 0.0)

    async def renew(self, key: str, token: str, lease: float) -> bool:
        holder, ends, fence = self._held.get(key, ("", 0.0, 0))
        if holder != token or ends <= self._now():
            return False
        self._held[key] = (token, self._now() + lease, fence)
        return True

    async def release(self, key: str, token: str) -> bool:
        if self._held.get(key, ("",))[0] != token:
            return False
        del self._held[key]
        return True
