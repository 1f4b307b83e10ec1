"""What a line carries, in JSON and on the console, whatever is put into it."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aioinfra.errors import ConfigError, InvalidArgument
from aioinfra.logs import (
    LoggingOptions,
    SinkOptions,
    bound,
    clear_request_context,
    get_logger,
    set_request_context,
    setup_logging,
)
from aioinfra.redact import RedactOptions
from tests.logs.log_capture import Captured, isolated_logging

SECRET = "hunter2-PLANTED"


@pytest.fixture
def clean_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with isolated_logging(monkeypatch):
        yield


@pytest.fixture
def logged(clean_logging: None) -> Captured:
    """JSON lines at INFO."""
    return Captured().setup()


def test_a_json_line_carries_the_promised_fields(logged: Captured) -> None:
    set_request_context(request_id="req-1", user_id=7, tenant="acme")
    before = datetime.now(UTC)
    get_logger("shop.orders").info("order %s paid", 9, amount=12.5)
    line = logged.line
    stamp = datetime.fromisoformat(line.pop("timestamp"))
    assert before.replace(microsecond=0) <= stamp <= datetime.now(UTC)
    assert isinstance(line.pop("line_number"), int)
    assert line == {
        "level": "INFO",
        "logger_name": "shop.orders",
        "module": "test_log_lines",
        "function_name": "test_a_json_line_carries_the_promised_fields",
        "request_id": "req-1",
        "user_id": 7,
        "service": "app",
        "message": "order 9 paid",
        "tenant": "acme",
        "amount": 12.5,
    }


def test_fields_that_nobody_set_are_null(logged: Captured) -> None:
    get_logger("a").info("outside any request")
    assert logged.line["request_id"] is None
    assert logged.line["user_id"] is None


def test_the_line_number_is_the_callers(logged: Captured) -> None:
    log = get_logger("a")
    log.info("one")
    log.error("two")
    try:
        raise ValueError
    except ValueError:
        log.exception("three")
    log.log("warning", "four")
    first, *rest = [line["line_number"] for line in logged.lines]
    assert [number - first for number in rest] == [1, 5, 6]


def test_context_of_tasks_stays_apart_and_is_forgotten(logged: Captured) -> None:
    log = get_logger("a")

    async def one(name: str) -> None:
        with bound(request_id=name):
            await asyncio.sleep(0)
            log.info(name)

    async def both() -> None:
        await asyncio.gather(*(one(f"r{index}") for index in range(20)))

    asyncio.run(both())
    assert all(line["request_id"] == line["message"] for line in logged.lines)
    set_request_context(user_id=1)
    clear_request_context()
    log.info("after")
    assert logged.lines[-1]["user_id"] is None


def test_bound_fields_and_the_calls_own(logged: Captured) -> None:
    log = get_logger("a", a=1).bind(b=1).with_context(c=1)
    log.info("x", b=2)
    log.unbind("c").info("y")
    set_request_context(b=3)
    log.info("z")
    first, second, third = logged.lines
    assert (first["a"], first["b"], first["c"]) == (1, 2, 1)
    assert "c" not in second
    assert third["b"] == 1, "what is bound to the logger wins over the context"


def test_stdlib_style_arguments(logged: Captured) -> None:
    log = get_logger("a")
    log.info("%(what)s and %%", {"what": "text"}, extra={"order": 5, "items": [1]})
    log.warning("no arguments: 100%")
    log.warning("wrong %d", "text")
    try:
        raise KeyError("k")
    except KeyError as error:
        log.warning("failed", exc_info=error)
        log.warning("failed", exc_info=True)

    def helper() -> None:
        log.info("from my caller", stacklevel=2, stack_info=True)

    helper()
    texts = [line["message"] for line in logged.lines]
    assert texts[:3] == ["text and %", "no arguments: 100%", "wrong %d (not formatted: TypeError)"]
    assert logged.lines[0]["order"] == 5
    assert logged.lines[0]["items"] == [1]
    assert [line["exception"]["type"] for line in logged.lines[3:5]] == ["KeyError", "KeyError"]
    assert logged.lines[5]["function_name"] == "test_stdlib_style_arguments"
    assert "test_log_lines.py" in logged.lines[5]["stack"][0]


def test_reserved_names_cannot_be_forged(logged: Captured) -> None:
    get_logger("a").info(
        "real", level="CRITICAL", message="forged", service="other", event="e", exception="x"
    )
    line = logged.line
    assert (line["level"], line["message"], line["service"]) == ("INFO", "real", "app")
    assert (line["level_"], line["message_"], line["service_"], line["event_"], line["exception_"]) == (
        *("CRITICAL", "forged", "other", "e"),
        "x",
    )


def test_structlog_style_event_keyword_is_the_message(logged: Captured) -> None:
    get_logger("a").info(event="hello", n=1)
    assert logged.line["message"] == "hello"


def fail_deeply() -> None:
    password = SECRET  # noqa: F841 - a local that must not be logged
    try:
        raise ValueError("first")
    except ValueError as error:
        raise RuntimeError(f"cannot reach redis://:{SECRET}@host, token={SECRET}") from error


def test_an_exception_has_frames_and_chain_but_no_locals_or_secrets(logged: Captured) -> None:
    try:
        fail_deeply()
    except RuntimeError:
        get_logger("a").exception("failed")
    exception = logged.line["exception"]
    assert exception["type"] == "RuntimeError"
    assert exception["message"].startswith("cannot reach redis://[redacted]@host")
    assert [frame[2] for frame in exception["frames"]] == [
        "test_an_exception_has_frames_and_chain_but_no_locals_or_secrets",
        "fail_deeply",
    ]
    (cause,) = exception["chain"]
    assert (cause["relation"], cause["type"], cause["message"]) == ("cause", "ValueError", "first")
    assert SECRET not in logged.text


def test_groups_cycles_and_deep_recursion_are_bounded(logged: Captured) -> None:
    log = get_logger("a")
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    log.error("cycle", exc_info=one)
    log.error("group", exc_info=ExceptionGroup("many", [ValueError(str(index)) for index in range(100)]))

    def down(depth: int) -> None:
        if not depth:
            raise ValueError("deep")
        down(depth - 1)

    try:
        down(500)
    except ValueError:
        log.exception("deep")
    cycle, group, deep = (line["exception"] for line in logged.lines)
    assert [link["message"] for link in cycle["chain"]] == ["two"]
    assert len(group["chain"]) == 8
    assert len(deep["frames"]) == 51
    assert deep["frames"][25] == ["…", 452, "frames left out"]


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError(SECRET)

    __str__ = __repr__


@dataclass
class Card:
    card_number: str


HOSTILE: list[Any] = [
    "line\r\nbreak\x1b[31m\x00\x9b\x7f\u2028\u202e",
    "\ud800 lone",
    "x" * 1_000_000,
    "\x00" * 1_000_000,
    b"\xff" * 10,
    float("nan"),
    2**200,
    10**5_000,
    Rude(),
    Card("4111"),
    {1: "int key", (1, 2): "tuple", None: "none"},
    {"a": {"b": {"c": [SECRET] * 5_000}}},
    {1, 2},
    object,
    json,
    threading.Lock(),
    datetime.now(UTC),
]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_any_value_makes_one_safe_bounded_line(clean_logging: None, log_format: str, value: Any) -> None:
    captured = Captured().setup(log_format=log_format)
    log = get_logger("a")
    log.info("the message", value=value, nested=[{"value": value}], password=value)
    log.info(value)
    log.info("%s", value)
    log.bind(**{"k" * 100_000: 1}).info("long key")
    log.info("extra", extra={7: value, "\n": 1})
    lines = captured.text.split("\n")
    assert lines.pop() == ""
    assert len(lines) == 5
    for line in lines:
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e]", line)
        assert len(line.encode("utf-8", "strict")) <= 128 << 10
        if log_format == "json":
            assert json.loads(line)["level"] == "INFO"
    assert "the message" in lines[0]


def test_a_line_with_too_many_large_fields_keeps_its_core(logged: Captured) -> None:
    get_logger("a").info("kept", **{f"field{index}": "x" * 16_000 for index in range(100)})
    line = logged.line
    assert line["message"] == "kept"
    assert "field7" in line["left_out"]
    get_logger("a").info("\x00" * 20_000, request_id="\x00" * 20_000)
    assert len(json.dumps(logged.lines[1])) < 64 << 10


def test_secrets_are_masked_wherever_they_come_from(logged: Captured) -> None:
    set_request_context(session_token=SECRET)
    get_logger("a", api_key=SECRET).info(
        "x", user={"password": SECRET}, extra={"cookie": SECRET}, url=f"redis://:{SECRET}@h"
    )
    assert SECRET not in logged.text
    assert logged.line["url"] == "redis://:[redacted]@h"


def test_a_burst_of_lines_is_written_whole_and_redacted_and_disabled_calls_write_nothing(
    clean_logging: None, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w") as file, bound(request_id="req-1"):
        logging = setup_logging(log_format="json", stream=file)
        log = get_logger("shop.orders")
        for index in range(2_000):
            log.info("order paid", order_id=index, user_email="ada@example.org")
            log.debug("no", order_id=index)
        assert logging.flush(10)
        figures = logging.figures()
    assert (figures.written, figures.dropped) == (2_000, 0)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["order_id"] for line in lines] == list(range(2_000))
    assert {(line["request_id"], line["user_email"]) for line in lines} == {("req-1", "[redacted]")}


def test_value_scanners_on_request(clean_logging: None) -> None:
    captured = Captured().setup(options=LoggingOptions(redact=RedactOptions(scan_values=True)))
    get_logger("a").info(f"Authorization: Bearer {SECRET}", note=f"password={SECRET}")
    assert SECRET not in captured.text


def test_the_console_shows_time_level_logger_place_request_and_message(clean_logging: None) -> None:
    captured = Captured().setup(log_format="console")
    with bound(request_id="req-1"):
        get_logger("shop.orders").warning("paid", amount=12.5, note="two words")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING  shop\.orders test_log_lines\.py:\d+ \[req-1\] paid "
        r'amount=12\.5 note="two words"\n',
        captured.text,
    )


def test_the_console_shows_exceptions_below_the_line(clean_logging: None) -> None:
    captured = Captured().setup(log_format="console")
    try:
        fail_deeply()
    except RuntimeError:
        get_logger("a").exception("failed")
    assert re.search(r"failed\n  raised: RuntimeError: cannot reach", captured.text)
    assert re.search(r"test_log_lines\.py:\d+ in fail_deeply\n  cause: ValueError: first\n", captured.text)
    assert SECRET not in captured.text


def test_colours_only_when_asked_or_on_a_terminal(clean_logging: None) -> None:
    captured = Captured().setup(log_format="console", options=LoggingOptions(colours=True))
    get_logger("a").info("x")
    assert "\x1b[32mINFO" in captured.text


def test_format_follows_the_environment_and_log_format_wins(
    clean_logging: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_json(**arguments: Any) -> bool:
        captured = Captured()
        captured.logging = setup_logging(stream=captured.stream, **arguments)
        get_logger("a").info("x")
        return bool(captured.text.startswith("{"))

    assert not is_json()
    assert is_json(environment="production")
    assert not is_json(environment="production", log_format="console")
    monkeypatch.setenv("ENVIRONMENT", "staging")
    assert is_json()
    monkeypatch.setenv("LOG_FORMAT", "console")
    assert not is_json()
    monkeypatch.setenv("LOG_FORMAT", "")
    assert is_json(), "empty means unset"
    assert not is_json(environment="development")


def test_service_name_and_level_come_from_the_environment(
    clean_logging: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_NAME", "shop")
    monkeypatch.setenv("LOG_LEVEL", "warning,shop.db=debug")
    captured = Captured()
    captured.logging = setup_logging(log_format="json", stream=captured.stream)
    get_logger("shop").info("no")
    get_logger("shop.db.pool").debug("yes")
    get_logger("shop.dbx").info("no")
    assert captured.line["message"] == "yes"
    assert captured.line["service"] == "shop"


def test_wrong_settings_name_their_source(clean_logging: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="log_level"):
        setup_logging("loud")
    with pytest.raises(InvalidArgument, match="log_format"):
        setup_logging(log_format="xml")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(ConfigError, match="LOG_LEVEL"):
        setup_logging()
    monkeypatch.setenv("LOG_LEVEL", "info")
    monkeypatch.setenv("LOG_FORMAT", "xml")
    with pytest.raises(ConfigError, match="LOG_FORMAT"):
        setup_logging()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *[
            (name, value)
            for name in ("log_level", "log_format", "environment", "service_name")
            for value in (5, b"x")
        ],
        ("stream", 5),
        ("options", None),
    ],
)
def test_what_is_no_argument_is_refused_by_name(clean_logging: None, argument: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        setup_logging(**{argument: value})
    assert refused.value.argument == argument


def test_a_stream_for_reading_is_refused(clean_logging: None, tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    with (tmp_path / "log").open() as file, pytest.raises(InvalidArgument, match="stream"):
        setup_logging(stream=file)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("capacity", 0), ("capacity", "1"), ("capacity", True), ("reserve", -1), ("reserve", 9 << 20), ("batch", 0),
        ("interval", -1), ("interval", float("nan")), ("exit_timeout", float("inf")), ("exit_timeout", None),
    ],
)  # fmt: skip
def test_what_bounds_nothing_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        SinkOptions(**{option: value})
    assert refused.value.argument == option


def test_levels_change_at_run_time_for_loggers_that_exist(logged: Captured) -> None:
    log, below = get_logger("app.db"), get_logger("app.db.pool")
    logged.logging.set_level("error")
    log.info("no")
    logged.logging.set_level("debug", "app.db")
    below.debug("yes")
    get_logger("app.web").info("no")
    assert not get_logger("app.web").is_enabled_for(20)
    assert [line["message"] for line in logged.lines] == ["yes"]
    with pytest.raises(InvalidArgument, match="level"):
        logged.logging.set_level("loud")
