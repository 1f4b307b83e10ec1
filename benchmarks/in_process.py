"""Contestants that are measured in the harness's own process, taking turns."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import orjson
import structlog
from aioprometheus import collectors
from aioprometheus.renderer import render as render_stock
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.processors import (
    CallsiteParameter,
    CallsiteParameterAdder,
    JSONRenderer,
    TimeStamper,
    add_log_level,
)

from aioinfra.logs import LoggingOptions, SinkOptions, bound, get_logger, setup_logging
from aioinfra.metrics.exposition import render
from aioinfra.metrics.instruments import Counter, Histogram
from aioinfra.metrics.registry import MetricsRegistry
from benchmarks.errors import BenchmarkError, WrongAnswerError

NAME: Final = "shop.orders"
CONTEXT: Final = {"request_id": "0123456789abcdef0123456789abcdef", "user_id": "u-77"}
ADDRESS: Final = "ada@example.org"
FIELDS: Final = {"amount": 12.5, "currency": "EUR", "path": "/orders", "items": 3}
LABELS: Final = {"a": "x", "b": "y"}
SERIES: Final = 10_000
IDLE_PAGE: Final = 0.04  # seconds, about what a page takes


class Contestant:
    """Something done many times over in this process; `check` is told how often in all."""

    def calls(self, count: int) -> None:
        """What is measured."""
        raise NotImplementedError

    def settle(self) -> None:
        """Wait for what `calls` left to other threads."""

    def check(self, made: int) -> None:
        """Raises WrongAnswerError when what was done is not ``made`` calls' worth."""

    def close(self) -> None:
        """Put back what the contestant changed in this process."""


def expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongAnswerError(f"{what}: {found!r}, not {wanted!r}")


class Lines(Contestant):
    """Lines of JSON to a file, with bound context and the caller's place."""

    logger: Any

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        self.path = Path(self._directory.name) / "log"

    def calls(self, count: int) -> None:
        info = self.logger.info
        with bound(**CONTEXT), bound_contextvars(**CONTEXT):
            for index in range(count):
                info("order paid", order_id=index, **FIELDS, user_email=ADDRESS)

    def check(self, made: int) -> None:
        lines = self.path.read_bytes().splitlines()
        expect("lines", len(lines), made)
        line = json.loads(lines[-1])
        wanted = {"message": "order paid", "service": "shop", **CONTEXT, **FIELDS}
        expect("a line's fields", {name: line.get(name) for name in wanted}, wanted)
        if "calls" not in line.values() or not {"level", "timestamp"} <= line.keys():
            raise WrongAnswerError(f"a line does not say where and when: {sorted(line)}")

    def close(self) -> None:
        self._directory.cleanup()


class OurLines(Lines):
    """The default pipeline: redaction, and a writer thread."""

    def __init__(self) -> None:
        super().__init__()
        self._file = self.path.open("w")
        sink = SinkOptions(capacity=64 << 20)  # a round fits: none is dropped, the disk is not measured
        self._logging = setup_logging(
            "info",
            log_format="json",
            service_name="shop",
            stream=self._file,
            options=LoggingOptions(sink=sink),
        )
        self.logger = get_logger(NAME)

    def settle(self) -> None:
        """Not by a flush: the lines after one are written by their callers, as at a service's end."""
        end = time.monotonic() + 30
        while self._logging.figures().waiting:
            if time.monotonic() > end:
                raise BenchmarkError("the lines were not written in time")
            time.sleep(0.001)

    def check(self, made: int) -> None:
        super().check(made)
        expect("dropped lines", self._logging.figures().dropped, 0)
        if ADDRESS.encode() in self.path.read_bytes():
            raise WrongAnswerError("a line is not redacted")

    def close(self) -> None:
        self._logging.uninstall()
        self._file.close()
        super().close()


class StructlogLines(Lines):
    """The fastest set-up of structlog's own documentation, with the same fields; it redacts nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._file = self.path.open("wb")
        places = {CallsiteParameter.MODULE, CallsiteParameter.FUNC_NAME, CallsiteParameter.LINENO}
        self.logger = structlog.wrap_logger(
            structlog.BytesLogger(self._file),
            processors=[
                merge_contextvars,
                add_log_level,
                TimeStamper(fmt="iso", utc=True),
                CallsiteParameterAdder(places),
                self._constants,
                JSONRenderer(serializer=orjson.dumps),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            cache_logger_on_first_use=True,
        )

    @staticmethod
    def _constants(_logger: Any, _method: str, event: Any) -> Any:
        event["service"], event["logger_name"], event["message"] = "shop", NAME, event.pop("event")
        return event

    def close(self) -> None:
        self._file.close()
        super().close()


class OurDisabled(OurLines):
    """A debug call at level info."""

    def calls(self, count: int) -> None:
        debug = self.logger.debug
        for index in range(count):
            debug("no", index=index)

    def check(self, _made: int) -> None:
        expect("written", self.path.read_bytes(), b"")


class StdlibDisabled(Contestant):
    """The same with a logger of the standard library."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(f"{NAME}.stdlib")
        self._logger.setLevel(logging.INFO)

    def calls(self, count: int) -> None:
        debug = self._logger.debug
        for index in range(count):
            debug("no %s", index)

    def close(self) -> None:
        self._logger.setLevel(logging.NOTSET)


class DictCount(Contestant):
    """``d[k] += 1``: the least that counting by labels can cost."""

    def __init__(self) -> None:
        self._counts = {("x", "y"): 0}

    def calls(self, count: int) -> None:
        counts = self._counts
        for _ in range(count):
            counts["x", "y"] += 1

    def check(self, made: int) -> None:
        expect("count", self._counts["x", "y"], made)


class OurCount(Contestant):
    """``inc`` of a counter bound to its labels."""

    def __init__(self) -> None:
        self._counter = Counter("app_total", "Things.", MetricsRegistry(), tuple(LABELS)).labels("x", "y")

    def calls(self, count: int) -> None:
        counter = self._counter
        for _ in range(count):
            counter.inc()

    def check(self, made: int) -> None:
        expect("count", self._counter.value, made)


class OurObservation(Contestant):
    """``observe`` of a histogram bound to its labels, default buckets."""

    def __init__(self) -> None:
        self._histogram = Histogram("app_seconds", "Time.", MetricsRegistry(), tuple(LABELS)).labels("x", "y")

    def calls(self, count: int) -> None:
        histogram = self._histogram
        for _ in range(count):
            histogram.observe(0.03)

    def check(self, made: int) -> None:
        expect("count", self._histogram.cumulative()[-1], made)


class StockCount(Contestant):
    """``inc`` of aioprometheus' own counter, which takes the labels with every call."""

    def __init__(self) -> None:
        self._counter = collectors.Counter("app_total", "Things.", registry=collectors.Registry())

    def calls(self, count: int) -> None:
        counter = self._counter
        for _ in range(count):
            counter.inc(LABELS)

    def check(self, made: int) -> None:
        expect("count", self._counter.get(LABELS), made)


class Pages:
    """Something that makes a metrics page again and again; this one is an idle loop."""

    async def page(self) -> bytes:
        await asyncio.sleep(IDLE_PAGE)
        return b""

    def check(self, page: bytes) -> None:
        """Raises WrongAnswerError when a page does not count what was counted."""
        expect("page", page, b"")


class OurPages(Pages):
    """Ten thousand counters, as the scrape route renders them."""

    def __init__(self) -> None:
        registry = MetricsRegistry()
        self._registry: collectors.Registry = registry
        counter = Counter("many_total", "Things.", registry, ("index",), max_series=SERIES)
        for index in range(SERIES):
            counter.labels(index).inc()

    async def page(self) -> bytes:
        return await render(self._registry)

    def check(self, page: bytes) -> None:
        samples = [line for line in page.splitlines() if line and not line.startswith(b"#")]
        expect("series", len(samples), SERIES)
        expect("counts", sum(float(line.rpartition(b" ")[2]) for line in samples), SERIES)


class StockPages(OurPages):
    """The same by aioprometheus, with its own counter."""

    def __init__(self) -> None:
        self._registry = collectors.Registry()
        counter = collectors.Counter("many_total", "Things.", registry=self._registry)
        for index in range(SERIES):
            counter.inc({"index": str(index)})

    async def page(self) -> bytes:
        content, _ = render_stock(self._registry, [])
        return bytes(content)
