"""``@cached_many``: an async function that takes ids and gives a mapping, read through a cache id by id.

    @cached_many(ttl=60, tags=["user:{id}"])
    async def load_users(ids: Collection[int], *, locale: str = "en") -> Mapping[int, User]: ...

Each id's value has a key of its own: that of the call with this one id in the place of the ids, the other arguments
included. So a call asks for all of its ids in one MGET, the function is called once with a list of the ids that are
missing, and what it gives is written in one pipeline. What lies behind that is in `cache.many`.

The ids are the first argument, never given by name, in a method the one after ``self`` or ``cls``. They have a
canonical form, as any argument of a `cached` function; ids with the same form are the same id. In a tag ``{id}``
is one id, whatever the parameter is called, and other parameters have their names.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, Self, TypeVar, overload
from weakref import WeakKeyDictionary

from aioinfra.cache.annotation import Shape
from aioinfra.cache.decorator import (
    CACHE_ARGUMENT,
    CachedOptions,
    CacheSource,
)
from aioinfra.cache.default import default_cache
from aioinfra.cache.explanation import Explanation
from aioinfra.cache.kind import Kind
from aioinfra.cache.manager import CacheManager, Mode
from aioinfra.cache.many import Many
from aioinfra.cache.many_plan import ID, ManyPlan, check_ids, value_annotation
from aioinfra.cache.store import Ttl
from aioinfra.cache.tags import namespace_tag
from aioinfra.errors import EncodeError, InvalidArgument

P = ParamSpec("P")
K = TypeVar("K")
V = TypeVar("V")
S = TypeVar("S")


class CachedMany(Generic[P, K, V]):
    """An async function of ids read through a cache; call it like the function. Made by `cached_many`."""

    def __init__(
        self,
        function: Callable[Concatenate[list[K], P], Coroutine[Any, Any, Mapping[K, V]]],
        options: CachedOptions,
    ) -> None:
        self._plan = ManyPlan(function, options)
        functools.update_wrapper(self, function)
        self._function: Callable[..., Any] = function
        self._options = options
        self._source = options.cache
        self._namespace = (namespace_tag(options.namespace),) if options.namespace else ()
        self._shape = Shape(function, functools.partial(options.start, function), value_annotation)
        self._known: tuple[CacheManager | None, Kind | None] = (None, None)
        self._kinds: WeakKeyDictionary[CacheManager, Kind] = WeakKeyDictionary()
        if hasattr(inspect, "markcoroutinefunction"):  # Python 3.12
            inspect.markcoroutinefunction(self)

    async def __call__(self, ids: Collection[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        return await self.read((ids, *args), kwargs)

    async def strong(self, ids: Collection[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """The same, by what the server says now: L1 is not asked."""
        return await self.read((ids, *args), kwargs, mode="strong")

    async def refresh(self, ids: Collection[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """Run the function for all of these ids now, whatever is stored, store its results and return them."""
        return await self.read((ids, *args), kwargs, mode="refresh")

    def tags_for(self, id: K, /, *args: P.args, **kwargs: P.kwargs) -> tuple[str, ...]:  # noqa: A002 - what it is
        """The tags that the result for one id carries."""
        return self.tags_of((), id, args, kwargs)

    async def invalidate(self, *ids: K, **arguments: Any) -> int:
        """Forget the results for these ids; how many there were. A load under way is not stored.

        Other arguments of the function by name: a result belongs to them, too.
        """
        return await self.forget((), ids, arguments)

    def key_for(self, id: K, /, *args: P.args, **kwargs: P.kwargs) -> str:  # noqa: A002 - what it is
        """The key of one id within the cache's namespace, for ``cache.delete`` and ``cache.explain``."""
        kwargs.pop(CACHE_ARGUMENT, None)
        return self.keys((), [id], args, kwargs)[0]

    async def explain(self, id: K, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:  # noqa: A002 - what it is
        """What the cache knows of the result for one id, but for the value. See `CacheManager.explain`."""
        return await self.explained((), id, args, kwargs)

    # The same with a receiver among the arguments

    async def explained(
        self, receiver: tuple[Any, ...], item: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Explanation:
        """`explain`, for a method with its receiver."""
        cache = self._cache(kwargs)
        (key,) = self.keys(receiver, [item], args, kwargs)
        return await cache.explain(key, self._kind(cache))

    async def read(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, mode: Mode = "read"
    ) -> dict[Any, Any]:
        """A call with all of its arguments, those of a method with its receiver."""
        cache = self._cache(kwargs)
        arguments = self._plan.bound(args, kwargs)
        at = self._plan.at
        ids = check_ids(self._plan.name, arguments.pop(self._plan.name))
        start = cache.namespace + (self._shape.start or self._shape.resolve())
        keys = [start + text for text in self._plan.texts(ids, arguments)]

        def load(missing: list[Any]) -> Any:
            return self._function(*args[:at], missing, *args[at + 1 :], **kwargs)

        wanted = Many(dict(zip(keys, ids, strict=True)), load, self._kind(cache), self._tags(arguments))
        try:
            return await cache.read_many(wanted, mode=mode)
        except EncodeError as error:
            raise self._shape.explained(error) from None

    async def forget(self, receiver: tuple[Any, ...], ids: Collection[Any], arguments: dict[str, Any]) -> int:
        """`invalidate`, for a method with its receiver."""
        cache = self._cache(arguments)
        return await cache.delete(*self.keys(receiver, ids, (), arguments))

    def keys(
        self, receiver: tuple[Any, ...], ids: Collection[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[str]:
        """The keys of ids for the other arguments."""
        arguments = self._plan.bound((*receiver, ids, *args), kwargs)
        start = self._shape.start or self._shape.resolve()
        return [start + text for text in self._plan.texts(check_ids(self._plan.name, ids), arguments)]

    def tags_of(
        self, receiver: tuple[Any, ...], item: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, ...]:
        """`tags_for`, for a method with its receiver."""
        kwargs.pop(CACHE_ARGUMENT, None)
        arguments = self._plan.bound((*receiver, [item], *args), kwargs)
        del arguments[self._plan.name]
        tags = self._tags(arguments)
        return () if tags is None else tags(item)

    def _tags(self, arguments: dict[str, Any]) -> Callable[[Any], tuple[str, ...]] | None:
        templates, namespace = self._plan.tags, self._namespace
        if templates.fixed is None:
            return lambda item: (*namespace, *templates.tags({**arguments, ID: item}))
        fixed = (*namespace, *templates.fixed)
        return (lambda _: fixed) if fixed else None

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> BoundMany[P, K, V]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundMany(self, instance)

    def _cache(self, kwargs: dict[str, Any]) -> CacheManager:
        given = kwargs.pop(CACHE_ARGUMENT, None) if kwargs else None
        if given is not None and not isinstance(given, CacheManager):
            raise InvalidArgument(CACHE_ARGUMENT, "must be a CacheManager")
        source = given if given is not None else self._source
        if source is None:
            return default_cache.require()
        return source if isinstance(source, CacheManager) else source()

    def _kind(self, cache: CacheManager) -> Kind:
        """How a cache keeps these results; made once for each cache, since L1 goes by it."""
        known, kind = self._known
        if known is not cache or kind is None:
            kind = self._kinds.get(cache)
            if kind is None:
                options = self._options
                kind = cache.kind(
                    options.ttl, self._shape.annotation, options.failures(), options.freshness()
                )
                self._kinds[cache] = kind
            self._known = (cache, kind)
        return kind

    def on(self, cache: CacheManager) -> Self:
        """The same function with another cache: ``await load_users.on(cache)([1, 2])``. See `CachedFunction.on`."""
        if not isinstance(cache, CacheManager):
            raise InvalidArgument("cache", "must be a CacheManager")
        made = object.__new__(type(self))
        vars(made).update(vars(self))
        made._source = cache
        return made


class BoundMany(Generic[P, K, V]):
    """A cached method of one instance or class: what ``instance.method`` gives. See `CachedMany`."""

    __slots__ = ("__func__", "__self__")

    def __init__(self, function: CachedMany[P, K, V], receiver: Any) -> None:
        self.__func__ = function
        self.__self__ = receiver

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)  # __name__, __doc__, __wrapped__

    async def __call__(self, ids: Collection[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        return await self.__func__.read((self.__self__, ids, *args), kwargs)

    async def refresh(self, ids: Collection[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """See `CachedMany.refresh`."""
        return await self.__func__.read((self.__self__, ids, *args), kwargs, mode="refresh")

    async def strong(self, ids: Collection[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """See `CachedMany.strong`."""
        return await self.__func__.read((self.__self__, ids, *args), kwargs, mode="strong")

    def tags_for(self, id: K, /, *args: P.args, **kwargs: P.kwargs) -> tuple[str, ...]:  # noqa: A002 - what it is
        """See `CachedMany.tags_for`."""
        return self.__func__.tags_of((self.__self__,), id, args, kwargs)

    def on(self, cache: CacheManager) -> BoundMany[P, K, V]:
        """See `CachedMany.on`."""
        return BoundMany(self.__func__.on(cache), self.__self__)

    async def invalidate(self, *ids: K, **arguments: Any) -> int:
        """See `CachedMany.invalidate`."""
        return await self.__func__.forget((self.__self__,), ids, arguments)

    def key_for(self, id: K, /, *args: P.args, **kwargs: P.kwargs) -> str:  # noqa: A002 - what it is
        """See `CachedMany.key_for`."""
        kwargs.pop(CACHE_ARGUMENT, None)
        return self.__func__.keys((self.__self__,), [id], args, kwargs)[0]

    async def explain(self, id: K, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:  # noqa: A002 - what it is
        """See `CachedMany.explain`."""
        return await self.__func__.explained((self.__self__,), id, args, kwargs)


class CachedStaticMany(CachedMany[P, K, V]):
    """What ``@cached_many`` above ``@staticmethod`` makes."""

    def __get__(self, instance: Any, owner: type | None = None) -> Self:  # type: ignore[override]  # binds nothing
        return self


class CachedClassMany(CachedMany[P, K, V]):
    """What ``@cached_many`` above ``@classmethod`` makes."""

    def __get__(self, instance: Any, owner: type | None = None) -> BoundMany[P, K, V]:  # type: ignore[override]  # binds the class
        return BoundMany(self, owner if owner is not None else type(instance))


Loader = Callable[Concatenate[list[K], P], Coroutine[Any, Any, Mapping[K, V]]]
MethodLoader = Callable[Concatenate[S, list[K], P], Coroutine[Any, Any, Mapping[K, V]]]


class ManyDecorator(Protocol):
    """What ``cached_many(...)`` gives: to be put above a function or a method."""

    @overload
    def __call__(self, function: Loader[K, P, V], /) -> CachedMany[P, K, V]: ...
    @overload
    def __call__(self, function: MethodLoader[S, K, P, V], /) -> CachedMany[P, K, V]: ...


@overload
def cached_many(function: Loader[K, P, V], /) -> CachedMany[P, K, V]: ...
@overload
def cached_many(function: MethodLoader[S, K, P, V], /) -> CachedMany[P, K, V]: ...
@overload
def cached_many(
    *,
    ttl: Ttl = None,
    key_prefix: str = "",
    namespace: str = "",
    cache: CacheSource = None,
    ignore: Collection[str] = (),
    none_ttl: Ttl = None,
    tags: Collection[str] = (),
    jitter: float = 0.0,
) -> ManyDecorator: ...
def cached_many(function: Any = None, /, **options: Any) -> Any:
    """Cache what an async function gives for each of the ids it is called with. With or without parentheses.

    The function takes a list of ids and returns a mapping of ids to values; ids that it leaves out do not exist,
    which is not stored: give them None where that is to be cached. A call takes any collection of ids and returns a
    dict in their order, each id once, without those that do not exist. Ids that another call of this process is
    loading are not loaded twice. An error of the function reaches every call that waits for its ids.

    Nothing is locked across processes: two may load the same id at the same time, and a value whose key another
    process deletes while it is loaded is stored nevertheless. Invalidate a tag where that matters.

    Args:
        ttl: seconds to live; None for the cache's default, `NO_EXPIRY` for good.
        key_prefix: put before the function's name in the keys, for ``cache.clear("prefix:*")``.
        namespace: put before the prefix; ``cache.clear(namespace=...)`` ends all of it in one write.
        cache: the cache to use, or what gives it at each call.
        ignore: parameters that do not matter to the results, such as a database session.
        none_ttl: seconds to live of a value that is None; None for ``ttl``.
        tags: of each id's value, for ``cache.invalidate_tag``: ``"user:{id}"`` takes the id, ``{name}`` the
            argument of that name. Tags that are not known here cost a call one round trip more.
        jitter: share of the ttl, 0 to 1, by which each value's is shortened at random.

    Raises:
        InvalidArgument: not an async function with a parameter for ids, or an argument above is senseless. At a
            call: no collection of ids, an id or an argument without a canonical form, no mapping from the function.
        NotInstalled: at a call, without any cache.
    """
    for name in options.keys() - _OPTIONS:
        raise InvalidArgument(name, "cached_many() has no argument of this name")
    made = CachedOptions(**options)
    return _decorate(function, made) if function is not None else lambda decorated: _decorate(decorated, made)


_OPTIONS: Final = frozenset(
    {"ttl", "key_prefix", "namespace", "cache", "ignore", "none_ttl", "tags", "jitter"}
)


def _decorate(decorated: Any, options: CachedOptions) -> CachedMany[Any, Any, Any]:
    if isinstance(decorated, classmethod):
        function: Any = decorated.__func__
        return CachedClassMany(function, options)
    if isinstance(decorated, staticmethod):
        return CachedStaticMany(decorated.__func__, options)
    return CachedMany(decorated, options)
