"""Which results of a fill are still missing, for queues that do not count what is unfinished."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

CHUNK: Final = 500  # keys in one EXISTS: about 0.1 ms of the server


class Pending:
    """Keys of results, in the order in which they will appear.

    Ask the server how many of `chunk` exist and tell `found`; go on while that says so. The count is then
    exact near the end, and an upper bound before: what was finished far out of order is not seen yet.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = list(keys)[::-1]
        self._seen = 0

    def chunk(self) -> list[str]:
        """The next keys to ask for; empty when nothing is pending."""
        return self._keys[-CHUNK:]

    def found(self, count: int) -> bool:
        """Take the answer for `chunk`; whether to ask for the next one."""
        asked = len(self.chunk())
        self._seen = count
        if count < asked:
            return False
        del self._keys[-asked:]
        self._seen = 0
        return bool(self._keys)

    @property
    def left(self) -> int:
        return len(self._keys) - self._seen
