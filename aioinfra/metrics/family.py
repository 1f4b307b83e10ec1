"""A metric's series by label values, bounded.

A family holds at most ``max_series`` series. Beyond, new label values share one series labelled ``__other__``, and
`Family.overflowed` counts how often that happened: a label that somebody fills with ids costs a bounded amount.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

from aioprometheus import collectors

from aioinfra.errors import InvalidArgument
from aioinfra.metrics.escaping import LONGEST_LABEL, EscapedText, escape_help, label_value, plain
from aioinfra.metrics.slots import NumberSlot, Slot

OVERFLOW: Final = "__other__"
MAX_SERIES: Final = 1_000

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_RESERVED: Final = frozenset({"job", "le", "quantile"})

SlotT = TypeVar("SlotT", bound="Slot")
NumberSlotT = TypeVar("NumberSlotT", bound="NumberSlot")


class Family(Generic[SlotT]):
    """What counter, gauge and histogram have in common: the series by label values.

    Args:
        name: ends in ``_total`` by convention when it counts.
        doc: one sentence for the HELP line.
        registry: where it is rendered.
        label_names: in the order in which ``labels`` takes the values.
        max_series: bound on the series.

    Raises:
        InvalidArgument: names what does not fit; also when the registry has the name already.
    """

    name: str
    doc: str
    label_names: tuple[str, ...]
    overflowed: int

    _collector: ClassVar[type[collectors.Collector]]
    """Which of aioprometheus' collectors this is."""

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
        self._register(doc, registry)

    def _register(self, doc: str, registry: collectors.Registry) -> None:
        collector: Any = self
        try:
            self._collector.__init__(collector, self.name, doc, registry=registry)  # it registers itself
        except ValueError as error:
            raise InvalidArgument("name", str(error)) from None

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


class NumberFamily(Family[NumberSlotT]):
    """What counter and gauge have in common."""

    def inc(self, labels: Mapping[str, Any] | None = None) -> None:
        """One more, aioprometheus' way."""
        self._of(labels).inc()

    def get(self, labels: Mapping[str, Any] | None = None) -> float:
        """The value of one series; KeyError: there is none."""
        return self._present(labels).value

    def get_all(self) -> list[tuple[dict[str, str], Any]]:
        """All series, as aioprometheus' renderer wants them."""
        return [(self._labels_of(slot), slot.value) for slot in self.slots()]


def _checked(name: str, doc: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument("name", "must match [a-zA-Z_:][a-zA-Z0-9_:]*")
    if not isinstance(doc, str) or not doc:
        raise InvalidArgument("doc", "must be a text")
    return escape_help(doc)
