"""The seam between the cache and where its bytes are.

A Store keeps sealed bytes under full keys (namespace included). It knows nothing of codecs or loaders.
Implementations: `RedisStore`, `MemoryStore`, and `FallbackStore`, a Store over two.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Sequence
from typing import Any, Final, Literal, Protocol

from aioinfra.errors import LifecycleError


class Missing(enum.Enum):
    """The type of `MISS`."""

    MISS = "MISS"

    def __repr__(self) -> str:
        return self.value

    __str__ = __repr__


MISS: Final = Missing.MISS
"""No value under this key. Not None, which is a value: ``cache.get(key, default=MISS) is MISS``."""


class Forever(enum.Enum):
    """The type of `NO_EXPIRY`."""

    NO_EXPIRY = "NO_EXPIRY"

    def __repr__(self) -> str:
        return self.value

    __str__ = __repr__


NO_EXPIRY: Final = Forever.NO_EXPIRY
"""As a ttl: the value stays until it is deleted or evicted."""

Lifetime = float | Literal[Forever.NO_EXPIRY]
"""Seconds to live, or for good."""

Ttl = Lifetime | None
"""The same; None means the default of the cache."""


class Store(Protocol):
    """Bytes under keys. Keys are full and checked, TTLs are seconds or None for no expiry.

    Every verb raises StoreError when the server did not do it (StoreUnavailable: it may have): an absent key
    is an answer, an error is not. Verbs are plain functions that give awaitables, so that an implementation
    may hand out a future without a coroutine around it.
    """

    @property
    def era(self) -> int | None:
        """A number that stays the same as long as answers come from one place that all processes look at.

        None while they do not: memory answers for a server.
        """
        ...

    @property
    def returning(self) -> bool:
        """Whether a write that is called now waits until the server answers again, and goes there."""
        ...

    def get(self, key: str) -> Awaitable[bytes | None]:
        """The bytes under a key, None when there are none. WrongType when it holds something else."""
        ...

    def get_many(self, keys: Sequence[str]) -> Awaitable[Sequence[bytes | None]]:
        """The same for several keys, in their order; a key that holds something else reads as absent."""
        ...

    def set(self, key: str, value: bytes, ttl: float | None) -> Awaitable[None]:
        """Put bytes under a key, whatever it held."""
        ...

    def add(self, key: str, value: bytes, ttl: float | None) -> Awaitable[bytes]:
        """Put bytes under a key that is absent; the bytes that are under it then."""
        ...

    def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> Awaitable[None]:
        """The same for several; not atomic: after an error some may be there."""
        ...

    def delete(self, keys: Sequence[str], uncounted: Sequence[str] = ()) -> Awaitable[int]:
        """Remove keys, and ``uncounted`` before them; how many of the former were there."""
        ...

    def exists(self, key: str) -> Awaitable[bool]:
        """Whether something is under a key."""
        ...

    def clear(self, pattern: str) -> Awaitable[int]:
        """Remove every key that matches a Redis glob; how many. O(all keys), in bounded steps."""
        ...

    def ping(self) -> Awaitable[float]:
        """Seconds that the server took to answer."""
        ...

    def settled(self) -> Awaitable[None]:
        """Return when no write is under way, not even one that its caller gave up on: none lands later."""
        ...

    def aclose(self) -> Awaitable[None]:
        """Wait for what is under way and let go of everything. No verb may be called afterwards."""
        ...


NOT_OPEN: Final = "the cache is not open: await initialize(), or use it in `async with cache:`"
"""Why a closed cache refuses a call."""


class ClosedStore:
    """What stands in for a store before it is opened and after it is closed: every call raises."""

    __slots__ = ()
    era = None
    returning = False

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise LifecycleError(NOT_OPEN)

    get = get_many = set = add = set_many = delete = exists = clear = ping = settled = _refuse

    async def aclose(self) -> None:
        """Nothing to close."""
