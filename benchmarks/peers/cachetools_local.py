"""cachetools, with cachetools-async for its decorator."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import cachetools  # type: ignore[import-not-found,import-untyped,unused-ignore]  # in the contestant's environment
import cachetools_async  # type: ignore[import-not-found]  # as above


class Cachetools:
    """``kind`` "lru" or "ttl" (300 seconds)."""

    def __init__(self, _url: str, kind: str) -> None:
        self._kind = kind

    def _cache(self, capacity: int) -> Any:
        return cachetools.LRUCache(capacity) if self._kind == "lru" else cachetools.TTLCache(capacity, 300)

    def lookup(self, values: Mapping[str, Any], capacity: int) -> Callable[[str], Any]:
        cache = self._cache(capacity)
        cache.update(values)
        found: Callable[[str], Any] = cache.__getitem__  # its get() is three times slower
        return found

    def store(self, capacity: int) -> Callable[[str, Any], Any]:
        found: Callable[[str, Any], Any] = self._cache(capacity).__setitem__
        return found

    async def decorate(
        self, function: Callable[[str], Coroutine[Any, Any, Any]], capacity: int
    ) -> Callable[[str], Coroutine[Any, Any, Any]]:
        found: Callable[[str], Coroutine[Any, Any, Any]] = cachetools_async.cached(self._cache(capacity))(
            function
        )
        return found
