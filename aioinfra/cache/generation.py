"""The generation of a namespace: eight random bytes on the server that every value is sealed with.

New bytes end every value of the namespace in one write. A generation that is lost (evicted, flushed) is made
anew, so nothing can come back: the values of the old one are misses.
"""

from __future__ import annotations

import contextlib
import secrets

from aioinfra.cache.store import Store
from aioinfra.codec.envelope import Generation
from aioinfra.codec.layout import FIRST_GENERATION
from aioinfra.errors import StoreError, WrongType

_BYTES = len(FIRST_GENERATION)


class NamespaceGeneration:
    """Keeps the envelopes' `Generation` equal to the server's.

    Args:
        key: where it is on the server.
        current: shared with the envelopes.
    """

    __slots__ = ("_current", "_key", "_renewals")

    def __init__(self, key: str, current: Generation) -> None:
        self._key = key
        self._current = current
        current.value = secrets.token_bytes(_BYTES)  # until the server's is known nothing counts
        self._renewals = 0  # of this process, begun and ended

    async def load(self, store: Store) -> bool:
        """Read it, made if there is none; whether it has changed. One round trip, three the first time.

        Raises:
            StoreError: not known now; what is sealed meanwhile may turn out to be a miss.
        """
        renewals, found = -1, None
        while renewals != self._renewals:  # an answer from before a renewal may come after it
            renewals = self._renewals
            found = await self._read(store)
            if found is None:
                found = await self._made(store)
        changed = found is not None and found != self._current.value
        if found is not None:
            self._current.value = found
        return changed

    async def renew(self, store: Store) -> None:
        """End every value of the namespace. One write. Raises StoreError."""
        value = secrets.token_bytes(_BYTES)
        self._renewals += 1
        try:
            await store.set(self._key, value, None)
            self._current.value = value
        finally:
            self._renewals += 1
        with contextlib.suppress(StoreError):
            await self.load(
                store
            )  # another process may have renewed it since, and that may have been heard before

    async def _made(self, store: Store) -> bytes | None:
        """A new one, of the first who makes one at the same time."""
        value = secrets.token_bytes(_BYTES)
        with contextlib.suppress(WrongType):
            found = await store.add(self._key, value, None)
            if len(found) == _BYTES:
                return found
        await store.set(self._key, value, None)  # something else lies there
        return await self._read(store)

    async def _read(self, store: Store) -> bytes | None:
        try:
            found = await store.get(self._key)
        except WrongType:
            return None
        return found if found is not None and len(found) == _BYTES else None
