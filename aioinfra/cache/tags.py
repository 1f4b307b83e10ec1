"""Tags: one write that ends every value that carries them, however many there are.

A tag is eight random bytes on the server. A value is sealed with the bytes of its tags as they were before it was
made, and counts as long as they are still the same. To invalidate a tag is to delete its bytes: the next value
that carries it makes new ones. So bytes that are lost (evicted, expired, flushed) end values and never bring one
back, and a value that was being made during an invalidation is born outdated.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable
from typing import Final

from aioinfra.cache.keys import check_key
from aioinfra.cache.names import Names
from aioinfra.cache.near import Near
from aioinfra.cache.store import Store
from aioinfra.codec.layout import Tags
from aioinfra.errors import InvalidArgument, WrongType

MOST_TAGS: Final = 64
"""Of one value."""

_BYTES: Final = 8
_LEAST_TTL: Final = 7 * 86_400.0  # seconds that a tag lives at least: when it goes, its values go with it


class TagBook:
    """Reads, makes and ends tags. One event loop.

    Args:
        near: remembers what the server would say, while it is heard.
    """

    __slots__ = ("_names", "_near", "_store")

    def __init__(self, store: Store, names: Names, near: Near | None) -> None:
        self._store = store
        self._names = names
        self._near = near

    async def hold(self, tags: Tags, *, strong: bool = False) -> bool:
        """Whether all of these still stand. No round trip for those that are known.

        Raises:
            StoreError: the server could not be asked.
        """
        near = self._near
        if near is not None and not strong and all(near.token(tag) == token for tag, token in tags):
            return True
        found = await asyncio.gather(*[self._current(tag, strong=strong) for tag, _ in tags])
        return all(token == current for (_, token), current in zip(tags, found, strict=True))

    async def ensure(self, tags: Iterable[str], ttl: float | None) -> Tags:
        """What stands for these tags, made where there is nothing. To be called before a value is made.

        At most two round trips. ``ttl``: seconds that the value will live. Raises StoreError.
        """
        return tuple(zip(tags, await asyncio.gather(*[self._ensured(tag, ttl) for tag in tags]), strict=True))

    async def invalidate(self, tags: Iterable[str]) -> None:
        """End every value that carries one of these. One write a tag. Raises StoreError."""
        keys = {self._names.tag + tag: tag for tag in tags}
        self._forget(keys)
        try:
            await self._store.delete(list(keys))
        finally:
            self._forget(keys)

    def _forget(self, keys: dict[str, str]) -> None:
        if self._near is not None:
            for key, tag in keys.items():
                self._near.tag_changed(key, tag)

    async def _current(self, tag: str, *, strong: bool = False) -> bytes | None:
        near, key = self._near, self._names.tag + tag
        if near is None or strong:
            return await self._read(key)
        known = near.token(tag)
        if known is not None:
            return known
        fill = near.begin(key)
        try:
            token = await self._read(key)
            if token is not None and fill is not None:
                near.put_token(key, tag, fill, token)
            return token
        finally:
            if fill is not None:
                near.drop(key, fill)

    async def _read(self, key: str) -> bytes | None:
        try:
            token = await self._store.get(key)
        except WrongType:
            return None
        return token if token is not None and len(token) == _BYTES else None

    async def _ensured(self, tag: str, ttl: float | None) -> bytes:
        token = await self._current(tag)
        if token is not None:
            return token
        key = self._names.tag + tag
        lives = None if ttl is None else max(_LEAST_TTL, 2 * ttl)
        with contextlib.suppress(WrongType):
            token = await self._store.add(key, secrets.token_bytes(_BYTES), lives)
            if len(token) == _BYTES:
                return token
        token = secrets.token_bytes(_BYTES)
        await self._store.set(key, token, lives)  # something else lies there
        return token


def check_tags(tags: object) -> tuple[str, ...]:
    """Distinct tags, in order.

    Raises:
        InvalidArgument: not a collection of texts of 1 to 8,192 bytes, or more than 64 of them.
    """
    if tags == ():
        return ()
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise InvalidArgument("tags", "must be a collection of texts")
    checked = tuple(dict.fromkeys([check_key(tag, "tags") for tag in tags]))
    if len(checked) > MOST_TAGS:
        raise InvalidArgument("tags", f"are {len(checked)}, the most are {MOST_TAGS}")
    return checked


def namespace_tag(namespace: str) -> str:
    """The tag of all values of functions that were decorated with a namespace."""
    return "namespace:" + namespace
