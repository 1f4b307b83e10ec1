"""What is heard from the server, taken to whom it concerns: L1, who waits, who keeps a generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aioinfra.cache.names import Names
from aioinfra.cache.near import Near
from aioinfra.cache.wakes import Wakes


class Invalidations:
    """A listener's callback.

    Args:
        on_meta: called with another key than those of tags, leases and locks; None for all.
    """

    def __init__(
        self, names: Names, near: Near | None, wakes: Wakes, on_meta: Callable[[str | None], None]
    ) -> None:
        self._names = names
        self._near = near
        self._wakes = wakes
        self._on_meta = on_meta

    def __call__(self, keys: Sequence[bytes] | None) -> None:
        """Keys that changed, in the order of the writes; None when all may have."""
        near = self._near
        if keys is None:
            if near is not None:
                near.flush()
            self._wakes.wake_all()
            self._on_meta(None)
            return
        texts = [key.decode("utf-8", "replace") for key in keys]
        if near is not None:
            near.invalidations += len(texts)
            near.changed(texts)
        if self._wakes.waiters:
            for text in texts:
                self._wakes.wake(text)
        meta = self._names.meta
        for text in texts:
            if text.startswith(meta):
                self._meta(text)

    def _meta(self, key: str) -> None:
        names = self._names
        if key.startswith(names.tag):
            if self._near is not None:
                self._near.tag_changed(key, key[len(names.tag) :])
        elif not key.startswith((names.lease, names.lock)):
            self._on_meta(key)
