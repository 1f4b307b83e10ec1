"""What open caches count by themselves, read at a scrape: a hit in L1 costs less than telling of it would."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from aioinfra.metrics.registry import MetricsRegistry

Source = Callable[[], Mapping[str, float]]

_COUNTED: Final = {
    "l1_hits": "aioinfra_cache_l1_hits_total",
    "l1_misses": "aioinfra_cache_l1_misses_total",
    "l1_bypassed": "aioinfra_cache_l1_bypassed_total",
    "l1_evictions": "aioinfra_cache_l1_evictions_total",
    "invalidations": "aioinfra_cache_invalidations_total",
    "stale": "aioinfra_cache_stale_answers_total",
    "refreshes": "aioinfra_cache_refreshes_total",
    "loads": "aioinfra_cache_loads_total",
    "load_errors": "aioinfra_cache_load_errors_total",
    "outages": "aioinfra_cache_outages_total",
    "compressed_from": "aioinfra_cache_compression_input_bytes_total",
    "compressed_to": "aioinfra_cache_compression_output_bytes_total",
}
_HELD: Final = {"l1_entries": "aioinfra_cache_l1_entries", "l1_bytes": "aioinfra_cache_l1_bytes"}
_STATE: Final = "l1_state:"
_STATES: Final = ("off", "on", "up", "down", "arming", "stale", "refused")

logger = logging.getLogger("aioinfra.metrics")


class CacheTotals:
    """Adds up the figures of all open caches. One event loop.

    A counter grows by what a source's figure has grown since it was read last; so caches may come and go, and begin
    at zero again, and no count is lost or comes twice.
    """

    def __init__(self, registry: MetricsRegistry) -> None:
        self._counters = {figure: registry.counter(name).labels() for figure, name in _COUNTED.items()}
        self._gauges = {figure: registry.gauge(name).labels() for figure, name in _HELD.items()}
        states = registry.gauge("aioinfra_cache_l1_state")
        self._states = {f"{_STATE}{state}": states.labels(state) for state in _STATES}
        self._last: dict[Source, dict[str, float]] = {}
        self._shown: dict[str, float] = {}
        self._registry = registry

    def watch(self, source: Source) -> None:
        """A cache has opened; what it counted earlier has been read at its earlier end."""
        self._last[source] = _figures(source)
        self._registry.before_scrape(self.read)

    def unwatch(self, source: Source) -> None:
        """A cache is about to close."""
        if source in self._last:
            self._count(source, _figures(source))
            del self._last[source]
            self.read()
        if not self._last:
            self._registry.forget(self.read)

    def read(self) -> None:
        """Bring the metrics up to date."""
        held = dict.fromkeys((*self._gauges, *self._states), 0.0)
        for source in list(self._last):
            try:
                figures = _figures(source)
            except Exception:
                logger.exception("a cache's figures cannot be read; they are no longer asked for")
                del self._last[source]
                continue
            self._count(source, figures)
            for figure in held:
                held[figure] += figures.get(figure, 0)
        for figure, slot in (*self._gauges.items(), *self._states.items()):
            slot.set(slot.value + held[figure] - self._shown.get(figure, 0))  # others may share the slot
        self._shown = held

    def _count(self, source: Source, figures: dict[str, float]) -> None:
        last, self._last[source] = self._last[source], figures
        for figure, slot in self._counters.items():
            slot.add(max(0.0, figures.get(figure, 0) - last.get(figure, 0)))


def _figures(source: Source) -> dict[str, float]:
    figures = dict(source())
    figures["l1_misses"] = figures.get("hits", 0) + figures.get("misses", 0) - figures.get("l1_hits", 0)
    return figures
