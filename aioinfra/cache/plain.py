"""Values as programs in other languages read and write them: the serialization's bytes, nothing around them."""

from __future__ import annotations

from typing import Any

from aioinfra.cache.figures import Figures
from aioinfra.cache.kind import Kind
from aioinfra.cache.read_through import ReadThrough
from aioinfra.cache.store import MISS, Ttl
from aioinfra.errors import DecodeError, EncodeError, WrongType


class PlainVerbs:
    """Reads and writes without the envelope. Base of `CacheManager`, which has what they work on.

    The server's expiry is all that ends such a value: no L1, no tags, no generation, no compression.
    `CacheManager.get` does not read it (a counted miss), and these do not read what `CacheManager.set` wrote.
    """

    _figures: Figures
    _reads: ReadThrough
    _kind: Kind

    def _full(self, key: str) -> str:
        raise NotImplementedError

    def _seconds(self, ttl: Ttl) -> float | None:
        raise NotImplementedError

    async def get_plain(self, key: str, default: Any = None) -> Any:
        """The value whose bytes under ``namespace + key`` are those of the serialization, else ``default``.

        One round trip, shared like those of `get`. Bytes that cannot be read are a counted miss; pickled ones are
        never loaded unless signed. Raises as `get`.
        """
        full, figures = self._full(key), self._figures
        value: Any = MISS
        try:
            data = await figures.timed("get", self._reads.store.get(full), quiet=True)
            value = MISS if data is None else self._decoded(data)
        except WrongType:
            figures.wrong_type += 1
        except DecodeError:
            figures.undecodable += 1
        if value is MISS:
            figures.misses += 1
            return default
        figures.hits += 1
        return value

    async def set_plain(self, key: str, value: Any, ttl: Ttl = None) -> bool:
        """Put the serialization's bytes of a value, or bytes as they are, under ``namespace + key``. True.

        Raises:
            InvalidArgument, EncodeError: before any I/O.
            StoreError: as `set`.
        """
        full, seconds = self._full(key), self._seconds(ttl)
        data = value if type(value) is bytes else self._kind.envelope.codec.encode(value)
        if len(data) > self._kind.envelope.options.max_bytes:
            raise EncodeError("value", f"{len(data)} bytes encoded, beyond the bound")
        self._reads.flights.forget(full)
        await self._figures.timed("set", self._reads.put(full, data, seconds))
        return True

    def _decoded(self, data: bytes) -> Any:
        if len(data) > self._kind.envelope.options.max_bytes:
            raise DecodeError("a stored value beyond the bound")
        return self._kind.envelope.codec.decode(data)
