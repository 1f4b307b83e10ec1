"""Trained dictionaries of one cache, on its server, where every process finds them.

    dict:<id>       a dictionary; its id is drawn from its bytes, so it never changes
    dict-current    a copy of the one that values are to be sealed with; one read tells which, and brings it
    dict-versions   a sorted set of ids by the time at which they were published, for people

A value needs its dictionary as long as it lives. The rule that keeps it:

- Values sealed with a dictionary live 30 days at most (`MOST_LIFE`); longer ones use none.
- A dictionary lives for 90 days (``keep``) from its last renewal. Every process renews, once an hour, those that it
  has sealed or opened values with since. So a dictionary outlives the last value that was sealed with it.
- A server that is short of memory may evict a dictionary. A process that uses it finds that out when it renews, and
  puts it back; in between its values are misses to processes that have not read it yet.

What the server gives is checked, whatever it is: size, form, and that its id fits its bytes. What does not pass is
counted and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Coroutine, Iterable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aioinfra.backoff import Backoff
from aioinfra.cache.dictionary_store import DictionaryStore
from aioinfra.cache.names import Names
from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.codec.bounds import check_number
from aioinfra.codec.dictionaries import MOST_LIFE, Dictionaries, Dictionary
from aioinfra.codec.envelope import ZSTD_DICTIONARY
from aioinfra.codec.layout import SIZE
from aioinfra.codec.zstd import dictionary_of
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import (
    DecodeError,
    LifecycleError,
    PoolExhausted,
    StoreError,
    StoreUnavailable,
)

_MOST_ABSENT: Final = (
    1000  # ids remembered as absent; they come from stored bytes, so anybody may invent some
)
_MOST_AT_ONCE: Final = 8  # dictionaries of one read; half of what is kept
_FRAME_HEADER: Final = 18  # bytes at most: RFC 8878, section 3.1.1
_WITH_DICTIONARY: Final = bytes([ZSTD_DICTIONARY])
_RETRY: Final = Backoff(tries=1_000_000_000, base=0.5, cap=60.0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DictionaryOptions:
    """How dictionaries are kept.

    Attributes:
        budget: seconds that one round trip may take.
        keep: seconds that a dictionary lives from its last renewal; more than `MOST_LIFE`.
        renewal: seconds between renewals, give or take a quarter.
        absence: seconds for which one that is not on the server is not asked for again.
        fallback: whether memory answers while the server is unavailable: then a dictionary that cannot be
            fetched is one that is not there; else `fetch` raises.
    """

    budget: float = 1.0
    keep: float = 90 * 86_400.0
    renewal: float = 3600.0
    absence: float = 2.0
    fallback: bool = False

    def __post_init__(self) -> None:
        check_number("budget", self.budget, 0.001, 3600)
        check_number("keep", self.keep, MOST_LIFE + 86_400, 3650 * 86_400)
        check_number("renewal", self.renewal, 0.001, 86_400 / 2)
        check_number("absence", self.absence, 0, 3600)


DEFAULT_OPTIONS: Final = DictionaryOptions()


class CacheDictionaries:
    """Keeps the dictionaries of one process equal to the server's. One event loop; the client stays its owner's.

    Args:
        client: the cache's server.
        names: of the cache's keys.
        known: what envelopes seal and open with (`Envelope.dictionaries`), changed in place.
    """

    def __init__(
        self,
        client: RedisClient,
        names: Names,
        known: Dictionaries,
        options: DictionaryOptions = DEFAULT_OPTIONS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store = DictionaryStore(client, names, budget=options.budget, keep=options.keep, clock=clock)
        self._known = known
        self._options = options
        self._clock = clock
        self._turn = asyncio.Lock()  # of reading and changing the current one
        self._news = asyncio.Event()
        self._absent: dict[int, float] = {}  # id to the monotonic second until which it counts as absent
        self._fetching: dict[int, asyncio.Task[bool]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    @property
    def current_key(self) -> str:
        """The key whose change `changed` is to be told of."""
        return self._store.current_key

    @property
    def refused(self) -> int:
        """Contents on the server that were no intact dictionary of their id."""
        return self._store.refused

    # Life

    async def start(self, *, wait: bool = True) -> None:
        """Read the current dictionary (one round trip), then follow it and renew until `aclose`.

        A server that does not answer is asked again later; until then nothing is sealed with a dictionary.

        Args:
            wait: for that first answer; False where the server is known to be gone.
        """
        try:
            if wait:
                await self.refresh()
            else:
                self.changed()
        except StoreError:
            self.changed()
        self._tasks = [_begun(self._follow()), _begun(self._renew_always())]

    async def aclose(self) -> None:
        """End what is under way. Before the client is closed."""
        self._closed = True
        tasks = [*self._tasks, *self._fetching.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Reading

    def changed(self) -> None:
        """The current dictionary may be another one now: it is read soon. Costs nothing; for a push's handler."""
        self._news.set()

    async def refresh(self) -> None:
        """Take over the server's current dictionary; give ours back to a server that lost it. One round trip.

        Raises:
            StoreError: not known now; what is current here stays.
        """
        async with self._turn:
            current = self._known.current
            there, found = await self._store.read_current(current)
            if found is not None and found is not current:
                self._known.use(found)
            elif not there and current is not None:
                await self._store.publish(current, unless_any=True)

    async def provide(self, sealed: Iterable[bytes | None]) -> None:
        """Fetch the dictionaries that sealed values need and that are not known here. Mostly none: no round trip.

        Values whose dictionary is nowhere raise `UnknownDictionary`, a DecodeError, when they are opened. Raises as
        `fetch`.
        """
        needed = {_needed_by(data) for data in sealed if data is not None and needs_dictionary(data)}
        missing = [one for one in needed if one and one not in self._known][:_MOST_AT_ONCE]
        if missing:
            await asyncio.gather(*map(self.fetch, missing))

    async def fetch(self, dictionary_id: int) -> bool:
        """Whether the dictionary is known now. One round trip, shared by all who ask at the same time.

        Raises:
            StoreError: the server did not say; with ``fallback`` an unavailable one has none.
            LifecycleError: closed meanwhile.
        """
        if dictionary_id in self._known:
            return True
        if self._absent.get(dictionary_id, -math.inf) > self._clock.monotonic():
            return False
        if self._closed:
            raise LifecycleError("the cache is closed")
        task = self._fetching.get(dictionary_id)
        if task is None:
            task = _begun(self._fetch(dictionary_id))
            self._fetching[dictionary_id] = task
            task.add_done_callback(lambda done: self._fetched(dictionary_id, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and not _being_cancelled():
                raise LifecycleError("the cache was closed") from None
            raise

    # Writing

    async def publish(self, dictionary: Dictionary) -> None:
        """Make a dictionary the current one, here and in all processes. Two round trips.

        Older ones stay as long as their values may. Published again, an older one is current again.

        Raises:
            StoreError: not published, or perhaps.
        """
        async with self._turn:
            await self._store.publish(dictionary)
            self._known.use(dictionary)
            self._absent.pop(dictionary.id, None)

    async def renew(self) -> None:
        """Let dictionaries live on that were used since the last time; those that were evicted are put back.

        Raises:
            StoreError: not done, for some at least; the next call tries again.
        """
        used = self._known.take_used()
        if not used:
            return
        try:
            await self._store.renew(used)
        except BaseException:
            self._known.mark_used(used)
            raise

    # Parts

    async def _fetch(self, dictionary_id: int) -> bool:
        try:
            found = await self._store.read(dictionary_id)
        except StoreUnavailable as error:
            if self._options.fallback and not isinstance(error, PoolExhausted):  # that one is no outage
                return False
            raise
        if found is not None:
            self._known.add(found)
            return True
        if len(self._absent) >= _MOST_ABSENT:
            self._absent.clear()
        self._absent[dictionary_id] = self._clock.monotonic() + self._options.absence
        return False

    def _fetched(self, dictionary_id: int, task: asyncio.Task[bool]) -> None:
        self._fetching.pop(dictionary_id, None)
        if not task.cancelled():
            task.exception()  # retrieved: when every caller has gone, nobody else will

    async def _follow(self) -> None:
        failed = 0
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.refresh()
                failed = 0
            except StoreError:
                failed += 1
                self._news.set()
                await self._clock.sleep(_RETRY.delay(failed))

    async def _renew_always(self) -> None:
        while True:
            await self._clock.sleep(self._options.renewal * random.uniform(0.75, 1.25))  # noqa: S311 - spreads load
            self.changed()
            with contextlib.suppress(StoreError):
                await self.renew()


def _begun(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    # A context of its own: this work belongs to nobody's request.
    return asyncio.create_task(work, name="aioinfra-cache-dictionary", context=Context())


def needs_dictionary(data: bytes) -> bool:
    """Whether sealed bytes say that they were compressed with a dictionary."""
    return data[3:4] == _WITH_DICTIONARY


def _needed_by(data: bytes) -> int:
    """The id in the frame's header, of at most 18 bytes; 0 where there is none that can be read."""
    frame_at = SIZE + int.from_bytes(data[6:8], "little")
    try:
        return dictionary_of(data[frame_at : frame_at + _FRAME_HEADER])
    except DecodeError:
        return 0


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
