"""Contestants. Each runs in processes of its own, so that it can live in an environment of its own.

Everything that such a process imports (this package and the contestant's module) needs the standard library
and the contestant's own library only.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Peer:
    """How to start one contestant.

    Attributes:
        name: as printed.
        factory: ``module:name``; called with the server's URL and ``options`` in the contestant's process.
        options: keyword arguments of the factory; must survive JSON.
        packages: distributions whose versions are reported.
        python: the interpreter of the contestant's environment.
        share: fraction of the benchmark's jobs that this contestant gets, for one whose rate does not depend
            on how many there are and that would take too long.
    """

    name: str
    factory: str
    options: Mapping[str, object] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    python: str = sys.executable
    share: float = 1.0
