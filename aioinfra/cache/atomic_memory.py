"""The atomic verbs in this process, for memory-only mode. Nothing here awaits, so every verb is one step."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, Final

from aioinfra.cache.atomic import MOST_NUMBER, NO_COUNTER
from aioinfra.cache.local import LocalCache
from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.codec.codec import JSON
from aioinfra.codec.envelope import Generation
from aioinfra.codec.layout import (
    FAILURE,
    GENERATION_AT,
    KEPT,
    MAGIC,
    SIZE,
    TIMES_AT,
    UNCOMPRESSED,
    Stamp,
    Tags,
    pack,
    read_header,
    read_tags,
)
from aioinfra.errors import CounterOverflow, DecodeError, WrongType

_GENERATION_AND_TIMES: Final = struct.Struct("<8sdd")
_EXPIRES: Final = struct.Struct("<d")
_EXPIRES_AT: Final = TIMES_AT + 8


def _any_tags(_: Tags) -> bool:
    return True


class MemoryAtomic:
    """An `AtomicStore` over the values of this process.

    Args:
        local: the values, sealed; what does not fit in it is evicted, counters too.
        generation: of the namespace; its owner changes it in place.
        opened: the value in sealed bytes that are not a number in JSON.
        tags_current: whether all these tags still stand for what they stood for.
        clock: that of ``local``.
    """

    __slots__ = ("_clock", "_generation", "_local", "_opened", "_tags_current")

    def __init__(
        self,
        local: LocalCache[bytes],
        generation: Generation,
        opened: Callable[[bytes], Any],
        *,
        tags_current: Callable[[Tags], bool] = _any_tags,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._local = local
        self._generation = generation
        self._opened = opened
        self._tags_current = tags_current
        self._clock = clock

    async def incr(self, key: str, by: int, initial: int, ttl: float | None) -> int:
        data = self._live(key)
        if data is None and (there := self._local.get(key)) and there[0] != MAGIC:
            raise WrongType(NO_COUNTER)
        number = initial if data is None else self._number(data)
        total = number + by
        if max(abs(number), abs(total)) > MOST_NUMBER:
            raise CounterOverflow("the counter would pass 2**53")
        payload, now = b"%d" % total, self._clock.time()
        if data is None:
            stamp = Stamp(now, 0.0 if ttl is None else now + ttl)
            sealed = pack(JSON, UNCOMPRESSED, 0, stamp, self._generation.value, payload)
        else:
            header, left = read_header(data), self._local.ttl(key)
            kept = bool(header.flags & KEPT)
            stamp = Stamp(now, header.expires, 0.0, kept, read_tags(data), header.generation)
            sealed = pack(JSON, UNCOMPRESSED, 0, stamp, header.generation, payload)
            ttl = None if left is None or math.isinf(left) else left
        self._local.put(key, sealed, len(sealed), ttl)
        return total

    async def read(self, key: str) -> bytes | None:
        return self._live(key)

    async def add(self, key: str, sealed: bytes, ttl: float | None) -> bool:
        return await self.get_or_add(key, sealed, ttl, None) is None

    async def get_or_add(
        self, key: str, sealed: bytes, ttl: float | None, unreadable: bytes | None
    ) -> bytes | None:
        found = self._live(key)
        if found is not None and found != unreadable:
            return found
        now = self._clock.time()
        times = _GENERATION_AND_TIMES.pack(self._generation.value, now, 0.0 if ttl is None else now + ttl)
        data = sealed[:GENERATION_AT] + times + sealed[GENERATION_AT + len(times) :]
        self._local.put(key, data, len(data), ttl)
        return None

    async def expire(self, key: str, ttl: float | None) -> bool:
        data = self._live(key)
        if data is None:
            return False
        header, left, now = read_header(data), self._local.ttl(key), self._clock.time()
        expires = _EXPIRES.pack(0.0 if ttl is None else now + ttl)
        data = data[:_EXPIRES_AT] + expires + data[_EXPIRES_AT + len(expires) :]
        if ttl is not None and header.flags & KEPT and header.expires and left is not None:
            ttl += max(0.0, left - (header.expires - now))
        self._local.put(key, data, len(data), None if ttl is None or math.isinf(ttl) else ttl)
        return True

    async def ttl(self, key: str) -> float | None:
        data, left = self._live(key), self._local.ttl(key)
        if data is None or left is None:
            return None
        expires = read_header(data).expires
        return min(left, expires - self._clock.time()) if expires else left

    async def aclose(self) -> None:
        """Nothing to close."""

    def _live(self, key: str) -> bytes | None:
        """The sealed value that counts."""
        data = self._local.get(key)
        if data is None:
            return None
        try:
            header, tags = read_header(data), read_tags(data)
        except DecodeError:
            return None
        expired = header.expires != 0 and header.expires <= self._clock.time()
        if expired or header.generation != self._generation.value or not self._tags_current(tags):
            return None
        return data

    def _number(self, data: bytes) -> int:
        header = read_header(data)
        value: object = None
        if header.codec == JSON and header.compression == UNCOMPRESSED and not header.flags & FAILURE:
            payload = data[SIZE + header.extension :]
            value = int(payload) if payload.removeprefix(b"-").isdigit() and len(payload) <= 32 else None
        elif not header.flags & FAILURE:
            value = self._opened(data)
        if type(value) is not int:
            raise WrongType(NO_COUNTER)
        return value
