"""aiocache on Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from aiocache import RedisCache  # type: ignore[import-not-found]  # in the contestant's environment only
from aiocache.serializers import PickleSerializer  # type: ignore[import-not-found]  # as above


class Aiocache:
    """At most ``connections`` connections; pickle."""

    def __init__(self, url: str, connections: int) -> None:
        parts = urlsplit(url)
        self._cache = RedisCache(
            endpoint=parts.hostname,
            port=parts.port,
            db=int(parts.path[1:] or 0),
            pool_max_size=connections,
            serializer=PickleSerializer(),
        )

    async def open(self) -> None:
        await self._cache.exists("none")

    async def store(self, values: Mapping[str, Any]) -> None:
        await self._cache.multi_set(list(values.items()), ttl=3600)

    async def get(self, key: str) -> Any:
        return await self._cache.get(key)

    async def put(self, key: str, value: Any) -> None:
        await self._cache.set(key, value, ttl=3600)

    async def get_many(self, keys: Sequence[str]) -> list[Any]:
        return list(await self._cache.multi_get(list(keys)))

    async def close(self) -> None:
        await self._cache.close()
