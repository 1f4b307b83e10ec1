"""aioinfra's CacheManager asking the server, as the clients beside it do; L1 would answer by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aioinfra import CacheManager
from aioinfra.cache.options import CacheOptions, NearOptions


class Cache:
    """Every setting at its default, but L1, which is off."""

    def __init__(self, url: str) -> None:
        self._cache = CacheManager(url, options=CacheOptions(near=NearOptions(enabled=False)))

    async def open(self) -> None:
        await self._cache.initialize()

    async def store(self, values: Mapping[str, Any]) -> None:
        await self._cache.mset(values, ttl=3600)

    async def get(self, key: str) -> Any:
        return await self._cache.get(key)

    async def put(self, key: str, value: Any) -> None:
        await self._cache.set(key, value, ttl=3600)

    async def get_many(self, keys: Sequence[str]) -> list[Any]:
        found = await self._cache.mget(keys)
        return [found[key] for key in keys]

    async def close(self) -> None:
        await self._cache.close()
