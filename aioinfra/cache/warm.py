"""Filling the cache ahead of its readers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.errors import InvalidArgument

Pairs = Mapping[str, Any] | Iterable[tuple[str, Any]] | AsyncIterable[tuple[str, Any]]
Source = Pairs | Callable[[], Pairs | Awaitable[Pairs]]
"""Where the values come from: a mapping, (key, value) or (key, loader) pairs, an async iterator of such pairs,
or a plain or async function that gives one of these. A loader is a function without parameters."""


@dataclass(slots=True)
class WarmReport:
    """What has been done so far.

    Attributes:
        stored: keys that are in the cache now.
        failures: key to the class name of the error that its loader or its storing raised.
    """

    stored: int = 0
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WarmOptions:
    """How to warm.

    Attributes:
        concurrency: loaders at the same time.
        rate: most keys started a second; None for no limit.
        progress: called after each key with the report so far; must not block.
    """

    concurrency: int = 10
    rate: float | None = None
    progress: Callable[[WarmReport], None] | None = None

    def __post_init__(self) -> None:
        check_whole("concurrency", self.concurrency, 1, 100_000)
        if self.rate is not None:
            check_number("rate", self.rate, 0.001, 1e9)


DEFAULT_WARM_OPTIONS: Final = WarmOptions()


async def warm(
    store: Callable[[str, Any], Awaitable[Any]],
    source: Source,
    options: WarmOptions,
    *,
    ready: Callable[[], Awaitable[None]],
    clock: Clock = SYSTEM_CLOCK,
) -> WarmReport:
    """Load and store every pair of the source.

    A failing pair is reported and the rest go on; an error of the source itself is raised.

    Args:
        store: stores one value under its key.
        ready: awaited before each pair; returns when the server is there.
    """
    report = WarmReport()
    running: set[asyncio.Task[None]] = set()
    started, begun = clock.monotonic(), 0
    try:
        async for pair in _pairs(source):
            key, item = _pair(pair)
            await ready()
            if options.rate is not None:
                await clock.sleep(started + begun / options.rate - clock.monotonic())
            begun += 1
            if len(running) >= options.concurrency:
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running.add(asyncio.create_task(_one(store, key, item, report, options)))
        if running:
            await asyncio.wait(running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return report


async def _one(
    store: Callable[[str, Any], Awaitable[Any]], key: str, item: Any, report: WarmReport, options: WarmOptions
) -> None:
    try:
        value = item() if callable(item) else item
        await store(key, await value if inspect.isawaitable(value) else value)
    except Exception as error:  # noqa: BLE001 - the loader is user code; its failure is reported, not hidden
        report.failures[str(key)] = type(error).__name__
    else:
        report.stored += 1
    if options.progress is not None:
        options.progress(report)


def _pair(pair: object) -> tuple[str, Any]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InvalidArgument("loader", "must give pairs of a key and a value or loader")
    return pair[0], pair[1]


async def _pairs(source: Source) -> AsyncIterator[object]:
    """What any form of source gives, one after the other."""
    given: Any = source() if callable(source) else source
    if inspect.isawaitable(given):
        given = await given
    if isinstance(given, Mapping):
        given = given.items()
    if isinstance(given, AsyncIterable):
        async for pair in given:
            yield pair
    elif isinstance(given, Iterable):
        for pair in given:
            yield pair
    else:
        raise InvalidArgument("loader", "must give a mapping, or pairs of keys and values or loaders")
