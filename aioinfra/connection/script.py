"""A Lua script and its name on the server."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Script:
    """Lua source to run by its SHA-1, as EVALSHA wants it.

    Attributes:
        name: for errors and spans; the server never sees it.
        source: the Lua text.
    """

    name: str
    source: str = field(repr=False)
    sha: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # SHA-1 is the server's choice of a name for the text, not a protection.
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)
