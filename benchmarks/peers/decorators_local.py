"""The decorators of caches whose own calls are coroutines, each with its memory backend."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

Function = Callable[[str], Coroutine[Any, Any, Any]]


class Decorator:
    """Has no lookup that is not a coroutine."""

    def __init__(self, _url: str) -> None: ...

    def lookup(self, values: Mapping[str, Any], capacity: int) -> Callable[[str], Any]:
        raise NotImplementedError

    def store(self, capacity: int) -> Callable[[str, Any], Any]:
        raise NotImplementedError


class CashewsMemory(Decorator):
    async def decorate(self, function: Function, capacity: int) -> Function:
        from cashews import Cache  # type: ignore[import-not-found]  # in the contestant's environment only

        cache = Cache()
        cache.setup("mem://", size=capacity)
        found: Function = cache(ttl=300, key="load:{key}")(function)
        return found


class AiocacheMemory(Decorator):
    async def decorate(self, function: Function, _capacity: int) -> Function:
        from aiocache import cached  # type: ignore[import-not-found]  # in the contestant's environment only

        found: Function = cached(ttl=300)(function)
        return found


class FastapiCacheMemory(Decorator):
    async def decorate(self, function: Function, _capacity: int) -> Function:
        from fastapi_cache import FastAPICache  # type: ignore[import-not-found]  # as above
        from fastapi_cache.backends.inmemory import InMemoryBackend  # type: ignore[import-not-found]  # as above
        from fastapi_cache.coder import PickleCoder  # type: ignore[import-not-found]  # as above
        from fastapi_cache.decorator import cache  # type: ignore[import-not-found]  # as above

        FastAPICache.init(InMemoryBackend(), prefix="bench", coder=PickleCoder)
        found: Function = cache(expire=300)(function)
        return found
