"""async-lru, a decorator."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from async_lru import alru_cache  # type: ignore[import-not-found]  # in the contestant's environment only


class AsyncLru:
    """Results live 300 seconds."""

    def __init__(self, _url: str) -> None: ...

    def lookup(self, values: Mapping[str, Any], capacity: int) -> Callable[[str], Any]:
        raise NotImplementedError

    def store(self, capacity: int) -> Callable[[str, Any], Any]:
        raise NotImplementedError

    async def decorate(
        self, function: Callable[[str], Coroutine[Any, Any, Any]], capacity: int
    ) -> Callable[[str], Coroutine[Any, Any, Any]]:
        found: Callable[[str], Coroutine[Any, Any, Any]] = alru_cache(maxsize=capacity, ttl=300)(function)
        return found
