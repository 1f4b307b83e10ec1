"""fastapi-cache2 on Redis: the results of a decorated function, which is what it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi_cache import FastAPICache  # type: ignore[import-not-found]  # in the contestant's environment only
from fastapi_cache.backends.redis import RedisBackend  # type: ignore[import-not-found]  # as above
from fastapi_cache.coder import PickleCoder  # type: ignore[import-not-found]  # as above
from fastapi_cache.decorator import cache  # type: ignore[import-not-found]  # as above
from redis.asyncio import BlockingConnectionPool, Redis


class FastapiCache:
    """At most ``connections`` connections; pickle."""

    def __init__(self, url: str, connections: int) -> None:
        pool = BlockingConnectionPool.from_url(url, max_connections=connections)
        self._redis = Redis(connection_pool=pool)
        self._values: dict[str, Any] = {}

        async def load(key: str) -> Any:
            return self._values.pop(key)  # a hit after `store` does not come here; a second miss fails

        self._load = cache(expire=3600)(load)

    async def open(self) -> None:
        FastAPICache.init(RedisBackend(self._redis), prefix="bench", coder=PickleCoder)

    async def store(self, values: Mapping[str, Any]) -> None:
        self._values |= values
        for key in values:
            await self._load(key)

    async def get(self, key: str) -> Any:
        return await self._load(key)

    async def put(self, key: str, value: Any) -> None:
        """Not through the decorator: it has no way to overwrite."""
        await FastAPICache.get_backend().set(f"put:{key}", PickleCoder.encode(value), 3600)

    async def get_many(self, keys: Sequence[str]) -> list[Any]:
        raise NotImplementedError

    async def close(self) -> None:
        await self._redis.aclose()
