"""Reading through the cache: L1, the stored value, else the loader's, loaded once for all who wait.

    near.get: there                         answer; nothing is awaited
    the key is being loaded                 join that flight
    store.get: found, and it counts         open it; judge its freshness; put it into L1
      fresh                                 answer
      to be refreshed ahead, or stale       answer, and a flight behind it makes the value anew
      stale if error                        a flight; the old value when it fails or is late
    otherwise                               a flight: see `cache.loading`

An error of the store is raised to the caller of a read (there is no fallback, or it is no outage). An error
of storing what was loaded is counted and the value returned: the caller asked for the value.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from aioinfra.cache.dictionaries import needs_dictionary
from aioinfra.cache.entries import Entry
from aioinfra.cache.figures import Figures
from aioinfra.cache.flight import Flight, Flights
from aioinfra.cache.freshness import Verdict
from aioinfra.cache.kind import Kind
from aioinfra.cache.lease import ANYTHING
from aioinfra.cache.loading import NOTHING, Found, Layers, Load, Loading, StillOldError, Wanted
from aioinfra.cache.near import Near, sized
from aioinfra.cache.store import MISS
from aioinfra.codec.envelope import OutdatedError, StoredFailureError
from aioinfra.codec.layout import is_plain, read_header, read_tags, read_times
from aioinfra.errors import DecodeError, StoreError, StoreFull, StoreUnavailable, WrongType

_MARK: Final = slice(8, 24)
_GRAIN: Final = 1e-6  # seconds; binary64 tells times since the epoch to a fifth of that


class ReadThrough:
    """Reads, loads and writes single values of one open cache. Owns its flights."""

    def __init__(self, layers: Layers, figures: Figures) -> None:
        self.layers = layers
        self.store = layers.store
        self.near: Near | None = layers.near
        self._copies = layers.copies
        self.dictionaries = layers.dictionaries
        self.flights = Flights()
        self.slide: Callable[[str, float], Coroutine[Any, Any, object]] | None = None
        """Begins the life of a key anew, for so many seconds."""
        self._figures = figures
        self._now = layers.clock.monotonic
        self._loading = Loading(layers, figures)
        self._tagged: dict[Flight[Any], Sequence[str]] = {}

    # Reading

    async def get(self, key: str, kind: Kind, *, strong: bool = False) -> Any:
        """The value that counts, or MISS. No round trip from L1, else one, shared with whoever reads then.

        Raises:
            StoreError: the store could not answer.
            Exception: one of ``kind.errors``, stored by an earlier load.
        """
        near = self.near
        if near is not None and not strong:
            entry = near.get(key, kind.envelope)
            if entry is not None and self.counts(entry):
                entry.hits += 1
                return self.value(entry, kind)
        entry = (await self._found(key, kind, strong=strong, stale=False)).entry
        return MISS if entry is None else self.value(entry, kind)

    def value(self, entry: Entry, kind: Kind) -> Any:
        """What a reader gets: the shared object, or a copy of its own."""
        return entry.value if entry.payload is None else kind.envelope.open(entry.payload)

    def own(self, made: Any, kind: Kind) -> Any:
        """What one of those gets who waited for a load: the object that it made, or a copy of its own."""
        if not self._copies or type(made) is bytes:
            return made
        codec = kind.envelope.codec
        return codec.decode(codec.encode(made))

    def counts(self, entry: Entry) -> bool:
        """Whether a value that may be kept beyond its life is within it."""
        return entry.fresh_until is math.inf or entry.fresh_until > self._now()

    async def find(self, key: str, kind: Kind, *, strong: bool = False) -> Found:
        """What the store has under a key, put into L1 on the way; one that is stale is found, too.

        Raises:
            StoreError: the store could not answer.
            Exception: one of ``kind.errors``, stored by an earlier load.
        """
        near = self.near
        fill = near.begin(key) if near is not None and not strong else None
        try:
            try:
                data = await (self._strongly(key) if strong else self.store.get(key))
            except WrongType:
                self._figures.wrong_type += 1
                return NOTHING
            if data is None:
                return NOTHING
            if self.dictionaries is not None and needs_dictionary(data):
                await self.dictionaries.provide([data])
            value = self.opened(data, kind)
            if value is MISS or not await self.tags_hold(data, strong=strong):
                return Found(None, data[_MARK])
            entry = self.entry(key, value, data, kind)
            if fill is not None and near is not None:
                near.put(key, fill, entry, entry.tags)
            return Found(entry, entry.mark)
        finally:
            if fill is not None and near is not None:
                near.drop(key, fill)

    async def _strongly(self, key: str) -> bytes | None:
        """What the store has, and with it the generation of the namespace that it is judged by."""
        data, _ = await asyncio.gather(self.store.get(key), self.layers.certain())
        return data

    def opened(self, data: bytes, kind: Kind) -> Any:
        """The value in stored bytes; MISS, counted, when they cannot be read. Raises a stored failure."""
        try:
            return kind.envelope.open(data)
        except StoredFailureError as failure:
            error = kind.rebuilt(failure)
            if error is None:
                return MISS
            raise error from None
        except OutdatedError:
            return MISS
        except DecodeError:
            self._figures.undecodable += 1
            return MISS

    async def exists(self, key: str) -> bool:
        """Whether anything is under a key, readable or not, but for what was cleared or has had its time."""
        try:
            data = await self.store.get(key)
        except WrongType:
            return True
        if data is None:
            return False
        try:
            header = read_header(data)
        except DecodeError:
            return True
        if header.generation != self.layers.generation.value:
            return False
        over = header.expires and header.expires <= self.layers.epoch.now() and not is_plain(data)
        return not over and await self.tags_hold(data)

    async def tags_hold(self, data: bytes, *, strong: bool = False) -> bool:
        """Whether the tags of sealed bytes still stand."""
        if is_plain(data):
            return True
        try:
            read_header(data)
            tags = read_tags(data)
        except DecodeError:
            self._figures.undecodable += 1
            return False
        if not tags or await self.layers.tags.hold(tags, strong=strong):
            return True
        self._figures.outdated += 1
        return False

    def entry(self, key: str, value: Any, data: bytes, kind: Kind) -> Entry:
        """What L1 keeps of opened bytes."""
        _, expires, took = read_times(data)
        now = self._now()
        plain = is_plain(data)
        fresh_until = math.inf if expires == 0.0 else now + expires - self.layers.epoch.now() - _GRAIN
        freshness = kind.freshness
        return Entry(
            key,
            value,
            sized(key, value, len(data)),
            quiet=freshness.quiet_until(fresh_until, took, kind.ttl, now),
            deadline=fresh_until + (0.0 if plain else freshness.extra),
            # The server's expiry is what counts where nothing is kept beyond it.
            fresh_until=math.inf if plain and freshness.is_plain else fresh_until,
            compute_time=took,
            tags=() if plain else read_tags(data),
            owner=kind.envelope,
            mark=data[_MARK],
            payload=data if self._copies else None,
        )

    # Reading, else loading

    async def get_or_load(
        self, key: str, load: Load, kind: Kind, tags: Sequence[str] = (), *, strong: bool = False
    ) -> Any:
        """The stored value, else the value of ``load``.

        Raises:
            StoreError: the store could not be read.
            EncodeError: the loaded value cannot be stored.
            InvalidArgument: ``load`` is no async function.
            LoadTimeout: beyond the hard timeout.
            Exception: what ``load`` raised.
        """
        near = self.near
        entry = near.get(key, kind.envelope) if near is not None and not strong else None
        if entry is not None and near is not None:
            entry.hits += 1
            if self._now() < entry.quiet:
                return self.value(entry, kind)
            found = Found(entry, entry.mark)
        elif self.flights.is_awaited(key):
            return await self._fly(Wanted(key, load, kind, self._looker(key, kind), tags))
        else:
            landed = self.flights.landed
            found = await self._found(key, kind, strong=strong)
            if found.entry is None and self.flights.landed != landed:
                found = await self._found(key, kind, strong=strong)  # it may have been stored meanwhile
        wanted = Wanted(key, load, kind, self._looker(key, kind), tags, found.mark)
        return await self._fly(wanted) if found.entry is None else await self._judged(found.entry, wanted)

    async def _found(self, key: str, kind: Kind, *, strong: bool, stale: bool = True) -> Found:
        """`find`, counted and reported; without ``stale`` a value must be within its time."""
        figures = self._figures
        started = self._now() if figures.observer is not None else 0.0
        try:
            found = await self.find(key, kind, strong=strong)
        except kind.errors:
            figures.hits += 1
            figures.read_one(hit=True, started=started)
            raise
        except StoreError:
            figures.done("get", "error", started)
            raise
        hit = found.entry is not None
        if hit and not stale and not self.counts(cast("Entry", found.entry)):
            hit, found = False, Found(None, found.mark)
        figures.hits += hit
        figures.misses += not hit
        if figures.observer is not None:
            figures.read_one(hit=hit, started=started)
        return found

    async def _judged(self, entry: Entry, wanted: Wanted) -> Any:
        """An entry as its freshness has it."""
        freshness = wanted.kind.freshness
        verdict = freshness.judge(entry.fresh_until, entry.compute_time, self._now(), random.random)
        if verdict is Verdict.FRESH:
            if freshness.sliding:
                self._slide(entry, wanted.kind)
            return self.value(entry, wanted.kind)
        if verdict is Verdict.AHEAD or verdict is Verdict.REVALIDATE:
            self._figures.stale += verdict is Verdict.REVALIDATE
            self._load_behind(wanted)
            return self.value(entry, wanted.kind)
        if verdict is Verdict.IF_ERROR:
            return await self._unless_error(entry, wanted)
        return await self._fly(wanted)

    def _load_behind(self, wanted: Wanted) -> None:
        """Make the value anew while its readers go on; once at a time, and not soon after a failure."""
        if wanted.key not in self.flights and not self._loading.failures.recent(wanted.key):
            self._figures.refreshes += 1
            behind = _with_stale(wanted)
            self.flights.begin(wanted.key, lambda flight: self._flown(flight, behind), awaited=False)

    async def _unless_error(self, entry: Entry, wanted: Wanted) -> Any:
        """The new value; the old one when that fails or takes too long."""
        old = self.value(entry, wanted.kind)
        if self._loading.failures.recent(wanted.key):
            self._figures.stale += 1
            return old
        try:
            async with asyncio.timeout(wanted.kind.freshness.soft_timeout):
                return await self._fly(_with_stale(wanted))
        except wanted.kind.errors:
            raise
        except Exception:  # noqa: BLE001, S110 - this is what stale_if_error is for; a failed load is counted
            pass
        self._figures.stale += 1
        return old

    def _slide(self, entry: Entry, kind: Kind) -> None:
        """Begin the ttl anew, at most once per half of it."""
        ttl = kind.ttl
        if ttl is None or self.slide is None or entry.fresh_until - self._now() >= ttl / 2:
            return
        entry.fresh_until = self._now() + ttl
        entry.quiet = entry.deadline = entry.fresh_until - ttl / 2
        self.flights.detach(self.slide(entry.key, ttl))

    async def _fly(self, wanted: Wanted) -> Any:
        while True:
            try:
                made = await self.flights.run(wanted.key, lambda flight: self._flown(flight, wanted))
                return self.own(made, wanted.kind)
            except StillOldError:
                if wanted.stale:
                    raise  # else this was the flight of a reader with an older value at hand: one more of ours

    async def _flown(self, flight: Flight[Any], wanted: Wanted) -> Any:
        if not wanted.tags:
            return await self._loading.fly(flight, wanted)
        self._tagged[flight] = wanted.tags
        try:
            return await self._loading.fly(flight, wanted)
        finally:
            del self._tagged[flight]

    def _looker(self, key: str, kind: Kind) -> Any:
        return lambda: self.find(key, kind)

    async def refresh(self, key: str, load: Load, kind: Kind, tags: Sequence[str] = ()) -> Any:
        """Load anew whatever is stored, in a flight of its own; raises as `get_or_load`."""
        self.flights.forget(key)
        return await self._fly(Wanted(key, load, kind, self._looker(key, kind), tags, ANYTHING))

    # Writing

    @contextlib.contextmanager
    def _changing(self, keys: Iterable[str]) -> Iterator[None]:
        """Around a write. What was read or is being made before it, or beside it, may be older than it.

        So loads are forgotten before and after: who asks once the write is acknowledged joins none of them.
        """
        near, forget = self.near, self.flights.forget
        for key in keys:
            forget(key)
        if near is not None:
            near.changed(keys)
        try:
            yield
        finally:
            for key in keys:
                forget(key)
            if near is not None:
                near.changed(keys)

    async def delete(self, keys: Sequence[str]) -> int:
        """Remove keys; how many were there. What is being made for them, here or elsewhere, is not stored."""
        leases = self.layers.leases
        uncounted = [] if leases is None else [leases.lease_key(key) for key in keys]
        with self._changing(keys):
            return await self.store.delete(keys, uncounted)

    async def invalidate_tags(self, tags: Sequence[str]) -> None:
        """End every value that carries one of these. Who asks from now on joins no load from before."""
        self._forget_tagged(tags)
        try:
            await self.layers.tags.invalidate(tags)
        finally:
            self._forget_tagged(tags)

    def _forget_tagged(self, tags: Sequence[str]) -> None:
        for flight, carried in list(self._tagged.items()):
            if not set(tags).isdisjoint(carried):
                self.flights.forget(flight.key)

    async def renew(self, renewing: Awaitable[None]) -> None:
        """End every value by a new generation."""
        self.flights.forget_all()
        try:
            await renewing
        finally:
            self.flights.forget_all()

    async def clear(self, pattern: str) -> int:
        """Remove every key that matches a glob; how many."""
        near, leases = self.near, self.layers.leases
        self.flights.forget_all()
        if leases is not None and self.store.era is not None:
            with contextlib.suppress(StoreUnavailable, StoreFull):  # then the way back does it
                await leases.void_all()
        if near is not None:
            near.cleared(pattern)
        try:
            return await self.store.clear(pattern)
        finally:
            self.flights.forget_all()
            if near is not None:
                near.cleared(pattern)

    async def put(self, key: str, data: bytes, ttl: float | None) -> None:
        """Write bytes; raises as `set`."""
        with self._changing((key,)):
            await self._loading.put(key, data, ttl)

    async def set(self, key: str, value: Any, kind: Kind, tags: Sequence[str] = ()) -> None:
        """Seal and store.

        Raises:
            EncodeError: before any I/O.
            StoreFull: the server takes no more; an older value under the key is gone too.
            StoreError: otherwise not stored, or perhaps.
        """
        data, keep_for = self.sealed(value, kind)
        if tags:
            tokens = await self.layers.tags.ensure(tags, kind.longest)
            stamp = kind.stamp(value, self.layers.epoch.now(), tags=tokens)
            data = kind.envelope.seal(value, stamp)
        try:
            await self._loading.put(key, data, keep_for)
        finally:
            self.flights.forget(key)  # a load that began meanwhile is older than what was set

    async def set_many(self, values: Mapping[str, Any], kind: Kind) -> None:
        """`set` for several, pipelined; not atomic. Raises as `set`."""
        sealed = [(key, *self.sealed(value, kind)) for key, value in values.items()]
        with self._changing(values):
            for life, items in _by_life(sealed).items():
                await self.store.set_many(items, life)
        self._figures.sets += len(sealed)

    def sealed(self, value: Any, kind: Kind) -> tuple[bytes, float | None]:
        """The stored form of a value, created now, and how long it is kept. Raises EncodeError."""
        stamp = kind.stamp(value, self.layers.epoch.now())
        return kind.envelope.seal(value, stamp), kind.keep_for(stamp)


def _with_stale(wanted: Wanted) -> Wanted:
    return Wanted(wanted.key, wanted.load, wanted.kind, wanted.find, wanted.tags, wanted.mark, stale=True)


def _by_life(
    sealed: Iterable[tuple[str, bytes, float | None]],
) -> dict[float | None, list[tuple[str, bytes]]]:
    """Together what lives equally long."""
    groups: dict[float | None, list[tuple[str, bytes]]] = {}
    for key, data, life in sealed:
        groups.setdefault(life, []).append((key, data))
    return groups
