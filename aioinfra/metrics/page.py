"""What the two formats of the metrics page write differently: heads, histograms, the end.

OpenMetrics names a counter's family without ``_total``, quotes HELP, ends the page, and takes exemplars. A counter
whose name does not end so is of type unknown there: its samples keep their name in both formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from aioinfra import context
from aioinfra.metrics.escaping import format_value
from aioinfra.metrics.slots import Exemplar, HistogramSlot

_LONGEST_TRACE_ID: Final = 64
"""Characters; the specification allows 128 for names and values together."""


class Page(Protocol):
    """One of the formats."""

    end: Sequence[str]
    """The last lines."""

    def head(self, name: str, kind: str, doc: str) -> tuple[str, str]:
        """The lines above a family's samples; ``doc`` is escaped for the text format."""
        ...

    def histogram(self, name: str, slot: HistogramSlot, edges: Sequence[str]) -> Iterator[str]:
        """One series; ``edges`` are the ``le`` labels."""
        ...


class TextPage:
    """Version 0.0.4."""

    end: Sequence[str] = ()

    def head(self, name: str, kind: str, doc: str) -> tuple[str, str]:
        return f"# HELP {name} {doc}", f"# TYPE {name} {kind}"

    def histogram(self, name: str, slot: HistogramSlot, edges: Sequence[str]) -> Iterator[str]:
        totals = slot.cumulative()
        start = f"{name}_bucket{{{slot.label_text}," if slot.label_text else f"{name}_bucket{{"
        for edge, total in zip(edges, totals, strict=True):
            yield f"{start}{edge}}} {total}"
        yield from _sum_and_count(name, slot, totals[-1])


class OpenMetricsPage:
    """Version 1.0.0.

    Args:
        names: of all families on the page.
    """

    end: Sequence[str] = ("# EOF",)

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def head(self, name: str, kind: str, doc: str) -> tuple[str, str]:
        if kind == "counter":
            family = name.removesuffix("_total")
            if family in ("", name) or family in self._names:
                kind = "unknown"
            else:
                name = family
        quoted = doc.replace('"', '\\"')
        return f"# TYPE {name} {kind}", f"# HELP {name} {quoted}"

    def histogram(self, name: str, slot: HistogramSlot, edges: Sequence[str]) -> Iterator[str]:
        totals = slot.cumulative()
        start = f"{name}_bucket{{{slot.label_text}," if slot.label_text else f"{name}_bucket{{"
        exemplars = slot.exemplars
        for index, (edge, total) in enumerate(zip(edges, totals, strict=True)):
            yield f"{start}{edge}}} {total}{_exemplar(exemplars.get(index))}"
        if slot.bounds[0] >= 0:  # a sum that may go down is none in OpenMetrics
            yield from _sum_and_count(name, slot, totals[-1])


def _sum_and_count(name: str, slot: HistogramSlot, count: int) -> Iterator[str]:
    braces = f"{{{slot.label_text}}}" if slot.label_text else ""
    yield f"{name}_sum{braces} {format_value(slot.total)}"
    yield f"{name}_count{braces} {count}"


def _exemplar(exemplar: Exemplar | None) -> str:
    """Nothing for what cannot be a trace's id: it may come from anywhere."""
    if exemplar is None or len(exemplar.trace_id) > _LONGEST_TRACE_ID:
        return ""
    if not context.is_valid_id(exemplar.trace_id):
        return ""
    return f' # {{trace_id="{exemplar.trace_id}"}} {format_value(exemplar.value)} {exemplar.at:.3f}'
