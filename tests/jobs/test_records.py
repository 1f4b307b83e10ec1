"""What is kept of a failure: always a record, always bounded, never a secret."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aioinfra.jobs.job import ErrorRecord
from aioinfra.jobs.records import error_record

SECRET = "hunter2"


class Raising(Exception):
    """Every way to look at it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise GeneratorExit

    __repr__ = __str__


class HiddenSlots(Exception):
    __cause__ = property(lambda _: 1 / 0)
    __traceback__ = property(lambda _: 1 / 0)
    __notes__ = property(lambda _: 1 / 0)
    args = property(lambda _: 1 / 0)
    __class__ = property(lambda _: 1 / 0)


class Endless(Exception):
    def __str__(self) -> str:
        return str(self)


class Text(str):
    __slots__ = ()

    def __getitem__(self, _: object) -> str:
        raise RuntimeError

    isascii = encode = __len__ = __getitem__  # type: ignore[assignment]  # as above


class OddText(Exception):
    def __str__(self) -> str:
        return Text("odd")


class NoText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307 - what a hostile class does


class OddNameMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in {"__qualname__", "__module__", "__name__"}:
            raise RuntimeError(name)
        return super().__getattribute__(name)


class OddName(Exception, metaclass=OddNameMeta):
    pass


def nested_groups(depth: int) -> BaseException:
    error: BaseException = ValueError("innermost")
    for _ in range(depth):
        error = BaseExceptionGroup("group", [error])
    return error


def circular() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def long_chain() -> BaseException:
    error: BaseException = ValueError("innermost")
    for _ in range(10_000):
        outer = ValueError("outer")
        outer.__cause__ = outer.__context__ = error
        error = outer
    return error


def with_odd_notes() -> BaseException:
    error = ValueError("noted")
    error.__notes__ = 7  # type: ignore[assignment]  # as above
    return error


@pytest.mark.parametrize(
    "make",
    [
        Raising,
        HiddenSlots,
        Endless,
        OddText,
        NoText,
        lambda: OddName(),  # noqa: PLW0108 - pytest would read the class's name
        GeneratorExit,
        KeyboardInterrupt,
        lambda: SystemExit({"a": object()}),
        lambda: ValueError("x" * 10_000_000),
        lambda: ValueError("\ud800\0\n\x1b[31m"),
        lambda: type("N" * 100_000, (Exception,), {})("a"),
        lambda: type("N", (Exception,), {"__module__": None})("a"),
        lambda: nested_groups(1_000),
        lambda: BaseExceptionGroup("wide", [ValueError("x" * 10_000)] * 10_000),
        circular,
        long_chain,
        with_odd_notes,
    ],
    ids=[
        "raising", "hidden-slots", "endless-text", "odd-text", "no-text", "odd-name", "generator-exit",
        "keyboard-interrupt", "odd-exit", "huge-text", "control-text", "huge-name", "no-module", "nested-groups",
        "wide-group", "circular-cause", "long-chain", "odd-notes",
    ],
)  # fmt: skip
def test_any_exception_makes_a_bounded_record(make: Callable[[], BaseException]) -> None:
    made = make()
    try:
        raise made
    except BaseException:
        record = error_record(made)
    encoded = msgspec.json.encode(record)
    assert len(encoded) < 120_000
    assert msgspec.json.decode(encoded, type=ErrorRecord) == record
    assert record.type
    assert record.traceback[-1][2] == "test_any_exception_makes_a_bounded_record"


@pytest.mark.parametrize(
    "text",
    [
        f"cannot reach redis://user:{SECRET}@host:6379/0",
        f"cannot reach redis://:a/{SECRET}@host:6379/0",
        f"login failed: password={SECRET}",
        f"401 for Authorization: Bearer {SECRET}",
        # Cut in the middle of the password, where nothing tells any more that it is one.
        f"{'x' * 8_160} redis://user:{SECRET}{'y' * 100}@host",
    ],
)
def test_no_secret_of_an_exceptions_text_is_kept(text: str) -> None:
    assert SECRET not in repr(error_record(ConnectionError(text)))


def test_an_ordinary_text_is_kept_as_it_is() -> None:
    record = error_record(KeyError("user 7 <ada> has 3 tokens: a=1, b=2"))
    assert record.message == "'user 7 <ada> has 3 tokens: a=1, b=2'"
