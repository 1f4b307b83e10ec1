"""The metrics page: what aioprometheus' renderer would say, made in chunks from line heads that are kept.

`render` lets the event loop go on after every few hundred lines: a scrape of ten thousand series is no hiccup.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, version 0.0.4)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

from aioprometheus.collectors import Registry
from aioprometheus.formats.text import TextFormatter

from aioinfra.metrics.catalogue import BY_NAME
from aioinfra.metrics.escaping import format_value
from aioinfra.metrics.instruments import Counter, Family, Gauge, Histogram, HistogramSlot

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OVERFLOW_METRIC: Final = "aioinfra_metrics_overflow_total"

_LINES_A_CHUNK: Final = 500


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
            yield from TextFormatter().marshall_lines(collector)
    yield from _overflow(collectors)


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
