"""The decorators on every kind of function, with and without parentheses."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Generator, Iterator

import pytest

from aioinfra.errors import InvalidArgument
from aioinfra.logs import get_logger, log_exceptions, log_execution_time
from tests.logs.log_capture import Captured, isolated_logging


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Captured]:
    with isolated_logging(monkeypatch):
        yield Captured().setup()


@log_execution_time
def add(a: int, b: int = 1) -> int:
    """Adds."""
    return a + b


@log_execution_time(level="warning")
async def add_later(a: int, b: int = 1) -> int:
    await asyncio.sleep(0.01)
    return a + b


@log_execution_time()
def count(to: int) -> Generator[int, None, str]:
    yield from range(to)
    return "done"


@log_execution_time
async def count_later(to: int) -> AsyncGenerator[int, int | None]:
    for number in range(to):
        got = yield number
        if got is not None:
            yield got * 100


@log_exceptions
def fail() -> None:
    raise ValueError("sync")


@log_exceptions(reraise=False)
async def fail_quietly() -> int:
    raise ValueError("async")


@log_exceptions(reraise=False)
async def fail_in_the_middle() -> AsyncGenerator[int, None]:
    yield 1
    raise ValueError("generator")


async def test_times_are_logged_for_every_kind(logged: Captured) -> None:
    assert add(2) == 3
    assert await add_later(2, b=5) == 7
    assert list(count(3)) == [0, 1, 2]
    assert [number async for number in count_later(3)] == [0, 1, 2]
    lines = logged.lines
    assert [line["function_name"] for line in lines] == ["add", "add_later", "count", "count_later"]
    assert {line["module"] for line in lines} == {"test_log_decorators"}
    assert lines[1]["level"] == "WARNING"
    assert lines[1]["duration_ms"] >= 10
    assert lines[1]["message"] == f"add_later took {lines[1]['duration_ms']} ms"
    assert lines[0]["line_number"] == inspect.unwrap(add).__code__.co_firstlineno


async def test_wrapped_functions_stay_what_they_are() -> None:
    assert inspect.iscoroutinefunction(add_later)
    assert inspect.isgeneratorfunction(count)
    assert inspect.isasyncgenfunction(count_later)
    assert add.__doc__ == "Adds."
    assert list(inspect.signature(add).parameters) == ["a", "b"]


async def test_an_async_generator_takes_what_is_sent_and_thrown(logged: Captured) -> None:
    numbers = count_later(5)
    assert await anext(numbers) == 0
    assert await numbers.asend(7) == 700
    with pytest.raises(KeyError):
        await numbers.athrow(KeyError("in"))
    assert logged.line["error"] == "KeyError"


async def test_a_consumer_that_stops_early_closes_the_generator(logged: Captured) -> None:
    closed = False

    @log_execution_time
    async def numbers() -> AsyncGenerator[int, None]:
        nonlocal closed
        try:
            yield 1
            yield 2
        finally:
            closed = True

    stream = numbers()
    assert await anext(stream) == 1
    await stream.aclose()
    assert closed
    assert "error" not in logged.line


async def test_an_exception_is_logged_once_and_raised(logged: Captured) -> None:
    with pytest.raises(ValueError, match="sync"):
        fail()
    line = logged.line
    assert (line["level"], line["message"], line["function_name"]) == ("ERROR", "fail failed", "fail")
    assert line["exception"]["message"] == "sync"


async def test_an_exception_can_be_held_back(logged: Captured) -> None:
    assert await fail_quietly() is None
    assert [number async for number in fail_in_the_middle()] == [1]
    assert [line["exception"]["message"] for line in logged.lines] == ["async", "generator"]


async def test_cancellation_is_neither_logged_nor_held_back(logged: Captured) -> None:
    @log_exceptions(reraise=False)
    async def wait() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert logged.lines == []


async def test_a_duration_names_the_error_of_its_own_call_only(logged: Captured) -> None:
    try:
        raise KeyError("outer")
    except KeyError:
        add(1)
    assert "error" not in logged.line


def test_a_logger_can_be_given_and_methods_work(logged: Captured) -> None:
    class Shop:
        @log_execution_time(logger=get_logger("given"), level="error")
        def pay(self) -> str:
            return "paid"

    assert Shop().pay() == "paid"
    assert logged.line["logger_name"] == "given"
    assert "Shop.pay took" in logged.line["message"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="level"):
        log_execution_time(level="loud")
