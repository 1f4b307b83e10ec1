"""The metrics page: what aioprometheus' renderer would say, made in chunks from line heads that are kept.

`render` lets the event loop go on after every few hundred lines: a scrape of ten thousand series is no hiccup.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, version 0.0.4)
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aioprometheus.collectors import Registry
from aioprometheus.formats.text import TextFormatter

from aioinfra.metrics.catalogue import BY_NAME
from aioinfra.metrics.escaping import EscapedText, escape_help, format_value, plain
from aioinfra.metrics.family import Family
from aioinfra.metrics.instruments import Counter, Gauge, Histogram
from aioinfra.metrics.slots import HistogramSlot

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OVERFLOW_METRIC: Final = "aioinfra_metrics_overflow_total"

_LINES_A_CHUNK: Final = 500
_NOT_IN_NAME: Final = re.compile(r"[^a-zA-Z0-9_]|^(?=[0-9])")

logger = logging.getLogger("aioinfra.metrics")


async def render(registry: Registry) -> bytes:
    """The page. The loop runs on between chunks; each series' numbers are exact at the moment it is written."""
    chunks = []
    for chunk in _chunks(registry):
        chunks.append(chunk)
        await asyncio.sleep(0)
    return b"".join(chunks)


def render_now(registry: Registry) -> bytes:
    """The page, in one go."""
    return b"".join(_chunks(registry))


def _chunks(registry: Registry) -> Iterator[bytes]:
    lines: list[str] = []
    for line in _lines(registry):
        lines.append(line)
        if len(lines) >= _LINES_A_CHUNK:
            yield _encoded(lines)
            lines.clear()
    yield _encoded(lines)


def _encoded(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _lines(registry: Registry) -> Iterator[str]:
    collectors: list[Any] = list(registry.get_all())
    for collector in collectors:
        if isinstance(collector, Counter | Gauge | Histogram):
            yield f"# HELP {collector.name} {collector.doc}"
            yield f"# TYPE {collector.name} {collector.kind.name}"
            yield from _samples(collector)
        else:  # an application's own collector of aioprometheus
            yield from _foreign(collector)
    yield from _overflow(collectors)


def _foreign(collector: Any) -> list[str]:
    """The lines of a collector that is not ours; one that fails is left out and does not take the page with it."""
    try:
        lines = _EscapingFormatter().marshall_lines(collector)
    except Exception:
        logger.exception("the collector %s cannot be rendered", collector.name)
        return []
    lines[0] = f"# HELP {collector.name} {escape_help(collector.doc)}"
    return lines


class _EscapingFormatter(TextFormatter):
    """aioprometheus' formatter writes label names and values as they come."""

    def _format_line(self, name: str, labels: Any, value: Any, const_labels: Any) -> str:
        return super()._format_line(name, _safe(labels), value, _safe(const_labels))


def _safe(labels: Mapping[Any, Any] | None) -> dict[str, str]:
    return {
        _NOT_IN_NAME.sub("_", str(name)) or "_": EscapedText(plain(value))
        for name, value in (labels or {}).items()
    }


def _samples(family: Counter | Gauge | Histogram) -> Iterator[str]:
    if isinstance(family, Histogram):
        edges = [f'le="{format_value(bound)}"' for bound in (*family.bounds, float("inf"))]
        for slot in family.slots():
            yield from _histogram(family.name, slot, edges)
        return
    for series in family.slots():
        yield series.head + format_value(series.value)


def _histogram(name: str, slot: HistogramSlot, edges: list[str]) -> Iterator[str]:
    totals = slot.cumulative()
    labels = f"{slot.label_text}," if slot.label_text else ""
    braces = f"{{{slot.label_text}}}" if slot.label_text else ""
    for edge, total in zip(edges, totals, strict=True):
        yield f"{name}_bucket{{{labels}{edge}}} {total}"
    yield f"{name}_sum{braces} {format_value(slot.total)}"
    yield f"{name}_count{braces} {totals[-1]}"


def _overflow(collectors: list[Any]) -> Iterator[str]:
    """How often each family met label values beyond its bound; nothing while that never happened."""
    families = [family for family in collectors if isinstance(family, Family) and family.overflowed]
    if not families:
        return
    yield f"# HELP {OVERFLOW_METRIC} {BY_NAME[OVERFLOW_METRIC].help}"
    yield f"# TYPE {OVERFLOW_METRIC} counter"
    for family in families:
        yield f'{OVERFLOW_METRIC}{{metric="{family.name}"}} {family.overflowed}'
