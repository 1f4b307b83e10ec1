"""Ending values: by pattern, by tag, by namespace, all of them; and waiting until others' changes are heard."""

from __future__ import annotations

from aioinfra.cache.backend import Backend
from aioinfra.cache.figures import Figures
from aioinfra.cache.glob import check_pattern, escape
from aioinfra.cache.keys import check_key
from aioinfra.cache.read_through import ReadThrough
from aioinfra.cache.tags import check_tags, namespace_tag
from aioinfra.codec.bounds import check_number
from aioinfra.errors import InvalidArgument


class ClearingVerbs:
    """The verbs that end many values. Base of `CacheManager`, which has what they work on."""

    _namespace: str
    _figures: Figures
    _reads: ReadThrough

    def _open(self) -> Backend:
        """What is open; LifecycleError when nothing is."""
        raise NotImplementedError

    @property
    def _is_open(self) -> bool:
        raise NotImplementedError

    async def clear(
        self,
        pattern: str | None = None,
        *,
        namespace: str | None = None,
        all: bool = False,  # noqa: A002 - the documented name
    ) -> int:
        """Remove the keys that match a glob within the namespace of this cache; how many.

        Put literals into the pattern through `escape`. Walks all keys of the database in steps that never
        block the server: O(keys in the database). Every key goes with ``all=True``: at once for readers, then from
        memory. ``namespace`` ends the values of functions decorated with that namespace, in one write; 0 then,
        since they are not counted.

        Raises:
            InvalidArgument: no pattern, or one without a literal character, without ``all=True``.
        """
        if namespace is not None:
            if pattern is not None or all:
                raise InvalidArgument("namespace", "give either a namespace or a pattern")
            await self.invalidate_tag(namespace_tag(check_key(namespace, "namespace")))
            return 0
        pattern = escape(self._namespace) + check_pattern(pattern, everything=all)
        if all and self._is_open:
            renewing = self._reads.renew(self._open().renew(self._reads.store))
            await self._figures.timed("clear", renewing, quiet=True)
        removed = await self._figures.timed("clear", self._reads.clear(pattern))
        self._figures.deletes += removed
        return removed

    async def invalidate_tag(self, *tags: str) -> None:
        """End every value that carries one of these tags, in every process. One write, however many they are.

        A value that is being loaded meanwhile is born outdated. Raises as `delete`.
        """
        await self._figures.timed("delete", self._reads.invalidate_tags(check_tags(tags)))

    async def invalidate_all(self) -> None:
        """End every value of this cache, in every process: one write. They leave the server with their TTLs."""
        renewing = self._open().renew(self._reads.store)
        await self._figures.timed("clear", self._reads.renew(renewing))

    async def barrier(self, timeout: float = 1.0) -> bool:
        """Wait until this process has heard of every write that was acknowledged, anywhere, before this call.

        A get afterwards never answers what such a write has replaced. One round trip; False when that cannot be
        told within ``timeout`` seconds: then ask with ``consistency="strong"``.
        """
        check_number("timeout", timeout, 0.001, 3600)
        return await self._open().barrier(timeout)
