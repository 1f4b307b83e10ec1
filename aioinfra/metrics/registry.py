"""The registry of one service: aioprometheus' own, with the metrics of the catalogue made when first asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from aioprometheus import collectors

from aioinfra.errors import InvalidArgument
from aioinfra.metrics.catalogue import BY_NAME
from aioinfra.metrics.family import Family
from aioinfra.metrics.instruments import Counter, Gauge, Histogram

T = TypeVar("T")
Reading = Callable[[], None]

logger = logging.getLogger("aioinfra.metrics")


class MetricsRegistry(collectors.Registry):
    """Holds the instruments of one service; never aioprometheus' process-wide default.

    An application's own instruments take it as their ``registry``. What is counted elsewhere is read at a scrape:
    see `before_scrape`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._readings: dict[Reading, bool] = {}
        self._failed: set[Reading] = set()

    # Figures that are read at a scrape

    def before_scrape(self, reading: Reading, *, blocking: bool = False) -> None:
        """Have a function called before every scrape, to put figures into slots; once, however often it is given.

        One that raises is logged, the first time, and costs its own figures only.

        Args:
            reading: short, unless ``blocking``.
            blocking: whether it asks the operating system, and so is called in a thread where there is a loop.
        """
        self._readings[reading] = blocking

    def forget(self, reading: Reading) -> None:
        """Call a function of `before_scrape` no longer; nothing when it is none."""
        self._readings.pop(reading, None)
        self._failed.discard(reading)

    async def refresh(self) -> None:
        """Read all figures; blocking ones in one thread."""
        blocking = [reading for reading, blocks in self._readings.items() if blocks]
        if blocking:
            await asyncio.to_thread(self._read, blocking)
        self._read([reading for reading, blocks in self._readings.items() if not blocks])

    def refresh_now(self) -> None:
        """Read all figures here."""
        self._read(list(self._readings))

    def _read(self, readings: list[Reading]) -> None:
        for reading in readings:
            try:
                reading()
            except Exception:
                if reading not in self._failed:
                    self._failed.add(reading)
                    logger.exception("figures cannot be read for the metrics page; this is logged once")

    def get_all(self) -> list[Any]:
        """All collectors, their figures read just now: aioprometheus' renderer begins with this."""
        self.refresh_now()
        return list(super().get_all())

    # Instruments of the catalogue

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
