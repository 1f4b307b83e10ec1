"""Reading many values of one kind at once: from L1, then one MGET, then one load for all that nobody loads yet.

    L1: there                   answer
    being loaded                join that batch
    one MGET: found             answer
    otherwise                   a batch: one task, one loader call, one pipelined write

A batch is a flight (`cache.flight`), and so is each of its keys: an invalidation reaches the key, whose value is
then late and not stored, and its callers wait behind a shield, so a cancelled one ends nothing but its own wait.

There are no leases here: each process loads for itself. A delete in another process while the loader runs is not
noticed, then; an invalidated tag, or a cleared namespace, is.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from aioinfra.cache.bulk import get_many
from aioinfra.cache.figures import Figures
from aioinfra.cache.flight import Flight, Flights
from aioinfra.cache.kind import Kind
from aioinfra.cache.loading import begun
from aioinfra.cache.read_through import ReadThrough
from aioinfra.cache.store import MISS
from aioinfra.codec.layout import Tags
from aioinfra.errors import EncodeError, InvalidArgument, Overloaded, StoreError, StoreFull

LoadMany = Callable[[list[Any]], Awaitable[Mapping[Any, Any]]]
"""Gives the values of ids; those that do not exist are left out."""
TagsOf = Callable[[Any], Sequence[str]]
"""The tags of an id's value."""


@dataclass(frozen=True, slots=True)
class Many:
    """Values that are wanted together.

    Attributes:
        ids: by their full keys.
        load: is called with the ids that are missing.
        tags: of each id's value.
    """

    ids: Mapping[str, Hashable]
    load: LoadMany
    kind: Kind
    tags: TagsOf | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What a batch brought, by full key. ``refused``: cannot be stored, which their callers are told."""

    values: dict[str, Any]
    refused: dict[str, BaseException]


class _Part(Flight[Any]):
    """The flight of one key of a batch: what an invalidation of the key reaches."""

    __slots__ = ("batch", "landed")

    def __init__(self, owner: Flights, key: str, batch: Batch) -> None:
        super().__init__(owner, key)
        self.batch = batch
        self.awaited = [batch.flight]
        self.landed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Who joins this key alone wants its value, not what the task of the batch gives.
        self.task = cast("asyncio.Task[Any]", self.landed)

    def land(self, made: Made) -> None:
        """The value for who joined this key alone; there may be none."""
        if self.key in made.values:
            self.landed.set_result(made.values[self.key])
        elif self.key in made.refused:
            self.landed.set_exception(made.refused[self.key])
            self.landed.exception()  # retrieved: mostly nobody waits here
        else:
            self.landed.cancel()


class Batch:
    """One load of many keys under way."""

    __slots__ = ("flight", "parts")

    def __init__(self, flight: Flight[Made], parts: dict[str, _Part]) -> None:
        self.flight = flight
        self.parts = parts

    def again(self, _: Flight[Made]) -> Awaitable[Made]:
        """The result, for who comes when the register has forgotten it."""
        return asyncio.shield(self.flight.task)


class ReadMany:
    """Reads many values through the cache of a `ReadThrough`, whose flights own the batches."""

    __slots__ = ("_figures", "_flights", "_reads", "_register")

    def __init__(self, reads: ReadThrough, figures: Figures) -> None:
        self._reads = reads
        self._figures = figures
        self._flights = reads.flights
        self._register = reads.flights._by_key  # noqa: SLF001 - parts of batches stand in the same register

    async def get_or_load(self, wanted: Many, *, strong: bool = False) -> dict[Any, Any]:
        """The values by id, in order, but for ids that the loader does not know. One round trip when all is there.

        ``strong``: by what the server says now, for L1 is not asked; what is being loaded is joined.

        Raises:
            StoreError: the store could not be read.
            EncodeError: a loaded value cannot be stored.
            InvalidArgument: the loader is no async function, or gave no mapping.
            Exception: what the loader raised.
        """
        values, asked = ({}, list(wanted.ids)) if strong else self._at_hand(wanted)
        batches, asked = self._under_way(asked)
        if asked:
            landed = self._flights.landed
            values.update(await self._read(asked, wanted.kind, strong=strong))
            missing = [key for key in asked if key not in values]
            if missing and self._flights.landed != landed:  # they may have been stored meanwhile
                values.update(await self._read(missing, wanted.kind, strong=strong))
                missing = [key for key in missing if key not in values]
            others, missing = self._under_way(missing)
            batches.update(others)
            if missing:
                batches[self._begin(wanted, missing)] = None
        for batch in batches:
            values.update(await self._flown(batch, wanted))
        return _by_id(values, wanted)

    async def refresh(self, wanted: Many) -> dict[Any, Any]:
        """Load all anew, whatever is stored; raises as `get_or_load`."""
        for key in wanted.ids:
            self._flights.forget(key)
        if not wanted.ids:
            return {}
        return _by_id(await self._flown(self._begin(wanted, list(wanted.ids)), wanted), wanted)

    # Reading

    def _at_hand(self, wanted: Many) -> tuple[dict[str, Any], list[str]]:
        """What L1 has, and the other keys."""
        reads, near, kind = self._reads, self._reads.near, wanted.kind
        if near is None:
            return {}, list(wanted.ids)
        values: dict[str, Any] = {}
        asked = []
        for key in wanted.ids:
            entry = near.get(key, kind.envelope)
            if entry is None or not reads.counts(entry):
                asked.append(key)
            else:
                entry.hits += 1
                values[key] = reads.value(entry, kind)
        return values, asked

    def _under_way(self, keys: Iterable[str]) -> tuple[dict[Batch, None], list[str]]:
        """The batches that load some of these keys, and the other keys."""
        batches: dict[Batch, None] = {}
        others = []
        for key in keys:
            part = self._register.get(key)
            if isinstance(part, _Part):
                batches[part.batch] = None
            else:
                others.append(key)
        return batches, others

    async def _read(self, keys: list[str], kind: Kind, *, strong: bool) -> dict[str, Any]:
        """What the store has. One round trip, for tags that are not known here one more."""
        figures, started = self._figures, self._reads.layers.clock.monotonic()
        found, near = await figures.timed(
            "mget", get_many(self._reads, keys, kind, strong=strong), quiet=True
        )
        values = {key: value for key, value in zip(keys, found, strict=True) if value is not MISS}
        figures.read_many(len(values), len(keys) - len(values), started, near=near)
        return values

    # Loading

    def _begin(self, wanted: Many, keys: Sequence[str]) -> Batch:
        """Start the load of keys that nobody loads. Nothing is awaited, so nobody else can have begun it."""
        parts: dict[str, _Part] = {}
        name = f"\0many:{id(parts)}"  # no key of a value, and no other batch's while this one lives
        self._flights.begin(name, lambda _: self._make(wanted, parts), awaited=True)
        batch = Batch(self._register[name], parts)
        for key in keys:
            self._flights.forget(key)  # a load of this key alone is late now
            self._register[key] = parts[key] = _Part(self._flights, key, batch)
        batch.flight.task.add_done_callback(functools.partial(self._land, batch))
        return batch

    def _land(self, batch: Batch, task: asyncio.Task[Made]) -> None:
        for key, part in batch.parts.items():
            if self._register.get(key) is part:
                del self._register[key]
        if task.cancelled():
            made = Made({}, {})
        else:
            error = task.exception()
            made = task.result() if error is None else Made({}, dict.fromkeys(batch.parts, error))
        for part in batch.parts.values():
            part.land(made)

    async def _flown(self, batch: Batch, wanted: Many) -> dict[str, Any]:
        """Of a batch what is wanted. Its callers wait as for any flight: refused where the wait could not end."""
        made = await self._flights.run(batch.flight.key, batch.again)
        for key, error in made.refused.items():
            if key in wanted.ids:
                raise error
        own = self._reads.own
        return {key: own(made.values[key], wanted.kind) for key in wanted.ids if key in made.values}

    async def _make(self, wanted: Many, parts: Mapping[str, _Part]) -> Made:
        """Load and store."""
        figures, layers, kind = self._figures, self._reads.layers, wanted.kind
        generation = kind.envelope.generation.value
        tags = await self._tags(wanted, parts)
        created, started = layers.epoch.now(), layers.clock.monotonic()
        figures.loads += 1
        try:
            loaded = await begun(lambda: wanted.load([wanted.ids[key] for key in parts]))
            check_loaded(loaded)
        except BaseException:
            figures.load_errors += 1
            figures.done("load", "error", started)
            raise
        figures.done("load", "ok", started)
        took = layers.clock.monotonic() - started
        made, sealed = Made({}, {}), {}
        for key, part in parts.items():
            value = loaded.get(wanted.ids[key], MISS) if wanted.ids[key] in loaded else MISS
            if value is MISS:
                continue
            stamp = kind.stamp(value, created, took, tags.get(key, ()), generation)
            try:
                data = kind.envelope.seal(value, stamp)
            except EncodeError as error:
                made.refused[key] = error
                continue
            made.values[key] = value
            if part.current:
                sealed[key] = (data, kind.keep_for(stamp))
            else:
                figures.late += 1
        await self._store(sealed, parts)
        return made

    async def _tags(self, wanted: Many, keys: Iterable[str]) -> dict[str, Tags]:
        """What stands for the tags of each key now, before its value is made. Two round trips at most."""
        if wanted.tags is None:
            return {}
        names = {key: wanted.tags(wanted.ids[key]) for key in keys}
        distinct = dict.fromkeys(name for each in names.values() for name in each)
        tokens = dict(await self._reads.layers.tags.ensure(distinct, wanted.kind.longest))
        return {key: tuple((name, tokens[name]) for name in each) for key, each in names.items()}

    async def _store(
        self, sealed: Mapping[str, tuple[bytes, float | None]], parts: Mapping[str, _Part]
    ) -> None:
        """Write what was made, pipelined; the callers have the values in any case."""
        if not sealed:
            return
        near, figures = self._reads.near, self._figures
        by_life: dict[float | None, list[tuple[str, bytes]]] = {}
        for key, (data, life) in sealed.items():
            by_life.setdefault(life, []).append((key, data))
        if near is not None:
            near.changed(sealed)
        try:
            stored = await asyncio.gather(*[self._put(items, life) for life, items in by_life.items()])
            # A large write leaves in several steps: what was invalidated between them may have been written.
            late = [key for key in sealed if not parts[key].current]
            if late:
                await self._reads.store.delete(late)
                figures.late += len(late)
            figures.sets += sum(stored) - len(late)
        except (StoreError, Overloaded):
            figures.not_stored += 1
        finally:
            if near is not None:
                near.changed(sealed)

    async def _put(self, items: list[tuple[str, bytes]], life: float | None) -> int:
        """How many were stored."""
        try:
            await self._reads.store.set_many(items, life)
        except (StoreError, Overloaded) as error:
            self._figures.not_stored += len(items)
            if isinstance(error, StoreFull):
                await self._reads.store.delete([key for key, _ in items])  # older values would live on
            return 0
        return len(items)


def _by_id(values: Mapping[str, Any], wanted: Many) -> dict[Any, Any]:
    return {item: values[key] for key, item in wanted.ids.items() if key in values}


def check_loaded(loaded: object) -> None:
    """Raise InvalidArgument unless a loader gave a mapping."""
    if not isinstance(loaded, Mapping):
        raise InvalidArgument(
            "function", f"must give a mapping of ids to values, not {type(loaded).__name__}"
        )
