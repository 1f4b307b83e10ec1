"""Counters, gauges and histograms whose hot path changes one cell.

``labels(...)`` binds label values once and returns a slot; what runs on every request is the slot's one method.
Sums, cumulative buckets and text are made at scrape time. Each instrument is a collector of aioprometheus, so its
registry and renderer see it as one of their own.

Threads: a slot's update is a few bytecodes without a call in between, so no update is lost under the
interpreter lock.

A family holds at most ``max_series`` series. Beyond, new label values share one series labelled ``__other__``, and
`Family.overflowed` counts how often that happened: a label that somebody fills with ids costs a bounded amount.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import inf, isnan
from typing import Any, Final, Generic, TypeVar

from aioprometheus import collectors

from aioinfra.errors import InvalidArgument
from aioinfra.metrics.escaping import (
    LONGEST_LABEL,
    EscapedText,
    escape_help,
    escape_label,
    label_value,
    plain,
)

OVERFLOW: Final = "__other__"
MAX_SERIES: Final = 1_000
DEFAULT_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_RESERVED: Final = frozenset({"job", "le", "quantile"})

SlotT = TypeVar("SlotT", bound="Slot")


class Slot:
    """One series. ``head`` is the part of its lines that never changes: ``name{a="b",c="d"}``."""

    __slots__ = ("head", "label_text", "values")

    def __init__(self, name: str, names: Sequence[str], values: tuple[str, ...]) -> None:
        self.values = values
        pairs = zip(names, values, strict=True)
        self.label_text = ",".join(f'{label}="{escape_label(value)}"' for label, value in pairs)
        self.head = f"{name}{{{self.label_text}}} " if values else f"{name} "


class CounterSlot(Slot):
    """A number that grows."""

    __slots__ = ("value",)

    def __init__(self, name: str, names: Sequence[str], values: tuple[str, ...]) -> None:
        super().__init__(name, names, values)
        self.value: float = 0

    def inc(self) -> None:
        """Count one."""
        self.value += 1

    def add(self, amount: float) -> None:
        """Count several. Raises InvalidArgument for a negative amount or NaN."""
        if not amount >= 0:
            raise InvalidArgument("amount", "a counter cannot decrease")
        self.value += amount


class GaugeSlot(Slot):
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self, name: str, names: Sequence[str], values: tuple[str, ...]) -> None:
        super().__init__(name, names, values)
        self.value: float = 0

    def set(self, value: float) -> None:
        """Put it to a value."""
        self.value = value

    def inc(self) -> None:
        """One more."""
        self.value += 1

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


class Family(Generic[SlotT]):
    """What counter, gauge and histogram have in common: the series by label values."""

    name: str
    doc: str
    label_names: tuple[str, ...]
    overflowed: int

    def _set_up(self, label_names: Sequence[str], max_series: int) -> None:
        if isinstance(label_names, str):
            raise InvalidArgument("label_names", "must be a list of names, not one string")
        for label in label_names:
            if not _LABEL_NAME.fullmatch(label) or label.startswith("__") or label in _RESERVED:
                raise InvalidArgument("label_names", f"{plain(label)!r} cannot be a label's name")
        if len(set(label_names)) != len(label_names):
            raise InvalidArgument("label_names", "must differ")
        if isinstance(max_series, bool) or not isinstance(max_series, int) or max_series < 1:
            raise InvalidArgument("max_series", "must be a whole number of at least 1")
        self.label_names = tuple(label_names)
        self.overflowed = 0
        self._max_series = max_series
        self._slots: dict[tuple[str, ...], SlotT] = {}
        self._bound: dict[tuple[object, ...], SlotT] = {}
        if not label_names:
            self.labels()

    def labels(self, *values: object) -> SlotT:
        """The series of these label values, in the order of the names; made when it is new. Keep it on hot paths.

        Raises:
            InvalidArgument: the number of values is wrong.
        """
        try:
            slot = self._bound.get(values)
        except TypeError:  # a value that cannot be hashed is taken as its text
            return self._slot(values)
        return self._bind(values) if slot is None else slot

    def _bind(self, values: tuple[object, ...]) -> SlotT:
        slot = self._slot(values)
        # 1, True and 1.0 are one key of a dict, but not one text: only texts are remembered.
        if len(self._bound) < 2 * self._max_series and all(
            type(value) is str and len(value) <= LONGEST_LABEL for value in values
        ):
            self._bound[values] = slot
        return slot

    def _slot(self, values: tuple[object, ...]) -> SlotT:
        if len(values) != len(self.label_names):
            raise InvalidArgument(
                "labels", f"{self.name} has the labels {', '.join(self.label_names) or '(none)'}"
            )
        key = tuple(map(label_value, values))
        slot = self._slots.get(key)
        if slot is not None:
            return slot
        if len(self._slots) >= self._max_series:
            self.overflowed += 1
            key = (OVERFLOW,) * len(key)
            slot = self._slots.get(key)
            if slot is not None:
                return slot
        # setdefault: of two threads that make the same series at once, both get the one that was kept.
        return self._slots.setdefault(key, self._make(key))

    def slots(self) -> list[SlotT]:
        """All series now."""
        return list(self._slots.values())

    def _make(self, values: tuple[str, ...]) -> SlotT:
        raise NotImplementedError

    def _of(self, labels: Mapping[str, Any] | None) -> SlotT:
        """The series of aioprometheus' way to name it: a mapping of all labels."""
        given = dict(labels or {})
        values = [given.pop(name, "") for name in self.label_names]
        if given:
            raise InvalidArgument(
                "labels", f"{self.name} has the labels {', '.join(self.label_names) or '(none)'}"
            )
        return self.labels(*values)

    def _present(self, labels: Mapping[str, Any] | None) -> SlotT:
        """As `_of`, but a series that is not there is a KeyError, and stays away: reading makes none."""
        given = labels or {}
        return self._slots[tuple(label_value(given[name]) for name in self.label_names)]

    def _labels_of(self, slot: SlotT) -> dict[str, str]:
        return {name: EscapedText(value) for name, value in zip(self.label_names, slot.values, strict=True)}


def _checked(name: str, doc: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument("name", "must match [a-zA-Z_:][a-zA-Z0-9_:]*")
    if not isinstance(doc, str) or not doc:
        raise InvalidArgument("doc", "must be a text")
    return escape_help(doc)


class Counter(Family[CounterSlot], collectors.Counter):
    """A number that only grows, by label values.

    Args:
        name: ends in ``_total`` by convention.
        doc: one sentence for the HELP line.
        registry: where it is rendered.
        label_names: in the order in which ``labels`` takes the values.
        max_series: bound on the series.

    Raises:
        InvalidArgument: names what does not fit; also when the registry has the name already.
    """

    def __init__(
        self,
        name: str,
        doc: str,
        registry: collectors.Registry,
        label_names: Sequence[str] = (),
        *,
        max_series: int = MAX_SERIES,
    ) -> None:
        doc = _checked(name, doc)
        self.name = name
        self._set_up(label_names, max_series)
        _register(collectors.Counter, self, name, doc, registry)

    def _make(self, values: tuple[str, ...]) -> CounterSlot:
        return CounterSlot(self.name, self.label_names, values)

    def inc(self, labels: Mapping[str, Any] | None = None) -> None:
        """Count one, aioprometheus' way."""
        self._of(labels).inc()

    def add(self, labels: Mapping[str, Any] | None, value: Any) -> None:
        """Count several, aioprometheus' way."""
        self._of(labels).add(value)

    def set(self, labels: Mapping[str, Any] | None, value: Any) -> None:
        """Put a series to a value that was counted elsewhere, aioprometheus' way."""
        self._of(labels).value = value

    def get(self, labels: Mapping[str, Any] | None = None) -> float:
        """The value of one series; KeyError: there is none."""
        return self._present(labels).value

    def get_all(self) -> list[tuple[dict[str, str], Any]]:
        """All series, as aioprometheus' renderer wants them."""
        return [(self._labels_of(slot), slot.value) for slot in self.slots()]


class Gauge(Family[GaugeSlot], collectors.Gauge):
    """A number that goes up and down, by label values. Arguments and errors as for `Counter`."""

    def __init__(
        self,
        name: str,
        doc: str,
        registry: collectors.Registry,
        label_names: Sequence[str] = (),
        *,
        max_series: int = MAX_SERIES,
    ) -> None:
        doc = _checked(name, doc)
        self.name = name
        self._set_up(label_names, max_series)
        _register(collectors.Gauge, self, name, doc, registry)

    def _make(self, values: tuple[str, ...]) -> GaugeSlot:
        return GaugeSlot(self.name, self.label_names, values)

    def set(self, labels: Mapping[str, Any] | None, value: Any) -> None:
        """Put a series to a value, aioprometheus' way."""
        self._of(labels).set(value)

    def inc(self, labels: Mapping[str, Any] | None = None) -> None:
        """One more, aioprometheus' way."""
        self._of(labels).inc()

    def dec(self, labels: Mapping[str, Any] | None = None) -> None:
        """One less, aioprometheus' way."""
        self._of(labels).dec()

    def add(self, labels: Mapping[str, Any] | None, value: Any) -> None:
        """Some more, aioprometheus' way."""
        self._of(labels).value += value

    def get(self, labels: Mapping[str, Any] | None = None) -> float:
        """The value of one series; KeyError: there is none."""
        return self._present(labels).value

    def get_all(self) -> list[tuple[dict[str, str], Any]]:
        """All series, as aioprometheus' renderer wants them."""
        return [(self._labels_of(slot), slot.value) for slot in self.slots()]


class Histogram(Family[HistogramSlot], collectors.Histogram):
    """Observations in buckets, by label values. Arguments and errors as for `Counter`, and:

    Args:
        buckets: upper bounds, ascending and finite; +Inf is added.
    """

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
        doc = _checked(name, doc)
        bounds = tuple(float(bound) for bound in buckets)
        if not bounds or any(isnan(bound) or abs(bound) == inf for bound in bounds):
            raise InvalidArgument("buckets", "must be finite numbers, at least one")
        if list(bounds) != sorted(set(bounds)):
            raise InvalidArgument("buckets", "must be ascending")
        self.name = name
        self.bounds = bounds
        self._set_up(label_names, max_series)
        _register(collectors.Histogram, self, name, doc, registry)

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


def _register(
    kind: type[collectors.Collector], family: Any, name: str, doc: str, registry: collectors.Registry
) -> None:
    try:
        kind.__init__(family, name, doc, registry=registry)  # it registers itself
    except ValueError as error:
        raise InvalidArgument("name", str(error)) from None
