"""moka-py, a TinyLFU cache in Rust."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from moka_py import Moka, cached  # type: ignore[import-not-found]  # in the contestant's environment only


class MokaPy:
    """Entries live 300 seconds."""

    def __init__(self, _url: str) -> None: ...

    def lookup(self, values: Mapping[str, Any], capacity: int) -> Callable[[str], Any]:
        cache = Moka(capacity, ttl=300)
        for key, value in values.items():
            cache.set(key, value)
        found: Callable[[str], Any] = cache.get
        return found

    def store(self, capacity: int) -> Callable[[str, Any], Any]:
        found: Callable[[str, Any], Any] = Moka(capacity, ttl=300).set
        return found

    async def decorate(
        self, function: Callable[[str], Coroutine[Any, Any, Any]], capacity: int
    ) -> Callable[[str], Coroutine[Any, Any, Any]]:
        found: Callable[[str], Coroutine[Any, Any, Any]] = cached(maxsize=capacity, ttl=300)(function)
        return found
