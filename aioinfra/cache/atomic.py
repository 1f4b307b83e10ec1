"""Verbs that read and change a value in one step, for the whole fleet.

The server decides, by scripts, or in memory-only mode this process. Memory cannot decide for a fleet, so while the
server is unavailable these verbs raise StoreUnavailable where `CacheManager.get` is answered from memory. Nothing
is repeated blindly: when ``error.sent`` is true, the verb may have taken effect.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from aioinfra.cache.keys import check_key
from aioinfra.cache.locks import Lock, Locks
from aioinfra.cache.store import MISS, NO_EXPIRY, Forever, Ttl
from aioinfra.codec.bounds import check_whole
from aioinfra.codec.layout import Tags
from aioinfra.errors import StoreError

MOST_NUMBER: Final = 2**53
"""Largest absolute value of a counter: the server's Lua counts in binary64, exact up to here."""

NO_COUNTER: Final = "the key holds a value that is not a whole number of this cache"

_TRIES: Final = 5
_AT_ONCE: Final = 1000


class Currency(Protocol):
    """Knows which stored values still count."""

    async def current(self) -> bytes:
        """The generation of the namespace, 8 bytes, as far as this process knows. No I/O in the usual case."""
        ...

    async def is_current(self, generation: bytes, tags: Tags) -> bool:
        """Whether a value of this generation and these tags counts, by what the server says now.

        What `current` says afterwards is no older than that. Raises StoreError.
        """
        ...


class AtomicStore(Protocol):
    """The verbs on sealed bytes under full keys. TTLs are seconds, None for no expiry. Raises StoreError."""

    async def incr(self, key: str, by: int, initial: int, ttl: float | None) -> int:
        """Add; the sum. WrongType for what is no whole number or not ours, CounterOverflow beyond 2**53."""
        ...

    async def read(self, key: str) -> bytes | None:
        """The value that counts, as of now."""
        ...

    async def add(self, key: str, sealed: bytes, ttl: float | None) -> bool:
        """Store unless a value is there; whether it was stored."""
        ...

    async def get_or_add(
        self, key: str, sealed: bytes, ttl: float | None, unreadable: bytes | None
    ) -> bytes | None:
        """As `add`, but gives the value that is there, and None when it stored; ``unreadable`` does not count."""
        ...

    async def expire(self, key: str, ttl: float | None) -> bool:
        """Give a value another time to live; whether it was there."""
        ...

    async def ttl(self, key: str) -> float | None:
        """Seconds left, infinite without expiry, None for no value."""
        ...

    async def aclose(self) -> None:
        """Wait for what is under way, then refuse."""
        ...


@dataclass(frozen=True, slots=True)
class Atomic:
    """What the verbs of one open cache work with.

    Attributes:
        store: where the values are.
        locks: of this cache.
        lock_prefix: what the keys of locks begin with.
        lifetime: checks a ttl and puts the default in for None.
        seal: a value as bytes in layout 2; generation and times are filled in by the store.
        opened: the value in bytes, MISS when they cannot be read.
        provide: fetches what opening some bytes needs (a dictionary).
        changed: told of each key before and after it may have changed, to drop what is kept of it here.
    """

    store: AtomicStore
    locks: Locks
    lock_prefix: str
    lifetime: Callable[[Ttl], float | None]
    seal: Callable[[Any], bytes]
    opened: Callable[[bytes], Any]
    changed: Callable[[str], None]
    provide: Callable[[bytes], Awaitable[None]]

    async def aclose(self) -> None:
        """Release the locks, then close the store."""
        try:
            await self.locks.aclose()
        finally:
            await self.store.aclose()


class AtomicVerbs:
    """The atomic verbs and locks of a cache. Base of `CacheManager`.

    All of them raise InvalidArgument and EncodeError before any I/O, StoreUnavailable while the server is
    unavailable (``sent`` tells whether the verb may have taken effect), other StoreErrors as the server answers,
    and Overloaded. One round trip each, shared by all that are called at the same time.
    """

    def _atomic(self) -> Atomic:
        """What the verbs work with; LifecycleError when the cache is not open."""
        raise NotImplementedError

    def _full(self, key: str) -> str:
        """The checked key under its namespace."""
        raise NotImplementedError

    async def incr(self, key: str, by: int = 1, *, initial: int = 0, ttl: Ttl = None) -> int:
        """Add ``by`` to a counter, which starts at ``initial``; the sum. `get` reads it as an int.

        ``ttl`` counts when the counter is created; later sums leave its time to live alone.

        Raises:
            WrongType: the value is not a whole number, or is another program's (`PlainVerbs`), which stays.
            CounterOverflow: the counter would pass 2**53 in either direction.
            StoreUnavailable: with ``sent`` it may have been added; asking again could add it twice.
        """
        check_whole("by", by, -MOST_NUMBER, MOST_NUMBER)
        check_whole("initial", initial, -MOST_NUMBER, MOST_NUMBER)
        full, atomic = self._full(key), self._atomic()
        seconds = atomic.lifetime(ttl)
        atomic.changed(full)
        try:
            return await atomic.store.incr(full, by, initial, seconds)
        finally:
            atomic.changed(full)

    async def decr(self, key: str, by: int = 1, *, initial: int = 0, ttl: Ttl = None) -> int:
        """`incr` by ``-by``."""
        check_whole("by", by, -MOST_NUMBER, MOST_NUMBER)
        return await self.incr(key, -by, initial=initial, ttl=ttl)

    async def add(self, key: str, value: Any, ttl: Ttl = None) -> bool:
        """Put a value under a key that has none; whether it was put there. Of the whole fleet one caller wins."""
        full, atomic = self._full(key), self._atomic()
        seconds, sealed = atomic.lifetime(ttl), atomic.seal(value)
        atomic.changed(full)
        try:
            return await atomic.store.add(full, sealed, seconds)
        finally:
            atomic.changed(full)

    async def get_or_set(self, key: str, default: Any, ttl: Ttl = None) -> Any:
        """The value under a key, else ``default``, stored: the one value that all callers of the fleet get.

        Args:
            key: of the value.
            default: the value, or a plain or async function that gives it. Of several callers at once each may
                call its own, and one result is stored; `get_or_load` loads once instead.
            ttl: seconds to live.

        Two round trips when there is no value.

        Raises:
            Exception: what ``default`` raised; nothing is stored then.
        """
        full, atomic = self._full(key), self._atomic()
        seconds = atomic.lifetime(ttl)
        sealed = None if callable(default) else atomic.seal(default)
        present = await atomic.store.read(full)
        value = MISS if present is None else await _read(atomic, present)
        if value is not MISS:
            return value
        if sealed is None:
            default = default()
            if inspect.isawaitable(default):
                default = await default
            sealed = atomic.seal(default)
        atomic.changed(full)
        try:
            return await _settle(atomic, full, sealed, seconds, present)
        finally:
            atomic.changed(full)

    async def expire(self, key: str, ttl: Ttl) -> bool:
        """Let a value live for ``ttl`` seconds from now (NO_EXPIRY: for good); whether it was there.

        Costs the same for values of any size.
        """
        full, atomic = self._full(key), self._atomic()
        seconds = atomic.lifetime(ttl)
        atomic.changed(full)
        try:
            return await atomic.store.expire(full, seconds)
        finally:
            atomic.changed(full)

    async def ttl(self, key: str) -> float | Literal[Forever.NO_EXPIRY] | None:
        """Seconds that a value has left, NO_EXPIRY when it does not expire, None when there is none."""
        left = await self._atomic().store.ttl(self._full(key))
        return NO_EXPIRY if left == float("inf") else left

    async def touch(self, *keys: str, ttl: Ttl = None) -> int:
        """`expire` for several keys, up to 1,000 a round trip; how many were there. Not atomic together."""
        full, atomic = [self._full(key) for key in keys], self._atomic()
        seconds = atomic.lifetime(ttl)
        for key in full:
            atomic.changed(key)
        try:
            return await _count(atomic, full, seconds)
        finally:
            for key in full:
                atomic.changed(key)

    def lock(self, name: str, lease: float = 10.0, wait: float | None = None) -> Lock:
        """A lock of the fleet, not yet taken. No I/O.

        ::

            async with cache.lock("nightly-report") as lock:
                await write_report(fence=lock.fence)

        Args:
            name: of the lock; apart from the keys of values.
            lease: seconds after which a holder that died is no longer in the way. A living one renews.
            wait: most seconds to wait for it; None for no bound, 0 to ask once.
        """
        check_key(name, "name")
        atomic = self._atomic()
        return atomic.locks.lock(atomic.lock_prefix + name, name, lease, wait)


async def _read(atomic: Atomic, data: bytes) -> Any:
    await atomic.provide(data)
    return atomic.opened(data)


async def _settle(atomic: Atomic, key: str, sealed: bytes, ttl: float | None, present: bytes | None) -> Any:
    """The value that stands in the end: the sealed one, or another caller's."""
    for _ in range(_TRIES):
        found = await atomic.store.get_or_add(key, sealed, ttl, present)
        value = await _read(atomic, sealed if found is None else found)
        if value is not MISS:
            return value
        present = found
    raise StoreError("others keep storing values that cannot be read here")


async def _count(atomic: Atomic, keys: Sequence[str], ttl: float | None) -> int:
    """Give values another time to live, a bounded number at once; how many were there."""
    found = 0
    for begin in range(0, len(keys), _AT_ONCE):
        calls = [atomic.store.expire(key, ttl) for key in keys[begin : begin + _AT_ONCE]]
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
            found += answer
    return found
