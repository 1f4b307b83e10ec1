"""What a line costs the thread that logs it, beside the usual ways, alternating in one run. CPU time."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pytest
import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.processors import (
    CallsiteParameter,
    CallsiteParameterAdder,
    JSONRenderer,
    TimeStamper,
    add_log_level,
)

from aioinfra.logs import Logging, LoggingOptions, SinkOptions, bound, get_logger, setup_logging
from tests.logs.log_capture import isolated_logging

CONTEXT = {"request_id": "0123456789abcdef0123456789abcdef", "user_id": "u-77"}


@pytest.fixture
def to_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Logging]:
    with isolated_logging(monkeypatch), (tmp_path / "log").open("w") as file:
        sink = SinkOptions(capacity=64 << 20)  # the writer is not what is measured
        yield setup_logging(
            log_format="json", service_name="shop", stream=file, options=LoggingOptions(sink=sink)
        )


def costs(
    contestants: dict[str, Callable[[int], None]], calls: int, flush: Callable[[], Any]
) -> dict[str, float]:
    """Median CPU seconds a call, of 7 alternating rounds."""
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(8):  # the first is for warming up
        for name, contestant in contestants.items():
            began = time.thread_time()
            contestant(calls)
            spent[name].append((time.thread_time() - began) / calls)
            flush()
    return {name: statistics.median(rounds[1:]) for name, rounds in spent.items()}


def structlog_with_orjson(file: BinaryIO) -> Any:
    """The fastest set-up of structlog's own documentation, with the same fields; it redacts nothing."""

    def constants(_logger: Any, _method: str, event: Any) -> Any:
        event["service"], event["logger_name"], event["message"] = "shop", "shop.orders", event.pop("event")
        return event

    return structlog.wrap_logger(
        structlog.BytesLogger(file),
        processors=[
            merge_contextvars,
            add_log_level,
            TimeStamper(fmt="iso", utc=True),
            CallsiteParameterAdder(
                {CallsiteParameter.MODULE, CallsiteParameter.FUNC_NAME, CallsiteParameter.LINENO}
            ),
            constants,
            JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )


def test_a_safe_line_costs_at_most_0_6_of_structlog_with_orjson(to_file: Logging, tmp_path: Path) -> None:
    reference = (tmp_path / "reference").open("wb")
    ours, theirs = get_logger("shop.orders"), structlog_with_orjson(reference)

    def log(logger: Any) -> Callable[[int], None]:
        def run(calls: int) -> None:
            for index in range(calls):
                logger.info(
                    "order paid",
                    order_id=index,
                    amount=12.5,
                    currency="EUR",
                    path="/orders",
                    items=3,
                    user_email="ada@example.org",
                )

        return run

    with bound(**CONTEXT), bound_contextvars(**CONTEXT), reference:
        spent = costs({"ours": log(ours), "theirs": log(theirs)}, 2_000, to_file.flush)
    assert b"ada@" in (tmp_path / "reference").read_bytes()
    assert b"ada@" not in (tmp_path / "log").read_bytes()
    assert to_file.figures().dropped == 0
    ratio = spent["ours"] / spent["theirs"]
    assert ratio <= 0.6, f"{ratio:.2f}"


def test_a_disabled_call_costs_at_most_3_of_the_standard_librarys(to_file: Logging) -> None:
    ours, stdlib = get_logger("shop.orders"), logging.getLogger("shop.orders")

    def run_ours(calls: int) -> None:
        for index in range(calls):
            ours.debug("no", index=index)

    def run_stdlib(calls: int) -> None:
        for index in range(calls):
            stdlib.debug("no %s", index)

    spent = costs({"ours": run_ours, "stdlib": run_stdlib}, 20_000, lambda: None)
    assert to_file.figures().written == 0
    ratio = spent["ours"] / spent["stdlib"]
    assert ratio <= 3, f"{ratio:.2f}"
