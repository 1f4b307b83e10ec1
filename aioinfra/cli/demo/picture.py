"""One look at the running demo, as values: what the live view draws and the summary sums up."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aioinfra.cli.demo.ledger import Promise
from aioinfra.cli.demo.logs import LogLine

HISTORY: Final = 60  # points of a sparkline


@dataclass(slots=True)
class Series:
    """A figure with its latest values, oldest first."""

    values: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def add(self, value: float) -> None:
        self.values.append(value)

    @property
    def last(self) -> float:
        return self.values[-1] if self.values else 0.0


@dataclass(slots=True)
class HttpPicture:
    """The last second's traffic; latencies in seconds."""

    rate: Series = field(default_factory=Series)
    p50: float = 0.0
    p99: float = 0.0
    answers: int = 0
    failures: int = 0


@dataclass(slots=True)
class CachePicture:
    """Reads since the start, over all layers of the web process' cache."""

    hits: int = 0
    misses: int = 0
    recent: Series = field(default_factory=Series)  # hit rate between two looks, 0 to 1

    @property
    def hit_rate(self) -> float:
        reads = self.hits + self.misses
        return self.hits / reads if reads else 0.0


@dataclass(slots=True)
class QueuePicture:
    """One queue: how much waits, runs and is done; ``rate`` in jobs per second."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    rate: Series = field(default_factory=Series)


@dataclass(frozen=True, slots=True)
class Mail:
    """A delivered message."""

    to: str
    subject: str
    path: Path


@dataclass(slots=True)
class Picture:
    """Everything a view shows. Changed in place by the monitor, between two drawings."""

    url: str
    directory: Path
    workers: int
    elapsed: float = 0.0
    seconds: float | None = None
    phase: str = "starting"
    eased: bool = False
    http: HttpPicture = field(default_factory=HttpPicture)
    cache: CachePicture = field(default_factory=CachePicture)
    queues: dict[str, QueuePicture] = field(default_factory=dict)
    reports: list[Promise] = field(default_factory=list)
    mails: deque[Mail] = field(default_factory=lambda: deque(maxlen=8))
    lines: deque[LogLine] = field(default_factory=lambda: deque(maxlen=30))

    @property
    def jobs_rate(self) -> float:
        """Jobs per second over all queues."""
        return sum(queue.rate.last for queue in self.queues.values())

    @property
    def jobs_done(self) -> int:
        return sum(queue.done for queue in self.queues.values())

    @property
    def jobs_history(self) -> list[float]:
        """Jobs per second over all queues, oldest first."""
        return sum_series(queue.rate.values for queue in self.queues.values())


def sum_series(series: Iterable[Iterable[float]]) -> list[float]:
    """Point by point sum of series that end at the same moment."""
    columns = [list(values)[::-1] for values in series]
    longest = max((len(column) for column in columns), default=0)
    return [sum(column[index] for column in columns if index < len(column)) for index in range(longest)][::-1]
