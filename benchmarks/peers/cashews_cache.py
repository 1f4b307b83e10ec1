"""cashews: on Redis with its own codec (pickle), and its decorator in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cashews import Cache  # type: ignore[import-not-found]  # in the contestant's environment only


class Cashews:
    """At most ``connections`` connections; one who finds none free waits."""

    def __init__(self, url: str, connections: int) -> None:
        self._cache = Cache()
        self._cache.setup(url, max_connections=connections, wait_for_connection_timeout=30)

    async def open(self) -> None:
        await self._cache.init()

    async def store(self, values: Mapping[str, Any]) -> None:
        await self._cache.set_many(values, expire=3600)

    async def get(self, key: str) -> Any:
        return await self._cache.get(key)

    async def put(self, key: str, value: Any) -> None:
        await self._cache.set(key, value, expire=3600)

    async def get_many(self, keys: Sequence[str]) -> list[Any]:
        return list(await self._cache.get_many(*keys))

    async def close(self) -> None:
        await self._cache.close()
