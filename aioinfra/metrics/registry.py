"""The registry of one service: aioprometheus' own, with the metrics of the catalogue made when first asked for."""

from __future__ import annotations

from typing import Any, TypeVar

from aioprometheus import collectors

from aioinfra.errors import InvalidArgument
from aioinfra.metrics.catalogue import BY_NAME
from aioinfra.metrics.family import Family
from aioinfra.metrics.instruments import Counter, Gauge, Histogram

T = TypeVar("T")


class MetricsRegistry(collectors.Registry):
    """Holds the instruments of one service; never aioprometheus' process-wide default.

    An application's own instruments take it as their ``registry``.
    """

    def counter(self, name: str) -> Counter:
        """A counter of the catalogue. Raises InvalidArgument: no such counter."""
        return _checked(self._known(name), Counter)

    def gauge(self, name: str) -> Gauge:
        """A gauge of the catalogue. Raises InvalidArgument: no such gauge."""
        return _checked(self._known(name), Gauge)

    def histogram(self, name: str) -> Histogram:
        """A histogram of the catalogue. Raises InvalidArgument: no such histogram."""
        return _checked(self._known(name), Histogram)

    def _known(self, name: str) -> object:
        found: object = self.collectors.get(name)
        return self._make(name) if found is None else found

    def _make(self, name: str) -> Family[Any]:
        spec = BY_NAME.get(name)
        if spec is None:
            raise InvalidArgument("name", f"{name} is not in the catalogue")
        if spec.kind == "counter":
            return Counter(name, spec.help, self, spec.labels)
        if spec.kind == "gauge":
            return Gauge(name, spec.help, self, spec.labels)
        return Histogram(name, spec.help, self, spec.labels, buckets=spec.buckets)


def _checked(found: object, kind: type[T]) -> T:
    if not isinstance(found, kind):
        raise InvalidArgument("name", f"is not the name of a {kind.__name__.lower()}")
    return found
