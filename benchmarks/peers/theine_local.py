"""theine, a W-TinyLFU cache."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Final

from theine import Cache, Memoize  # type: ignore[import-not-found]  # in the contestant's environment only

LIFETIME: Final = timedelta(seconds=300)


class Theine:
    """Entries live 300 seconds; without its locks, which one thread does not need."""

    def __init__(self, _url: str) -> None: ...

    def lookup(self, values: Mapping[str, Any], capacity: int) -> Callable[[str], Any]:
        cache = Cache(capacity, nolock=True)
        for key, value in values.items():
            cache.set(key, value, LIFETIME)
        found: Callable[[str], Any] = cache.get
        return found

    def store(self, capacity: int) -> Callable[[str, Any], Any]:
        cache_set = Cache(capacity, nolock=True).set

        def store(key: str, value: Any) -> None:
            cache_set(key, value, LIFETIME)

        return store

    async def decorate(
        self, function: Callable[[str], Coroutine[Any, Any, Any]], capacity: int
    ) -> Callable[[str], Coroutine[Any, Any, Any]]:
        decorated = Memoize(capacity, LIFETIME, nolock=True)(function)
        decorated.key(lambda key: key)  # "the recommended mode"
        found: Callable[[str], Coroutine[Any, Any, Any]] = decorated
        return found
