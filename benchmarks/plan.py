"""What the command line asks of every benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.errors import BenchmarkError
from benchmarks.peers import Peer
from benchmarks.server import ServerOptions


@dataclass(frozen=True, slots=True)
class Plan:
    """``rounds`` and ``size`` replace what a benchmark would choose; ``only`` keeps contestants whose name
    contains one of its parts.
    """

    quick: bool = False
    rounds: int | None = None
    size: int | None = None
    only: tuple[str, ...] = ()
    server: ServerOptions = field(default_factory=ServerOptions)

    def rounds_or(self, full: int, quick: int) -> int:
        return self.rounds or (quick if self.quick else full)

    def size_or(self, full: int, quick: int) -> int:
        return self.size or (quick if self.quick else full)

    def chosen(self, peers: Sequence[Peer]) -> tuple[Peer, ...]:
        """The contestants that take part.

        Raises:
            BenchmarkError: none does.
        """
        if not self.only:
            return tuple(peers)
        found = tuple(peer for peer in peers if any(part in peer.name for part in self.only))
        if not found:
            raise BenchmarkError(f"no contestant's name contains {' or '.join(self.only)}")
        return found
