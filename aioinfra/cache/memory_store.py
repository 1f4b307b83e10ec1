"""The Store in this process: memory-only mode, and what answers during an outage.

It holds sealed bytes like the server does, so that a value read is never the object that was written, and a
changed copy changes nothing in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from aioinfra.cache.glob import compile_glob
from aioinfra.cache.local import LocalCache


class MemoryStore:
    """A Store over a bounded `LocalCache`. It never fails; what does not fit is evicted."""

    __slots__ = ("local",)
    era = 0
    returning = False

    def __init__(self, local: LocalCache[bytes]) -> None:
        self.local = local

    async def get(self, key: str) -> bytes | None:
        return self.local.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self.local.get(key) for key in keys]

    async def set(self, key: str, value: bytes, ttl: float | None) -> None:
        self.local.put(key, value, len(value), ttl)

    async def add(self, key: str, value: bytes, ttl: float | None) -> bytes:
        held = self.local.get(key)
        if held is None:
            self.local.put(key, value, len(value), ttl)
        return value if held is None else held

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        for key, value in items:
            self.local.put(key, value, len(value), ttl)

    async def delete(self, keys: Sequence[str], uncounted: Sequence[str] = ()) -> int:
        for key in uncounted:
            self.local.pop(key)
        return sum(map(self.local.pop, keys))

    async def exists(self, key: str) -> bool:
        return self.local.ttl(key) is not None

    async def clear(self, pattern: str) -> int:
        matches = compile_glob(pattern).fullmatch
        return sum(self.local.pop(key) for key in self.local.keys() if matches(key.encode()))  # noqa: SIM118 - not a dict: keys() leaves out the expired

    async def ping(self) -> float:
        return 0.0

    async def settled(self) -> None:
        """Every write has ended when it returns."""

    async def aclose(self) -> None:
        self.local.clear()
