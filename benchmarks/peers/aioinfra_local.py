"""aioinfra in memory: the bounded map behind it, and `cached` without a server."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from aioinfra import CacheManager, cached
from aioinfra.cache.local import LocalCache

LIFETIME: Final = 300.0
VALUE_BYTES: Final = 300
MOST_BYTES: Final = 1 << 30  # the bound in entries is the one that counts


class Local:
    """Every entry with a time to live. The map is not public; a user meets it through CacheManager."""

    def __init__(self, _url: str) -> None: ...

    def lookup(self, values: Mapping[str, Any], capacity: int) -> Callable[[str], Any]:
        cache: LocalCache[Any] = LocalCache(capacity, MOST_BYTES)
        for key, value in values.items():
            cache.put(key, value, VALUE_BYTES, LIFETIME)
        return cache.get

    def store(self, capacity: int) -> Callable[[str, Any], Any]:
        put = LocalCache[Any](capacity, MOST_BYTES).put

        def store(key: str, value: Any) -> None:
            put(key, value, VALUE_BYTES, LIFETIME)

        return store

    async def decorate(
        self, function: Callable[[str], Coroutine[Any, Any, Any]], capacity: int
    ) -> Callable[[str], Coroutine[Any, Any, Any]]:
        manager = CacheManager(memory_cache_size=capacity)
        await manager.initialize()
        return cached(ttl=LIFETIME, cache=manager)(function)
