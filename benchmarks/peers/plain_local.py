"""No library: a dict that is never full, and a function that is never cached. What calling costs by itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any


class Plain:
    """The floor."""

    def __init__(self, _url: str) -> None: ...

    def lookup(self, values: Mapping[str, Any], _capacity: int) -> Callable[[str], Any]:
        return dict(values).__getitem__

    def store(self, _capacity: int) -> Callable[[str, Any], Any]:
        kept: dict[str, Any] = {}
        return kept.__setitem__

    async def decorate(
        self, _function: Callable[[str], Coroutine[Any, Any, Any]], _capacity: int
    ) -> Callable[[str], Coroutine[Any, Any, Any]]:
        async def uncached(_key: str) -> None: ...

        return uncached


class ByHand(Plain):
    """What one writes without a library: a dict, and nothing that ends an entry."""

    async def decorate(
        self, function: Callable[[str], Coroutine[Any, Any, Any]], _capacity: int
    ) -> Callable[[str], Coroutine[Any, Any, Any]]:
        known: dict[str, Any] = {}

        async def cached(key: str) -> Any:
            try:
                return known[key]
            except KeyError:
                known[key] = value = await function(key)
                return value

        return cached
