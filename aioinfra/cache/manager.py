"""The cache as users hold it: checks what comes in, seals it, and hands it to the store of its mode.

Two modes, one behaviour. With a URL or a client the values are on the server, and in memory while the server
is gone (`fallback`). Without, they are in this process.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self

from aioinfra.cache.atomic import Atomic, AtomicVerbs
from aioinfra.cache.atomic_parts import AtomicSeams, make_atomic
from aioinfra.cache.backend import Backend, BackendPlan
from aioinfra.cache.bulk import get_many
from aioinfra.cache.clearing import ClearingVerbs
from aioinfra.cache.entries import Entry
from aioinfra.cache.epoch import Epoch
from aioinfra.cache.explain import explain
from aioinfra.cache.explain_sources import subject_of
from aioinfra.cache.explanation import Explanation
from aioinfra.cache.figures import Figures
from aioinfra.cache.freshness import PLAIN, Freshness
from aioinfra.cache.keys import check_key, full_key, full_keys, tagged
from aioinfra.cache.kind import NO_FAILURES, Failures, Kind
from aioinfra.cache.latency import Latencies
from aioinfra.cache.loading import Layers, Load
from aioinfra.cache.many import Many, ReadMany
from aioinfra.cache.names import Names
from aioinfra.cache.near import Near
from aioinfra.cache.observer import CacheObserver, TotalsObserver
from aioinfra.cache.options import (
    DEFAULT_NAMESPACE,
    DEFAULT_OPTIONS,
    MOST_ENTRIES,
    MOST_MEMORY_TTL,
    CacheHealth,
    CacheOptions,
    Serialization,
    make_codec,
)
from aioinfra.cache.plain import PlainVerbs
from aioinfra.cache.read_through import ReadThrough
from aioinfra.cache.store import MISS, NOT_OPEN, ClosedStore, Lifetime, Ttl
from aioinfra.cache.tags import TagBook, check_tags
from aioinfra.cache.ttl import check_ttl
from aioinfra.cache.warm import DEFAULT_WARM_OPTIONS, Source, WarmOptions, WarmReport, warm
from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.codec.envelope import Envelope, Generation
from aioinfra.codec.layout import Stamp
from aioinfra.codec.pickle import SigningKey
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import InvalidArgument, LifecycleError

Consistency = Literal["near", "strong"]
"""Whether L1 may answer a read, or the server must."""
Mode = Literal["read", "strong", "refresh"]


class CacheManager(AtomicVerbs, ClearingVerbs, PlainVerbs):
    """A cache on Redis or Valkey, or in this process' memory. One event loop at a time.

    ::

        async with CacheManager("redis://localhost:6379/0") as cache:
            await cache.set("user:7", {"name": "Ada"}, ttl=60)
            await cache.get("user:7")

    Values are whatever the serialization can give back equal; None is a value. Keys are text of 1 to 8,192
    bytes, stored under ``namespace``. A stored value that cannot be read (junk, another version, a key that
    holds something else) is counted and is a miss. While the server is unavailable memory answers; while it is
    full memory keeps for some seconds what it does not take. Any other error of the server is raised.

    Args:
        redis_url: ``redis://``, ``rediss://`` or ``unix:///path?db=0``; None for memory only.
        max_connections: of the pool.
        memory_cache_size: most values in memory; 0 keeps none.
        memory_cache_ttl: longest life of a value in memory during an outage, seconds.
        enable_compression: zstd for values over 1 KB, where it saves a tenth.
        serialization: "json", "msgpack" or "pickle". Pickle on a server needs a ``signing_key``.
        signing_key: secret for pickled values, or several, newest first; at least 16 bytes each.
        client: a RedisClient to share instead of ``redis_url``; stays its owner's to close.
        default_ttl: seconds to live where ``ttl`` is None; `NO_EXPIRY` for good.
        namespace: what all keys begin with on the server; not empty. On a Cluster the URL's hash tag goes before
            it, unless it holds that: ``{shop}:``.
        options: the rarely changed settings.
        observer: is told of every operation.
        clock: for TTLs in memory and for measuring.

    Raises:
        InvalidArgument: naming the argument.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        max_connections: int = 50,
        memory_cache_size: int = 1000,
        memory_cache_ttl: float = 300,
        enable_compression: bool = True,
        serialization: Serialization = "json",
        signing_key: SigningKey | None = None,
        *,
        client: RedisClient | None = None,
        default_ttl: Lifetime = 300.0,
        namespace: str = DEFAULT_NAMESPACE,
        options: CacheOptions = DEFAULT_OPTIONS,
        observer: CacheObserver | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_whole("memory_cache_size", memory_cache_size, 0, MOST_ENTRIES)
        check_number("memory_cache_ttl", memory_cache_ttl, 0.001, MOST_MEMORY_TTL)
        if redis_url is not None and client is not None:
            raise InvalidArgument("client", "give either a client or a redis_url")
        if redis_url is None and client is None and signing_key is None:
            signing_key = secrets.token_bytes(32)  # in memory nobody else reads or writes
        tag = client.hash_tag if client is not None else _tag_of(redis_url)
        self._namespace = namespace = tagged(check_key(namespace, "namespace"), tag)
        self._default_ttl = default_ttl
        sealing = replace(options.envelope, compress=options.envelope.compress and enable_compression)
        codec = make_codec(serialization, signing_key)
        seconds = check_ttl(default_ttl, default_ttl, "default_ttl")
        self._generation = Generation()
        self._kind = Kind(Envelope(codec, sealing, self._generation), seconds, seconds)
        self._latencies = Latencies(observer)
        self._figures = Figures(observer=self._latencies, clock=clock)
        self._plan = BackendPlan(
            redis_url,
            client,
            PoolOptions(max_connections=max_connections),
            namespace,
            memory_cache_size,
            memory_cache_ttl,
            options,
            observer,
            clock,
            self._generation,
            self._kind.envelope.dictionaries,
        )
        self._backend: Backend | None = None
        self._verbs: Atomic | None = None
        self._turn = asyncio.Lock()  # of opening and closing
        self._closed_reads = self._reads = ReadThrough(self._closed_layers(), self._figures)

    def __repr__(self) -> str:
        client = self._backend.client if self._backend is not None else self._plan.client
        where = client.location if client is not None else "memory" if self._plan.url is None else "closed"
        return f"CacheManager({where!r}, namespace={self._namespace!r})"

    def _closed_layers(self) -> Layers:
        store, epoch = ClosedStore(), Epoch(self._plan.clock)
        tags = TagBook(store, Names(self._namespace), None)
        return Layers(store, epoch, self._plan.clock, tags, self._generation)

    # Life

    async def initialize(self) -> Self:
        """Open the cache; nothing when it is open. One round trip.

        An unavailable server does not stop this: the cache starts in an outage (see `health_check`).

        Raises:
            StoreDenied: the server refuses the credentials.
            StoreUnavailable: no server, and ``options.fallback`` is off.
        """
        async with self._turn:
            if self._backend is None:
                backend = Backend(self._plan)
                await backend.start()
                self._backend = backend
                self._reads = ReadThrough(backend.layers, self._figures)
                self._verbs = make_atomic(backend.atomic_parts(), self._seams())
                self._reads.slide = self._verbs.store.expire
                if isinstance(observer := self._observer(), TotalsObserver):
                    observer.watch(self.get_stats)
        return self

    async def close(self) -> None:
        """End what is being loaded, wait for what is being written, close. Nothing when it is closed."""
        async with self._turn:
            if self._backend is not None and isinstance(observer := self._observer(), TotalsObserver):
                observer.unwatch(self.get_stats)
            backend, self._backend = self._backend, None
            if backend is not None and backend.near is not None:
                self._figures.l1_hits += backend.near.hits
            reads, self._reads = self._reads, self._closed_reads
            verbs, self._verbs = self._verbs, None
            async with AsyncExitStack() as stack:  # in reverse, and all of it, also when cancelled
                if backend is not None:
                    stack.push_async_callback(backend.aclose)
                if verbs is not None:
                    stack.push_async_callback(verbs.aclose)
                stack.push_async_callback(reads.flights.aclose)

    async def __aenter__(self) -> Self:
        return await self.initialize()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # What the atomic verbs need

    def _atomic(self) -> Atomic:
        if self._verbs is None:
            raise LifecycleError(NOT_OPEN)
        return self._verbs

    def _observer(self) -> object:
        return self._plan.observer  # which may also be one that pulls

    def _seconds(self, ttl: Ttl) -> float | None:
        return check_ttl(ttl, self._default_ttl)

    def _full(self, key: str) -> str:
        return full_key(self._namespace, key)

    def _seams(self) -> AtomicSeams:
        reads, kind = self._reads, self._kind

        def changed(key: str) -> None:
            reads.flights.forget(key)
            if reads.near is not None:
                reads.near.changed((key,))

        async def provide(data: bytes) -> None:
            if reads.dictionaries is not None:
                await reads.dictionaries.provide([data])

        return AtomicSeams(
            lifetime=self._seconds,
            seal=lambda value: kind.envelope.seal(value, Stamp(0.0)),
            opened=lambda data: reads.opened(data, kind),
            changed=changed,
            provide=provide,
        )

    # Single keys

    async def get(self, key: str, default: Any = None, *, consistency: Consistency = "near") -> Any:
        """The value under a key, else ``default``; pass `MISS` to tell a stored None from no value.

        From L1 without a round trip. Gets that ask the server at the same time share one. With
        ``consistency="strong"`` the server is asked in any case, about tags too. Values from L1 are shared by
        their readers: treat them as read-only, or see `NearOptions.copy_on_read`.

        Raises:
            InvalidArgument: not a key.
            StoreError: the server answered with an error; an unavailable one only without a fallback.
            PoolExhausted, Overloaded: this process keeps all connections busy, or too many gets are waiting.
        """
        strong = consistency != "near" and _is_strong(consistency)
        value = await self._reads.get(full_key(self._namespace, key), self._kind, strong=strong)
        return default if value is MISS else value

    async def get_or_load(
        self,
        key: str,
        load: Load,
        ttl: Ttl = None,
        *,
        tags: Iterable[str] = (),
        freshness: Freshness | None = None,
        consistency: Consistency = "near",
    ) -> Any:
        """The value under a key, else what ``load()`` gives, stored for ``ttl`` seconds.

        While it loads, everyone who asks for the key, in this process or in another one, waits for that one load,
        also when the first of them is cancelled. Callers of one process share the object: treat it as read-only.

        Args:
            tags: of the value that is loaded.
            freshness: what happens when it is no longer fresh, and before; has its own ttl.

        Raises:
            Exception: what ``load`` raised; nothing is stored then. Otherwise as `get`, and EncodeError.
        """
        strong = consistency != "near" and _is_strong(consistency)
        kind = self.kind(ttl) if freshness is None else self.kind(freshness=freshness)
        full = full_key(self._namespace, key)
        return await self._reads.get_or_load(full, load, kind, check_tags(tags), strong=strong)

    def read_through(
        self, key: str, load: Load, kind: Kind, tags: Sequence[str] = (), *, mode: Mode = "read"
    ) -> Coroutine[Any, Any, Any]:
        """`get_or_load` for values of a `kind`; "refresh" always loads, "strong" always asks. For decorators."""
        full = full_key(self._namespace, key)
        if mode == "refresh":
            return self._reads.refresh(full, load, kind, tags)
        return self._reads.get_or_load(full, load, kind, tags, strong=mode == "strong")

    def read_many(self, wanted: Many, *, mode: Mode = "read") -> Coroutine[Any, Any, dict[Any, Any]]:
        """Values of a kind by id, from L1, the server or the loader. For decorators; the keys are full."""
        reading = ReadMany(self._reads, self._figures)
        if mode == "refresh":
            return reading.refresh(wanted)
        return reading.get_or_load(wanted, strong=mode == "strong")

    @property
    def namespace(self) -> str:
        """What all keys begin with on the server."""
        return self._namespace

    def near_entry(self, key: str, kind: Kind) -> tuple[Near | None, Entry | None]:
        """L1, and what it would answer under a key for values of a kind. For decorators."""
        near = self._reads.near
        if near is None:
            return None, None
        return near, near.get(self._namespace + key, kind.envelope)

    def forget_l1(self) -> None:
        """Empty L1; the server is asked anew. No I/O."""
        if self._reads.near is not None:
            self._reads.near.flush()

    async def set(self, key: str, value: Any, ttl: Ttl = None, *, tags: Iterable[str] = ()) -> bool:
        """Put a value under a key for ``ttl`` seconds (None: the default; NO_EXPIRY: for good). True.

        Args:
            tags: names for `invalidate_tag`; one more round trip for a tag that is not known here.

        Raises:
            InvalidArgument, EncodeError: before any I/O.
            StoreFull: the server takes no more, and ``options.fallback`` is off; an older value is gone too.
            StoreError: as `get`.
        """
        kind = self.kind(ttl)
        full = full_key(self._namespace, key)
        self._reads.flights.forget(full)
        await self._figures.timed("set", self._reads.set(full, value, kind, check_tags(tags)))
        return True

    async def exists(self, key: str) -> bool:
        """Whether anything is under a key, readable or not, but for what was cleared. One round trip."""
        full = full_key(self._namespace, key)
        return await self._figures.timed("exists", self._reads.exists(full))

    # Many keys

    async def delete(self, *keys: str) -> int:
        """Remove keys; how many were there (during an outage: in memory). What is being loaded is not stored."""
        full = [full_key(self._namespace, key) for key in keys]
        removed = await self._figures.timed("delete", self._reads.delete(full))
        self._figures.deletes += removed
        return removed

    async def mget(self, keys: Iterable[str], *, consistency: Consistency = "near") -> dict[str, Any]:
        """The values that are there, by key, in the order asked for. One round trip for up to 1,000 keys.

        Raises as `get`.
        """
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            raise InvalidArgument("keys", f"must be a collection of keys, not {type(keys).__name__}")
        strong = consistency != "near" and _is_strong(consistency)
        full = full_keys(self._namespace, keys)
        started = self._plan.clock.monotonic()
        reading = get_many(self._reads, list(full.values()), self._kind, strong=strong)
        values, near = await self._figures.timed("mget", reading, quiet=True)
        found = {key: value for key, value in zip(full, values, strict=True) if value is not MISS}
        self._figures.read_many(len(found), len(full) - len(found), started, near=near)
        return found

    async def mset(self, values: Mapping[str, Any], ttl: Ttl = None) -> bool:
        """Put values under their keys, pipelined; not atomic. True. Raises as `set`; bad input before any I/O."""
        if not isinstance(values, Mapping):
            raise InvalidArgument("values", f"must be a mapping, not {type(values).__name__}")
        kind = self.kind(ttl)
        full = {full_key(self._namespace, key): value for key, value in values.items()}
        await self._figures.timed("mset", self._reads.set_many(full, kind))
        return True

    async def warm_cache(
        self, loader: Source, *, ttl: Ttl = None, options: WarmOptions = DEFAULT_WARM_OPTIONS
    ) -> WarmReport:
        """Store what a source gives: a mapping, pairs of keys and values or loaders, or a function of these.

        A failing loader is reported and the rest go on. Waits while the server is unavailable.

        Raises:
            LifecycleError: the cache is not open, or is closed meanwhile.
            Exception: what the source or ``options.progress`` raised.
        """
        kind = self.kind(ttl)
        self._open()
        return await warm(
            lambda key, value: self._reads.set(full_key(self._namespace, key), value, kind),
            loader,
            options,
            ready=self.wait_healthy,
            clock=self._plan.clock,
            store_many=lambda values: self._reads.set_many(
                {full_key(self._namespace, key): value for key, value in values.items()}, kind
            ),
            outages=self._outages,
        )

    def _outages(self) -> int:
        fallback = self._backend.fallback if self._backend is not None else None
        return fallback.outages if fallback is not None else 0

    # State

    async def explain(self, key: str, kind: Kind | None = None) -> Explanation:
        """What is known of a key, but for its value: where it is, how old, why it does not count. See there.

        Two round trips at most; a server that does not answer is a reason. ``kind``: of a decorated function, whose
        type and freshness then count.
        """
        check_key(key)
        return await explain(subject_of(self._open(), self._reads, self._kind), key, kind)

    async def wait_healthy(self) -> None:
        """Return when no outage is under way. LifecycleError when the cache is not open, or not any more."""
        backend = self._open()
        if backend.fallback is not None:
            await backend.fallback.wait_healthy()
        self._open()

    async def health_check(self) -> CacheHealth:
        """The state now. One PING; never raises for a server's fault."""
        return await self._open().health()

    @property
    def _is_open(self) -> bool:
        return self._backend is not None

    def _open(self) -> Backend:
        if self._backend is None:
            raise LifecycleError(NOT_OPEN)
        return self._backend

    def get_stats(self) -> dict[str, int | float]:
        """Totals by name.

        Those of `Figures` with ``hit_rate``, also by layer; the times of each operation as of `Latencies.as_dict`,
        without what L1 answered alone to a get; bytes before and after compression as ``compressed_from`` and
        ``compressed_to``, their difference as ``compression_saved``; while open those of `Backend.figures`.
        """
        compression = self._kind.envelope.figures
        backend = self._backend
        l1_hits = backend.near.hits if backend is not None and backend.near is not None else 0
        return {
            **self._figures.as_dict(l1_hits),
            "compressed_from": compression.plain,
            "compressed_to": compression.stored,
            "compression_saved": compression.plain - compression.stored,
            **self._latencies.as_dict(),
            **(backend.figures() if backend is not None else {}),
        }

    def kind(
        self,
        ttl: Ttl = None,
        annotation: Any = Any,
        failures: Failures = NO_FAILURES,
        freshness: Freshness = PLAIN,
    ) -> Kind:
        """How values of an annotation that live for ``ttl``, or that of ``freshness``, are kept.

        Make it once per function.
        """
        if ttl is None:
            ttl = freshness.ttl
        if ttl is None and annotation is Any and failures is NO_FAILURES and freshness is PLAIN:
            return self._kind
        envelope = self._kind.envelope if annotation is Any else self._kind.envelope.typed(annotation)
        default = self._default_ttl if ttl is None else ttl
        return Kind(
            envelope,
            check_ttl(default, default),
            check_ttl(failures.none_ttl, default, "none_ttl"),
            failures.errors,
            check_ttl(failures.error_ttl, default, "error_ttl"),
            freshness,
        )


def _is_strong(consistency: object) -> bool:
    if consistency != "strong":
        raise InvalidArgument("consistency", 'must be "near" or "strong"')
    return True


def _tag_of(redis_url: str | None) -> str | None:
    """The hash tag of a Cluster's URL. A malformed URL is refused here, not at the first call. No I/O."""
    try:
        return None if redis_url is None else RedisClient(redis_url).hash_tag
    except InvalidArgument as error:
        reason = error.reason
    raise InvalidArgument("redis_url", reason)  # out here: the other error names an argument that nobody gave
