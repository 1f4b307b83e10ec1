"""Numbers of a run in bounded memory: latencies, rates, and what a Prometheus page says."""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_GROWTH: Final = math.log(1.02)  # buckets 2 % wide, so a quantile is at most 2 % too high
_LEAST: Final = 1e-6  # seconds
_FAULT_KINDS: Final = 100


class Latencies:
    """A histogram of durations with logarithmic buckets, about 1,200 for a microsecond to a day."""

    __slots__ = ("_buckets", "count")

    def __init__(self) -> None:
        self._buckets = Counter[int]()
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count one duration. O(1)."""
        self._buckets[math.ceil(math.log(max(seconds, _LEAST) / _LEAST) / _GROWTH)] += 1
        self.count += 1

    def quantile(self, share: float) -> float:
        """The duration in seconds that ``share`` (0 to 1) of all are within; NaN without any. O(buckets)."""
        rank = math.ceil(share * self.count)
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return _LEAST * math.exp(bucket * _GROWTH)
        return math.nan


class Rate:
    """Growth of a counter per second over the last ``window`` seconds."""

    __slots__ = ("_samples", "_window")

    def __init__(self, window: float = 5.0) -> None:
        self._window = window
        self._samples: deque[tuple[float, float]] = deque()

    def sample(self, now: float, value: float) -> None:
        """Note a counter's value at a monotonic time in seconds."""
        self._samples.append((now, value))
        while self._samples[-1][0] - self._samples[0][0] > self._window:
            self._samples.popleft()

    @property
    def value(self) -> float:
        """Per second; 0 until there are two samples."""
        (first, low), (last, high) = (
            (self._samples[0], self._samples[-1]) if self._samples else ((0, 0), (0, 0))
        )
        return (high - low) / (last - first) if last > first else 0.0


@dataclass(slots=True)
class HttpFigures:
    """What the demo's own client saw. ``latencies`` has all answers, ``recent`` those since the last turn."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)
    recent: Latencies = field(default_factory=Latencies)

    @property
    def answers(self) -> int:
        return self.latencies.count

    @property
    def failures(self) -> int:
        """Requests without an answer, or with another than expected."""
        return self.faults.total()

    def answered(self, status: int, seconds: float) -> None:
        """Count an answer and the time it took."""
        self.statuses[status] += 1
        self.latencies.add(seconds)
        self.recent.add(seconds)

    def failed(self, what: str) -> None:
        """Count a fault under its description; beyond a hundred kinds they share one."""
        self.faults[what if len(self.faults) < _FAULT_KINDS else "others"] += 1

    def turn(self) -> Latencies:
        """Take the recent latencies and begin new ones."""
        recent, self.recent = self.recent, Latencies()
        return recent


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a Prometheus page."""

    name: str
    labels: dict[str, str]
    value: float


_LINE = re.compile(
    r'(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>(?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?'
    r" (?P<value>\S+)(?: -?\d+)?"
)
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"\s*(?:,|$)')
_ESCAPED: Final = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def parse_metrics(page: str) -> Iterator[Sample]:
    """The samples of a page in the Prometheus text format 0.0.4, strictly.

    https://prometheus.io/docs/instrumenting/exposition_formats/

    Raises:
        ValueError: a line is not in that format; the message holds its number.
    """
    for number, line in enumerate(page.split("\n"), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} is not a sample")
        try:
            yield Sample(match["name"], _labels(match["labels"] or ""), float(match["value"]))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None


def _labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        if match is None:
            raise ValueError("malformed labels")
        labels[match[1]] = re.sub(r'\\[\\n"]', lambda escaped: _ESCAPED[escaped[0]], match[2])
        position = match.end()
    return labels


def total(samples: list[Sample], name: str, **labels: str) -> float:
    """Sum of the samples of that name whose labels include the given ones."""
    return sum(
        sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
    )
