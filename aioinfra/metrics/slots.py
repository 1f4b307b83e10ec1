"""Single series: what changes on a hot path, and the text that never does.

Threads: a slot's update is a few bytecodes without a call in between, so no update is lost under the
interpreter lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

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
    """Observations by size. ``counts`` holds one number a bucket, not cumulative, the last one for +Inf."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(
        self, name: str, names: Sequence[str], values: tuple[str, ...], bounds: tuple[float, ...]
    ) -> None:
        super().__init__(name, names, values)
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation. NaN is ignored: it would make the sum NaN for good."""
        if value != value:  # NaN is the one value that is not itself
            return
        at = bisect_left(self.bounds, value)
        self.counts[at] += 1
        self.total += value

    def cumulative(self) -> list[int]:
        """Observations up to each bound, the last one all of them."""
        running, totals = 0, []
        for count in self.counts:
            running += count
            totals.append(running)
        return totals
