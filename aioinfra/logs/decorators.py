"""Decorators that log how long a call took, or how it failed.

They work on functions, coroutine functions, generators and async generators, with and without parentheses.
The lines name the decorated function, not this module.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ParamSpec, TypeVar, overload

from aioinfra.errors import InvalidArgument
from aioinfra.logs.levels import LEVELS
from aioinfra.logs.logger import BoundLogger, GivenSite, get_logger
from aioinfra.logs.pipeline import ORIGIN

P = ParamSpec("P")
R = TypeVar("R")
Guard = Callable[[], AbstractContextManager[None]]


@overload
def log_execution_time(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def log_execution_time(
    *, logger: BoundLogger | None = None, level: str = "info"
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def log_execution_time(
    function: Callable[..., Any] | None = None,
    /,
    *,
    logger: BoundLogger | None = None,
    level: str = "info",
) -> Any:
    """Log each call's duration in milliseconds, and whether it raised.

    An async generator is timed from its first item to its end, its consumer's time included.

    Raises:
        InvalidArgument: there is no such level.
    """
    number = LEVELS.get(level.lower())
    if number is None:
        raise InvalidArgument("level", "must be debug, info, warning, error or critical")

    def decorate(inner: Callable[..., Any]) -> Callable[..., Any]:
        log, name, site = _about(inner, logger)

        @contextmanager
        def timed() -> Iterator[None]:
            began = time.perf_counter()
            outcome: dict[str, Any] = {}
            try:
                yield
            except GeneratorExit:  # the consumer has had enough: an end like any other
                raise
            except BaseException as error:
                outcome["error"] = type(error).__name__
                raise
            finally:
                spent = round((time.perf_counter() - began) * 1_000, 3)
                log.log(number, f"{name} took {spent} ms", duration_ms=spent, **outcome, **site)

        return _wrapped(inner, timed)

    return decorate if function is None else decorate(function)


@overload
def log_exceptions(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def log_exceptions(
    *, reraise: bool = True, logger: BoundLogger | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def log_exceptions(
    function: Callable[..., Any] | None = None,
    /,
    *,
    reraise: bool = True,
    logger: BoundLogger | None = None,
) -> Any:
    """Log an exception that leaves the function, with its frames.

    With ``reraise=False`` the call returns None instead, and an async generator ends. Cancellation and
    interpreter exits are neither logged nor held back.
    """

    def decorate(inner: Callable[..., Any]) -> Callable[..., Any]:
        log, name, site = _about(inner, logger)

        @contextmanager
        def guarded() -> Iterator[None]:
            try:
                yield
            except Exception:
                log.exception(f"{name} failed", **site)
                if reraise:
                    raise

        return _wrapped(inner, guarded)

    return decorate if function is None else decorate(function)


def _about(
    function: Callable[..., Any], logger: BoundLogger | None
) -> tuple[BoundLogger, str, dict[str, Any]]:
    """The logger for a function's lines, its name, and the field that makes it their origin."""
    log = logger or get_logger(getattr(function, "__module__", None) or "root")
    name = getattr(function, "__qualname__", type(function).__name__)
    code = getattr(inspect.unwrap(function), "__code__", None)
    site = (
        GivenSite("<unknown>", name, 0)
        if code is None
        else GivenSite(code.co_filename, code.co_name, code.co_firstlineno)
    )
    return log, name, {ORIGIN: site}


def _wrapped(function: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    """``function`` run inside ``guard``, of the same kind as it was."""
    if inspect.isasyncgenfunction(function):
        return functools.wraps(function)(_wrapped_stream(function, guard))
    if inspect.iscoroutinefunction(function):

        async def call(*args: Any, **kwargs: Any) -> Any:
            with guard():
                return await function(*args, **kwargs)

        return functools.wraps(function)(call)
    if inspect.isgeneratorfunction(function):

        def produce(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with guard():
                return (yield from function(*args, **kwargs))

        return functools.wraps(function)(produce)

    def run(*args: Any, **kwargs: Any) -> Any:
        with guard():
            return function(*args, **kwargs)

    return functools.wraps(function)(run)


def _wrapped_stream(
    function: Callable[..., AsyncGenerator[Any, Any]], guard: Guard
) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with guard():
            inner = function(*args, **kwargs)
            step = inner.asend(None)
            try:
                while True:
                    try:
                        item = await step
                    except StopAsyncIteration:
                        return
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
