"""The metrics page, in the text format or as OpenMetrics, made in chunks from line heads that are kept.

`render` lets the event loop go on after every few hundred lines: a scrape of ten thousand series is no hiccup.
Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, version 0.0.4),
https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md (1.0.0)
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
from aioinfra.metrics.negotiation import OPENMETRICS, TEXT, negotiate
from aioinfra.metrics.page import OpenMetricsPage, Page, TextPage
from aioinfra.metrics.registry import MetricsRegistry

CONTENT_TYPE: Final = TEXT
OVERFLOW_METRIC: Final = "aioinfra_metrics_overflow_total"

_LINES_A_CHUNK: Final = 500
_NOT_IN_NAME: Final = re.compile(r"[^a-zA-Z0-9_]|^(?=[0-9])")

logger = logging.getLogger("aioinfra.metrics")


async def answer(registry: Registry, accept: str | None = None) -> tuple[bytes, str]:
    """The page that an Accept header asks for, and its content type: all that a route needs."""
    content_type = negotiate(accept)
    return await render(registry, content_type), content_type


async def render(registry: Registry, content_type: str = TEXT) -> bytes:
    """The page. The loop runs on between chunks; each series' numbers are exact at the moment it is written.

    Args:
        registry: aioprometheus' or ours; figures that are read at a scrape are read first.
        content_type: one of the two that `negotiate` gives.
    """
    if isinstance(registry, MetricsRegistry):
        await registry.refresh()
    chunks = []
    for chunk in _chunks(registry, content_type):
        chunks.append(chunk)
        await asyncio.sleep(0)
    return b"".join(chunks)


def render_now(registry: Registry, content_type: str = TEXT) -> bytes:
    """The page, in one go."""
    if isinstance(registry, MetricsRegistry):
        registry.refresh_now()
    return b"".join(_chunks(registry, content_type))


def _chunks(registry: Registry, content_type: str) -> Iterator[bytes]:
    collectors: list[Any] = list(registry.collectors.values())
    names = frozenset(collector.name for collector in collectors)
    page: Page = OpenMetricsPage(names) if content_type == OPENMETRICS else TextPage()
    lines: list[str] = []
    for line in _lines(collectors, page):
        lines.append(line)
        if len(lines) >= _LINES_A_CHUNK:
            yield _encoded(lines)
            lines.clear()
    yield _encoded([*lines, *page.end])


def _encoded(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _lines(collectors: list[Any], page: Page) -> Iterator[str]:
    for collector in collectors:
        if isinstance(collector, Counter | Gauge | Histogram):
            yield from page.head(collector.name, collector.kind.name, collector.doc)
            yield from _samples(collector, page)
        else:  # an application's own collector of aioprometheus
            yield from _foreign(collector, page)
    yield from _overflow(collectors, page)


def _foreign(collector: Any, page: Page) -> list[str]:
    """The lines of a collector that is not ours; one that fails is left out and does not take the page with it."""
    try:
        lines = _EscapingFormatter().marshall_lines(collector)
    except Exception:
        logger.exception("the collector %s cannot be rendered", collector.name)
        return []
    return [*page.head(collector.name, collector.kind.name, escape_help(collector.doc)), *lines[2:]]


class _EscapingFormatter(TextFormatter):
    """aioprometheus' formatter writes label names, label values and numbers as they come."""

    def _format_line(self, name: str, labels: Any, value: Any, const_labels: Any) -> str:
        return super()._format_line(name, _safe(labels), _Written(format_value(value)), _safe(const_labels))


class _Written(float):
    """A number with the text that stands for it on the page."""

    def __new__(cls, text: str) -> _Written:
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str

    def __format__(self, _spec: str) -> str:
        return self.text


def _safe(labels: Mapping[Any, Any] | None) -> dict[str, str]:
    return {
        _NOT_IN_NAME.sub("_", str(name)) or "_": EscapedText(plain(value))
        for name, value in (labels or {}).items()
    }


def _samples(family: Counter | Gauge | Histogram, page: Page) -> Iterator[str]:
    if isinstance(family, Histogram):
        edges = [f'le="{format_value(bound)}"' for bound in (*family.bounds, float("inf"))]
        for slot in family.slots():
            yield from page.histogram(family.name, slot, edges)
        return
    for series in family.slots():
        yield series.head + format_value(series.value)


def _overflow(collectors: list[Any], page: Page) -> Iterator[str]:
    """How often each family met label values beyond its bound; nothing while that never happened."""
    families = [family for family in collectors if isinstance(family, Family) and family.overflowed]
    if not families:
        return
    yield from page.head(OVERFLOW_METRIC, "counter", BY_NAME[OVERFLOW_METRIC].help)
    for family in families:
        yield f'{OVERFLOW_METRIC}{{metric="{family.name}"}} {family.overflowed}'
