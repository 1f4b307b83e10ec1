"""What is remembered while the server is gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Outage:
    """One time without the server.

    Attributes:
        started: ``clock.monotonic()`` when it began.
        reason: of the first error; holds no values.
        keys, patterns: to be deleted on recovery.
        everything: too many to remember, so the namespace is to be cleared.
    """

    started: float
    reason: str
    keys: set[str] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)
    everything: bool = False

    @property
    def pending(self) -> bool:
        """Whether anything is to be deleted."""
        return bool(self.keys or self.patterns or self.everything)

    def remember(self, keys: Iterable[str], patterns: Iterable[str], bound: int) -> None:
        """Add to what is to be deleted."""
        if self.everything:
            return
        self.keys.update(keys)
        self.patterns.update(patterns)
        if len(self.keys) + len(self.patterns) > bound:
            self.everything = True
            self.keys.clear()
            self.patterns.clear()
