"""The process' cache, for decorated functions that name none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aioinfra.cache.manager import CacheManager
from aioinfra.errors import InvalidArgument
from aioinfra.process_default import ProcessDefault


class DefaultCache(ProcessDefault[CacheManager]):
    """The slot of the process' cache."""

    def withdraw(self, value: CacheManager) -> None:
        """Take it back, and what decorated functions remember of its L1."""
        if self.current is value:
            value.forget_l1()
        super().withdraw(value)


default_cache: Final = DefaultCache("cache")
"""The cache of decorated functions that name none. A Service installs its own."""


@contextmanager
def use_cache(cache: CacheManager) -> Iterator[CacheManager]:
    """Let decorated functions that name no cache use this one within the block, in the whole process.

    ::

        async with CacheManager(url) as cache:
            with use_cache(cache):
                await load_user(7)

    For programs without a `Service`, which does so itself. To open and to close the cache stays the caller's.

    Raises:
        InvalidArgument: not a CacheManager.
        LifecycleError: another cache is the process default.
    """
    if not isinstance(cache, CacheManager):
        raise InvalidArgument("cache", "must be a CacheManager")
    installed = default_cache.current is cache
    default_cache.install(cache)
    try:
        yield cache
    finally:
        if not installed:  # else the outer block takes it back
            default_cache.withdraw(cache)
