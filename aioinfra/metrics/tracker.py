"""Measures a block of code or every call of a function, whatever its kind.

``with``, ``async with`` and decorator are one thing here. A coroutine function is measured until it returns, an
async generator from the first request for an item to its end, its consumer's time included.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Generator
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

OK: Final = "ok"
ERROR: Final = "error"
CANCELLED: Final = "cancelled"


class End(NamedTuple):
    """How a block ended.

    Attributes:
        seconds: since it began.
        error: what it raised. A consumer that has had enough of a generator is no error.
    """

    seconds: float
    error: BaseException | None

    @property
    def cancelled(self) -> bool:
        return isinstance(self.error, asyncio.CancelledError)

    @property
    def outcome(self) -> str:
        """ok, error or cancelled."""
        return OK if self.error is None else CANCELLED if self.cancelled else ERROR


class Tracker:
    """See the module. One object measures one block at a time; as a decorator, any number of calls."""

    def __init__(self) -> None:
        self._started = 0.0

    def began(self) -> None:
        """The block begins."""

    def item(self) -> None:
        """A generator has made an item."""

    def ended(self, end: End) -> None:
        """The block has ended."""

    @property
    def elapsed(self) -> float:
        """Seconds since the block began."""
        return time.perf_counter() - self._started

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self.began()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended(End(self.elapsed, None if isinstance(error, GeneratorExit) else error))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Function) -> Function:
        """Measure every call of a function, coroutine function, generator or async generator function."""
        return cast(
            "Function", functools.wraps(function)(_measured(function, functools.partial(copy.copy, self)))
        )


def _measured(function: Callable[..., Any], tracker: Callable[[], Tracker]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):
        return _measured_stream(function, tracker)
    if inspect.iscoroutinefunction(function):

        async def call(*args: Any, **kwargs: Any) -> Any:
            with tracker():
                return await function(*args, **kwargs)

        return call
    if inspect.isgeneratorfunction(function):

        def produce(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with tracker():
                return (yield from function(*args, **kwargs))

        return produce

    def run(*args: Any, **kwargs: Any) -> Any:
        with tracker():
            return function(*args, **kwargs)

    return run


def _measured_stream(
    function: Callable[..., AsyncGenerator[Any, Any]], tracker: Callable[[], Tracker]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with tracker() as tracked:
            inner = function(*args, **kwargs)
            step = inner.asend(None)
            try:
                while True:
                    try:
                        item = await step
                    except StopAsyncIteration:
                        return
                    tracked.item()
                    try:
                        sent = yield item
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001 - handed on to the generator it was thrown at
                        step = inner.athrow(error)
                    else:
                        step = inner.asend(sent)
            finally:
                await inner.aclose()

    return stream
