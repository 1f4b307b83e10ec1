"""What the keys of one cache are called on the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

META: Final = "aioinfra:cache-meta:"


@dataclass(frozen=True, slots=True)
class Names:
    """The keys beside the values; no key of a value begins like one of these.

    Attributes:
        namespace: what the values' keys begin with.
        meta: what all other keys begin with.
    """

    namespace: str
    meta: str = field(init=False)
    generation: str = field(init=False)
    clears: str = field(init=False)
    tag: str = field(init=False)
    lease: str = field(init=False)
    lock: str = field(init=False)
    dictionary: str = field(init=False)

    def __post_init__(self) -> None:
        meta = META + self.namespace
        object.__setattr__(self, "meta", meta)
        for name in ("generation", "clears"):
            object.__setattr__(self, name, meta + name)
        for name, start in (("tag", "tag:"), ("lease", "lease:"), ("lock", "lock:"), ("dictionary", "dict")):
            object.__setattr__(self, name, meta + start)

    @property
    def prefixes(self) -> tuple[str, str]:
        """Of everything that is tracked."""
        return self.namespace, self.meta
