"""Single series: what changes on a hot path, and the text that never does.

Threads: a slot's update is a few bytecodes without a call in between, so no update is lost under the
interpreter lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from time import time
from typing import NamedTuple

from aioinfra.errors import InvalidArgument
from aioinfra.metrics.escaping import escape_label


class Slot:
    """One series. ``head`` is the part of its lines that never changes: ``name{a="b",c="d"}``."""

    __slots__ = ("head", "label_text", "values")

    def __init__(self, name: str, names: Sequence[str], values: tuple[str, ...]) -> None:
        self.values = values
        pairs = zip(names, values, strict=True)
        self.label_text = ",".join(f'{label}="{escape_label(value)}"' for label, value in pairs)
        self.head = f"{name}{{{self.label_text}}} " if values else f"{name} "


class Exemplar(NamedTuple):
    """One observation that leads to its trace.

    Attributes:
        trace_id: where it was made.
        value: what was observed.
        at: Unix time, seconds.
    """

    trace_id: str
    value: float
    at: float


class NumberSlot(Slot):
    """One number."""

    __slots__ = ("value",)

    def __init__(self, name: str, names: Sequence[str], values: tuple[str, ...]) -> None:
        super().__init__(name, names, values)
        self.value: float = 0

    def inc(self) -> None:
        """One more."""
        self.value += 1


class CounterSlot(NumberSlot):
    """A number that grows."""

    __slots__ = ()

    def add(self, amount: float) -> None:
        """Count several. Raises InvalidArgument for a negative amount or NaN."""
        if not amount >= 0:
            raise InvalidArgument("amount", "a counter cannot decrease")
        self.value += amount


class GaugeSlot(NumberSlot):
    """A number that goes up and down."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Put it to a value."""
        self.value = value

    def dec(self) -> None:
        """One less."""
        self.value -= 1


class HistogramSlot(Slot):
    """Observations by size. ``counts`` holds one number a bucket, not cumulative, the last one for +Inf;
    ``exemplars`` the latest observation of a bucket that came with a trace."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(
        self, name: str, names: Sequence[str], values: tuple[str, ...], bounds: tuple[float, ...]
    ) -> None:
        super().__init__(name, names, values)
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.exemplars: dict[int, Exemplar] = {}
        self.total = 0.0

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Count one observation. NaN is ignored: it would make the sum NaN for good.

        Args:
            value: what was observed.
            trace_id: shown beside its bucket on an OpenMetrics page, if it is 1 to 64 of ``A-Za-z0-9._-``.
        """
        if value != value:  # NaN is the one value that is not itself
            return
        at = bisect_left(self.bounds, value)
        self.counts[at] += 1
        self.total += value
        if trace_id is not None:
            self.exemplars[at] = Exemplar(trace_id, value, time())

    def cumulative(self) -> list[int]:
        """Observations up to each bound, the last one all of them."""
        running, totals = 0, []
        for count in self.counts:
            running += count
            totals.append(running)
        return totals
