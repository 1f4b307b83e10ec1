"""Filling the cache ahead of its readers.

    source -> pairs, one after the other, at most ``rate`` a second, none while the server is gone
      a loader    a task of its own, at most ``concurrency`` at once; its value is stored
      a value     gathers with others and is stored with them, after 50 ms at the latest

What was being stored when the server was lost is stored again when it is back: memory, which answered for it, is
emptied then.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sized,
)
from dataclasses import dataclass, field
from typing import Any, Final

from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.errors import InvalidArgument, LifecycleError

Pairs = Mapping[str, Any] | Iterable[tuple[str, Any]] | AsyncIterable[tuple[str, Any]]
Source = Pairs | Callable[[], Pairs | Awaitable[Pairs]]
"""Where the values come from: a mapping, (key, value) or (key, loader) pairs, an async iterator of such pairs,
or a plain or async function that gives one of these. A loader is a function without parameters."""

_MOST_FAILURES: Final = 1000
_BATCH: Final = 200
_GATHERS: Final = 0.05  # seconds that a value waits for others
_AHEAD: Final = 0.01  # seconds that keys may run ahead of their rate: no timer is more exact


@dataclass(slots=True)
class WarmReport:
    """What has been done so far.

    Attributes:
        stored: pairs that are in the cache now.
        failures: key to the class name of the error that its loader or its storing raised; of the first 1,000.
        failed: pairs that raised, all of them.
        total: pairs of the source, where it says.
    """

    stored: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    failed: int = field(default=0, compare=False)
    total: int | None = field(default=None, compare=False)

    @property
    def done(self) -> int:
        """Pairs that have ended, one way or the other."""
        return self.stored + self.failed


@dataclass(frozen=True, slots=True)
class WarmOptions:
    """How to warm.

    Attributes:
        concurrency: loaders at the same time.
        rate: most keys started a second; None for no limit.
        progress: called after each pair with the report so far; must not block. Its error ends the warming.
    """

    concurrency: int = 10
    rate: float | None = None
    progress: Callable[[WarmReport], None] | None = None

    def __post_init__(self) -> None:
        check_whole("concurrency", self.concurrency, 1, 100_000)
        if self.rate is not None:
            check_number("rate", self.rate, 0.001, 1e9)
        if self.progress is not None and not callable(self.progress):
            raise InvalidArgument("progress", "must be a function that takes the report")


DEFAULT_WARM_OPTIONS: Final = WarmOptions()
StoreMany = Callable[[Mapping[str, Any]], Awaitable[Any]]


async def warm(
    store: Callable[[str, Any], Awaitable[Any]],
    source: Source,
    options: WarmOptions,
    *,
    ready: Callable[[], Awaitable[None]],
    clock: Clock = SYSTEM_CLOCK,
    store_many: StoreMany | None = None,
    outages: Callable[[], int] = lambda: 0,
) -> WarmReport:
    """Load and store every pair of the source.

    A failing pair is reported and the rest go on; an error of the source itself is raised, and so is LifecycleError
    when what stores them is closed.

    Args:
        store: stores one value under its key.
        ready: awaited before each pair; returns when the server is there.
        store_many: stores several values; None stores them one by one.
        outages: how many there have been; a value stored while this changed is stored again.
    """
    warming = _Warming(store, store_many, ready, outages, options, clock)
    try:
        async for pair in _pairs(source, warming.report):
            key, item = _pair(pair)
            await ready()
            await warming.pace()
            await warming.take(key, item)
        await warming.finish()
    finally:
        await warming.aclose()
    return warming.report


class _Warming:
    """One warming under way. Owns its tasks; `aclose` ends them."""

    def __init__(
        self,
        store: Callable[[str, Any], Awaitable[Any]],
        store_many: StoreMany | None,
        ready: Callable[[], Awaitable[None]],
        outages: Callable[[], int],
        options: WarmOptions,
        clock: Clock,
    ) -> None:
        self._store = store
        self._store_many = store_many
        self._ready = ready
        self._outages = outages
        self._options = options
        self._clock = clock
        self.report = WarmReport()
        self._running: set[asyncio.Task[None]] = set()
        self._batch: dict[str, Any] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = clock.monotonic()  # when the next pair may start

    async def pace(self) -> None:
        """Wait for the next pair's turn."""
        rate = self._options.rate
        if rate is None:
            return
        now = self._clock.monotonic()
        if self._next - now > _AHEAD:
            self._flush()  # else it would wait for longer than it should
            await self._clock.sleep(self._next - now)
        # What was missed, in an outage or with a slow source, is not made up for.
        self._next = max(self._next, now) + 1 / rate

    async def take(self, key: str, item: Any) -> None:
        """Begin with a pair; waits for a free place among the loaders."""
        if self._store_many is None or callable(item) or inspect.isawaitable(item):
            await self._begin(self._load(key, item))
            return
        if key in self._batch or len(self._batch) >= _BATCH:
            await self._begin(self._put_all(self._taken()))
        self._batch[key] = item
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHERS, self._flush)

    async def finish(self) -> None:
        """Wait until everything that was taken is done; raises what ``progress`` raised."""
        self._flush()
        while self._running:
            await self._some()

    async def aclose(self) -> None:
        """End what runs."""
        self._taken()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    # Tasks

    async def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="aioinfra-cache-warming")
        self._running.add(task)
        while len(self._running) >= self._options.concurrency and not task.done():
            await self._some()

    async def _some(self) -> None:
        done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            self._running.discard(task)
            task.result()  # loaders' errors are in the report

    def _taken(self) -> dict[str, Any]:
        batch, self._batch = self._batch, {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return batch

    def _flush(self) -> None:
        batch = self._taken()
        if batch:
            self._running.add(asyncio.create_task(self._put_all(batch), name="aioinfra-cache-warming"))

    # Pairs

    async def _load(self, key: str, item: Any) -> None:
        loaded = False
        try:
            value = item() if callable(item) else item
            if inspect.isawaitable(value):
                value = await value
            loaded = True
            await self._put(lambda: self._store(key, value))
        except Exception as error:
            if loaded and isinstance(
                error, LifecycleError
            ):  # the cache is closed: that is no matter of a key
                raise
            self._failed(key, error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._failed(key, error)  # the loader's own
        else:
            self._stored(1)

    async def _put_all(self, batch: dict[str, Any]) -> None:
        store_many = self._store_many
        if store_many is None:
            return
        try:
            await self._put(lambda: store_many(batch))
        except Exception:  # noqa: BLE001 - which of them it was is told below
            for key, value in batch.items():
                await self._load(key, _given(value))
        else:
            self._stored(len(batch))

    async def _put(self, store: Callable[[], Awaitable[Any]]) -> None:
        """Store, until no outage came between."""
        while True:
            await self._ready()
            before = self._outages()
            await store()
            if self._outages() == before:
                return

    def _stored(self, count: int) -> None:
        for _ in range(count):
            self.report.stored += 1
            self._tell()

    def _failed(self, key: str, error: BaseException) -> None:
        self.report.failed += 1
        if len(self.report.failures) < _MOST_FAILURES:
            self.report.failures[str(key)] = type(error).__name__
        self._tell()

    def _tell(self) -> None:
        if self._options.progress is not None:
            self._options.progress(self.report)


def _given(value: Any) -> Callable[[], Any]:
    return lambda: value


def _pair(pair: object) -> tuple[str, Any]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InvalidArgument("loader", "must give pairs of a key and a value or loader")
    return pair[0], pair[1]


async def _pairs(source: Source, report: WarmReport) -> AsyncIterator[object]:
    """What any form of source gives, one after the other."""
    given: Any = source() if callable(source) else source
    if inspect.isawaitable(given):
        given = await given
    if isinstance(given, Sized):
        report.total = len(given)
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
