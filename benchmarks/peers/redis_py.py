"""redis.asyncio with the best decoder there is for it here: msgspec's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis


class RedisPy:
    """``pool`` is "default", which opens at most ``most`` connections, or the size of a BlockingConnectionPool."""

    def __init__(
        self, url: str, pool: int | str = "default", prefix: str = "", most: int | None = None
    ) -> None:
        if pool == "default":
            self._redis: Redis = Redis.from_url(url, max_connections=most)
        else:
            self._redis = Redis(
                connection_pool=BlockingConnectionPool.from_url(url, max_connections=int(pool))
            )
        self._prefix = prefix
        self._decode = msgspec.json.Decoder().decode

    async def open(self) -> None:
        await self._redis.ping()

    async def store(self, values: Mapping[str, Any]) -> None:
        encoded = {self._prefix + key: msgspec.json.encode(value) for key, value in values.items()}
        await self._redis.mset(encoded)

    async def get(self, key: str) -> Any:
        return self._decode(await self._redis.get(self._prefix + key))

    async def put(self, key: str, value: Any) -> None:
        await self._redis.set(self._prefix + key, msgspec.json.encode(value), ex=3600)

    async def get_many(self, keys: Sequence[str]) -> list[Any]:
        found = await self._redis.mget([self._prefix + key for key in keys])
        return [self._decode(data) for data in found]

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()
