"""What a log call survives: values that cannot be read, fields of any name; and secrets inside a message's text."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from aioinfra.logs import bound, get_logger
from aioinfra.logs.stdlib import PipelineHandler
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


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError(SECRET)

    __str__ = __repr__


class ExitingRepr:
    """As when a signal handler exits while a value is being read."""

    def __repr__(self) -> str:
        raise SystemExit(3)


def test_a_line_that_cannot_be_made_keeps_its_message_and_says_so(logged: Captured) -> None:
    with pytest.raises(SystemExit):
        get_logger("a").error("order paid", value=ExitingRepr())
    with pytest.raises(SystemExit):
        get_logger("a").error("order %r paid", ExitingRepr())
    first, second = logged.lines
    assert first["message"] == "order paid (its fields could not be logged: SystemExit)"
    assert second["message"] == "order %r paid (not formatted: SystemExit)"
    assert first["function_name"] == "test_a_line_that_cannot_be_made_keeps_its_message_and_says_so"


class FalseClass:
    __class__ = property(lambda self: 1 / 0)


class Stopping:
    def __repr__(self) -> str:
        raise GeneratorExit

    def __bool__(self) -> bool:
        raise RuntimeError


class OddText(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise RuntimeError

    __format__ = __contains__ = __getitem__ = isascii = __len__  # type: ignore[assignment]  # as above


class OddError(Exception):
    __notes__ = property(lambda self: 1 / 0)
    __cause__ = __traceback__ = __notes__


class OddKey:
    def __str__(self) -> str:
        raise RuntimeError


ODD = [FalseClass, Stopping, Rude, OddText, OddError]


@pytest.mark.parametrize("setup", ["none", "json", "console", "structlog"])
@pytest.mark.parametrize("kind", ODD)
def test_a_value_that_cannot_be_read_neither_raises_nor_loses_the_line(
    clean_logging: None, caplog: pytest.LogCaptureFixture, setup: str, kind: type[Any]
) -> None:
    value = kind()
    captured = Captured()
    if setup != "none":
        captured.setup(log_format="console" if setup == "console" else "json")
    log = structlog.get_logger("a") if setup == "structlog" else get_logger("a")
    log.warning("first", value=value, url=value, password=value)
    log.warning("second %s", value)
    log.warning(value)
    log.warning("third", exc_info=value)
    log.warning("fourth", extra={OddKey(): 1}, stacklevel=value, stack_info=value)
    text = caplog.text if setup == "none" else captured.text
    assert [word for word in ("first", "second", "third", "fourth") if word not in text] == []
    if setup not in {"none", "console"}:
        assert len(text.splitlines()) == 5


@pytest.mark.parametrize("kind", ODD)
def test_a_record_whose_values_cannot_be_read_is_not_lost(logged: Captured, kind: type[Any]) -> None:
    value = kind()
    (handler,) = (each for each in logging.getLogger().handlers if isinstance(each, PipelineHandler))
    handler.handle(logging.makeLogRecord({"msg": "first", "value": value, "event": value}))
    handler.handle(logging.makeLogRecord({"msg": "second %s", "args": (value,)}))
    handler.handle(logging.makeLogRecord({"msg": value, "exc_info": value}))
    assert [line["message"].split()[0] for line in logged.lines[:2]] == ["first", "second"]
    assert len(logged.lines) == 3


INTERNAL = [
    "_origin",
    "_record",
    "_logger",
    "_context",
    "event",
    "level",
    "timestamp",
    "message",
    "name",
    "self",
    "method",
]


@pytest.mark.parametrize("name", INTERNAL)
def test_a_field_may_have_any_name(logged: Captured, name: str) -> None:
    get_logger("a").info("given", **{name: 5})
    get_logger("a", **{name: 5} if name != "name" else {}).info("bound")
    with bound(**{name: 5}):
        get_logger("a").info("context")
    messages = [line["message"] for line in logged.lines]
    assert messages == ["given", "bound", "context"]
    assert 5 in logged.lines[0].values()
    assert {line["function_name"] for line in logged.lines} == {"test_a_field_may_have_any_name"}


@pytest.mark.parametrize("name", INTERNAL)
def test_a_field_may_have_any_name_beside_an_applications_own_structlog(
    clean_logging: None, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    try:
        get_logger("a").info("given", **{name: 5})
    finally:
        structlog.reset_defaults()
    assert "given" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("event", "args"),
    [
        ("url %s", (f"redis://:{SECRET}@host/0",)),
        ("url %s", (f"https://user:{SECRET}@host/",)),
        (f"url redis://:{SECRET}@host/0", ()),
        ("%s=%s", ("password", SECRET)),
        (f"password: {SECRET}", ()),
        ("sent %s", (f"Bearer {SECRET}",)),
        (f"sent Bearer {SECRET}", ()),
        ("settings %s", ({"api_key": SECRET},)),
        ("user %(email)s", ({"email": SECRET, "a": 1},)),
        ("failed: %s", (ConnectionError(f"cannot reach redis://:{SECRET}@host"),)),
    ],
)
@pytest.mark.parametrize("way", ["ours", "stdlib", "structlog", "before set-up"])
def test_secrets_in_the_text_of_a_message_are_masked(
    clean_logging: None, caplog: pytest.LogCaptureFixture, way: str, event: str, args: tuple[Any, ...]
) -> None:
    captured = Captured()
    if way != "before set-up":
        captured.setup()
    log: Any = {"stdlib": logging, "structlog": structlog}.get(way)
    log = get_logger("a") if log is None else log.getLogger("a") if way == "stdlib" else log.get_logger("a")
    log.warning(event, *args)
    text = caplog.text if way == "before set-up" else captured.text
    assert SECRET not in text
    assert "[redacted]" in text
