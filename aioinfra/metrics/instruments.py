"""Counters, gauges and histograms whose hot path changes one cell.

``labels(...)`` binds label values once and returns a slot; what runs on every request is the slot's one method.
Sums, cumulative buckets and text are made at scrape time. Each instrument is a collector of aioprometheus, so its
registry and renderer see it as one of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isnan
from typing import Any, Final

from aioprometheus import collectors

from aioinfra.errors import InvalidArgument
from aioinfra.metrics.family import MAX_SERIES, Family, NumberFamily
from aioinfra.metrics.slots import CounterSlot, GaugeSlot, HistogramSlot

DEFAULT_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counter(NumberFamily[CounterSlot], collectors.Counter):
    """A number that only grows, by label values. Arguments and errors as for `Family`."""

    _collector = collectors.Counter

    def _make(self, values: tuple[str, ...]) -> CounterSlot:
        return CounterSlot(self.name, self.label_names, values)

    def add(self, labels: Mapping[str, Any] | None, value: Any) -> None:
        """Count several, aioprometheus' way."""
        self._of(labels).add(value)

    def set(self, labels: Mapping[str, Any] | None, value: Any) -> None:
        """Put a series to a value that was counted elsewhere, aioprometheus' way."""
        self._of(labels).value = value


class Gauge(NumberFamily[GaugeSlot], collectors.Gauge):
    """A number that goes up and down, by label values. Arguments and errors as for `Family`."""

    _collector = collectors.Gauge

    def _make(self, values: tuple[str, ...]) -> GaugeSlot:
        return GaugeSlot(self.name, self.label_names, values)

    def set(self, labels: Mapping[str, Any] | None, value: Any) -> None:
        """Put a series to a value, aioprometheus' way."""
        self._of(labels).set(value)

    def dec(self, labels: Mapping[str, Any] | None = None) -> None:
        """One less, aioprometheus' way."""
        self._of(labels).dec()

    def add(self, labels: Mapping[str, Any] | None, value: Any) -> None:
        """Some more, aioprometheus' way."""
        self._of(labels).value += value


class Histogram(Family[HistogramSlot], collectors.Histogram):
    """Observations in buckets, by label values. Arguments and errors as for `Family`, and:

    Args:
        buckets: upper bounds, ascending and finite; +Inf is added.
    """

    _collector = collectors.Histogram

    def __init__(
        self,
        name: str,
        doc: str,
        registry: collectors.Registry,
        label_names: Sequence[str] = (),
        *,
        buckets: Sequence[float] = DEFAULT_BUCKETS,
        max_series: int = MAX_SERIES,
    ) -> None:
        bounds = tuple(float(bound) for bound in buckets)
        if not bounds or any(isnan(bound) or abs(bound) == inf for bound in bounds):
            raise InvalidArgument("buckets", "must be finite numbers, at least one")
        if list(bounds) != sorted(set(bounds)):
            raise InvalidArgument("buckets", "must be ascending")
        self.bounds = bounds
        super().__init__(name, doc, registry, label_names, max_series=max_series)

    def _make(self, values: tuple[str, ...]) -> HistogramSlot:
        return HistogramSlot(self.name, self.label_names, values, self.bounds)

    def observe(self, labels: Mapping[str, Any] | None, value: Any) -> None:
        """Count one observation, aioprometheus' way."""
        self._of(labels).observe(value)

    add = observe

    def get(self, labels: Mapping[str, Any] | None = None) -> dict[float | str, Any]:
        """Cumulative buckets, count and sum of one series; KeyError: there is none."""
        return self._view(self._present(labels))

    def get_all(self) -> list[tuple[dict[str, str], Any]]:
        """All series, as aioprometheus' renderer wants them."""
        return [(self._labels_of(slot), self._view(slot)) for slot in self.slots()]

    def _view(self, slot: HistogramSlot) -> dict[float | str, Any]:
        totals = slot.cumulative()
        view: dict[float | str, Any] = dict(zip((*self.bounds, inf), totals, strict=True))
        return {**view, self.COUNT_KEY: totals[-1], self.SUM_KEY: slot.total}
