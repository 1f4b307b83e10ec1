"""``@cached``: an async function whose results are read through a cache.

At decoration the function is checked and its keys are planned; at the first call its return annotation is
read; at each call: find the cache, make the key, read through. The cache is ``_cache_manager=`` of the call,
else ``cache=`` of the decorator or that of ``fn.on(cache)``, else the process default.

Methods: ``self`` is part of the key by its canonical form, so a class whose instances differ says how with a
``cache_key()`` method (or is a dataclass or model), or leaves it out with ``ignore=("self",)``. ``cls`` stands
in the key by its name. Put ``@cached`` above ``@classmethod`` and ``@staticmethod``; below works too. (Type
checkers cannot follow: to them a class method is rightly called on an instance, a static one on its class.)

The return annotation restores the value's type, and its schema is part of the key: see `codec.schema`. Without
one, or when a name in it cannot be resolved, the values are the plain types of the serialization.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, replace
from time import monotonic
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    cast,
    overload,
)
from weakref import WeakKeyDictionary

from aioinfra.cache.annotation import Shape
from aioinfra.cache.default import default_cache
from aioinfra.cache.entries import Entry
from aioinfra.cache.explanation import Explanation
from aioinfra.cache.freshness import PLAIN, Freshness
from aioinfra.cache.keys import KeyPlan, check_key
from aioinfra.cache.kind import Failures, Kind
from aioinfra.cache.manager import CacheManager, Mode
from aioinfra.cache.store import Ttl
from aioinfra.cache.tag_template import TagTemplates
from aioinfra.cache.tags import namespace_tag
from aioinfra.errors import EncodeError, InvalidArgument
from aioinfra.qualified_name import qualified_name

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

CACHE_ARGUMENT: Final = "_cache_manager"
_HOT_TYPES: Final = frozenset({int, str})
_SPARE_HOT: Final = 1000  # calls remembered beside twice the entries of L1: most of them have left it


CacheSource: TypeAlias = CacheManager | Callable[[], CacheManager] | None
"""Which cache a decorated function uses: this one, the one given at each call, or the process default."""


class CachedSettings(TypedDict, total=False):
    """The keyword arguments of `cached` but for the cache; see there."""

    ttl: Ttl
    key_prefix: str
    namespace: str
    ignore: Collection[str]
    none_ttl: Ttl
    errors: tuple[type[Exception], ...]
    error_ttl: Ttl
    tags: Collection[str]
    jitter: float
    stale_while_revalidate: float
    stale_if_error: float
    retry_after: float
    soft_timeout: float | None
    hard_timeout: float | None
    refresh_ahead: float
    sliding: bool


@dataclass(frozen=True, slots=True)
class CachedOptions:
    """What `cached` was told; see there."""

    ttl: Ttl = None
    key_prefix: str = ""
    namespace: str = ""
    cache: CacheSource = None
    ignore: Collection[str] = ()
    none_ttl: Ttl = None
    errors: tuple[type[Exception], ...] = ()
    error_ttl: Ttl = None
    tags: Collection[str] = ()
    jitter: float = 0.0
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    retry_after: float = 1.0
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    refresh_ahead: float = 0.0
    sliding: bool = False

    def __post_init__(self) -> None:
        self.freshness()
        self.failures()
        for name in ("key_prefix", "namespace"):
            if getattr(self, name) != "":
                check_key(getattr(self, name), name)
        if isinstance(self.ignore, str):
            raise InvalidArgument("ignore", "must be a collection of parameter names, not one text")

    def failures(self) -> Failures:
        """How results that are no value are kept."""
        return Failures(self.none_ttl, self.errors, self.error_ttl)

    def freshness(self) -> Freshness:
        """What happens when a result is no longer fresh, and before."""
        given = {name: getattr(self, name) for name in Freshness.__dataclass_fields__}
        policy = Freshness(**given)
        return PLAIN if policy == replace(PLAIN, ttl=self.ttl) else policy

    def start(self, function: Callable[..., Any]) -> str:
        """What every key of a function begins with, up to its schema."""
        parts = [self.namespace, self.key_prefix, qualified_name(function)]
        return ":".join([part for part in parts if part])


class _Hot:
    """What the quick path of a hit reads: in slots, which are found quicker than in a dictionary."""

    __slots__ = ("_hot", "_near")

    def __init__(self) -> None:
        self._near: Any = None  # the L1 that these entries are of
        self._hot: dict[tuple[Any, ...], Entry] = {}


class CachedFunction(_Hot, Generic[P, R]):
    """An async function read through a cache; call it like the function. Made by `cached`."""

    def __init__(self, function: Callable[P, Coroutine[Any, Any, R]], options: CachedOptions) -> None:
        super().__init__()
        _check(function)
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options
        self._source = options.cache
        self._plan = KeyPlan(function, options.ignore)
        namespace = (namespace_tag(options.namespace),) if options.namespace else ()
        templates = TagTemplates(options.tags, self._plan.names)
        self._templates = None if templates.fixed is not None else templates
        self._tags = (*namespace, *(templates.fixed or ()))
        self._shape = Shape(function, functools.partial(options.start, function))
        self._known: tuple[CacheManager | None, Kind | None] = (None, None)
        self._kinds: WeakKeyDictionary[CacheManager, Kind] = WeakKeyDictionary()
        if hasattr(inspect, "markcoroutinefunction"):  # Python 3.12
            inspect.markcoroutinefunction(self)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        # The whole of an L1 hit for ints and texts, in line: a call here would double its cost.
        if not kwargs:
            try:
                entry = self._hot[args]
            except (KeyError, TypeError):  # TypeError: an argument that has no hash
                pass
            else:
                # 1 == True == 1.0, so the types decide, too.
                if entry.quiet > monotonic() < self._near.until and (
                    type(args[0]) is entry.kind or tuple(map(type, args)) == entry.kind
                ):
                    entry.hits += 1
                    hit: R = entry.value
                    return hit
            reading = self._read(args, kwargs, "read")
            known = self._known  # of this call: another one may use another cache meanwhile
            value: R = await reading
            self._warm(args, known)
            return value
        return cast("R", await self._read(args, kwargs, "read"))

    def _warm(self, args: tuple[Any, ...], known: tuple[CacheManager | None, Kind | None]) -> None:
        """Remember the entry of a call, if L1 has one now, so that the next hit needs no key."""
        cache, value_kind = known
        if self._source is None and cache is not default_cache.current:
            return
        kinds = tuple(map(type, args))
        if not kinds or not _HOT_TYPES.issuperset(kinds):
            return
        if cache is None or value_kind is None or callable(self._source):
            return
        near, entry = cache.near_entry(self._key(args, {}), value_kind)
        if near is None or entry is None or entry.payload is not None or near.now is not monotonic:
            return
        if near is not self._near or len(self._hot) > _SPARE_HOT + 2 * len(near.entries):
            self._near, self._hot = near, {}
        kind = kinds[0] if len(kinds) == 1 else kinds
        if entry.kind is not None and entry.kind != kind:
            return  # f(1) and f(1, 2) may share a key, and an entry knows the types of one way to call it
        entry.kind = kind
        self._hot[args] = entry

    async def strong(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same, by what the server says now: L1 is not asked."""
        return cast("R", await self._read(args, kwargs, "strong"))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function now, whatever is stored, store its result and return it."""
        return cast("R", await self._read(args, kwargs, "refresh"))

    def _read(self, args: tuple[Any, ...], kwargs: dict[str, Any], mode: Mode) -> Coroutine[Any, Any, Any]:
        cache = self._cache(kwargs)
        key = self._key(args, kwargs)
        load = functools.partial(self._function, *args, **kwargs)
        tags = self._tags if self._templates is None else self._all_tags(args, kwargs)
        reading = cache.read_through(key, load, self._kind(cache), tags, mode=mode)
        return self._explaining(reading) if self._shape.problem else reading

    async def _explaining(self, reading: Coroutine[Any, Any, Any]) -> Any:
        """Where the annotation is not known, that may be why a result cannot be kept."""
        try:
            return await reading
        except EncodeError as error:
            raise self._shape.explained(error) from None

    def _all_tags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
        made = self._templates.tags(self._plan.bound(args, kwargs)) if self._templates is not None else ()
        return (*self._tags, *made)

    def tags_for(self, *args: P.args, **kwargs: P.kwargs) -> tuple[str, ...]:
        """The tags that the result of a call carries."""
        kwargs.pop(CACHE_ARGUMENT, None)
        return self._all_tags(args, kwargs)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the result for these arguments; whether there was one. A load under way is not stored."""
        cache = self._cache(kwargs)
        return bool(await cache.delete(self._key(args, kwargs)))

    def key_for(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of a call within the cache's namespace, for ``cache.delete`` and ``cache.exists``."""
        kwargs.pop(CACHE_ARGUMENT, None)
        return self._key(args, kwargs)

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """What the cache knows of the result of a call, but for the value. See `CacheManager.explain`."""
        cache = self._cache(kwargs)
        key = self._key(args, kwargs)
        return await cache.explain(key, self._kind(cache))

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None
    ) -> BoundCached[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundCached(self, instance)

    def _cache(self, kwargs: dict[str, Any]) -> CacheManager:
        given = kwargs.pop(CACHE_ARGUMENT, None) if kwargs else None
        if given is not None and not isinstance(given, CacheManager):
            raise InvalidArgument(CACHE_ARGUMENT, "must be a CacheManager")
        if given is not None:
            return given
        source = self._source
        if source is None:
            return default_cache.require()
        return source if isinstance(source, CacheManager) else source()

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        return (self._shape.start or self._shape.resolve()) + self._plan.text(args, kwargs)

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
        """The same function with another cache: ``await load_user.on(cache)(7)``. No I/O, cheap enough for a call.

        What ``_cache_manager=cache`` in a call does, in a way that type checkers know; all verbs have it.

        Raises:
            InvalidArgument: not a CacheManager.
        """
        if not isinstance(cache, CacheManager):
            raise InvalidArgument("cache", "must be a CacheManager")
        made = object.__new__(type(self))
        vars(made).update(vars(self))
        _Hot.__init__(made)
        made._source = cache
        return made


class CachedStaticMethod(CachedFunction[P, R]):
    """What ``@cached`` above ``@staticmethod`` makes."""

    def __get__(self, instance: Any, owner: type | None = None) -> Self:  # type: ignore[override]  # binds nothing
        return self


class CachedClassMethod(CachedFunction[Concatenate[Any, P], R]):
    """What ``@cached`` above ``@classmethod`` makes."""

    def __get__(self, instance: Any, owner: type | None = None) -> BoundCached[P, R]:  # type: ignore[override]  # binds the class
        return BoundCached(self, owner if owner is not None else type(instance))


class BoundCached(Generic[P, R]):
    """A cached method of one instance or class: what ``instance.method`` gives."""

    __slots__ = ("__func__", "__self__")

    def __init__(self, function: CachedFunction[Any, R], receiver: Any) -> None:
        self.__func__ = function
        self.__self__ = receiver

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)  # __name__, __doc__, __wrapped__

    def on(self, cache: CacheManager) -> BoundCached[P, R]:
        """See `CachedFunction.on`."""
        return BoundCached(self.__func__.on(cache), self.__self__)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.__func__(self.__self__, *args, **kwargs)

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """See `CachedFunction.refresh`."""
        return await self.__func__.refresh(self.__self__, *args, **kwargs)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """See `CachedFunction.invalidate`."""
        return await self.__func__.invalidate(self.__self__, *args, **kwargs)

    async def strong(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """See `CachedFunction.strong`."""
        return await self.__func__.strong(self.__self__, *args, **kwargs)

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """See `CachedFunction.explain`."""
        return await self.__func__.explain(self.__self__, *args, **kwargs)

    def tags_for(self, *args: P.args, **kwargs: P.kwargs) -> tuple[str, ...]:
        """See `CachedFunction.tags_for`."""
        return self.__func__.tags_for(self.__self__, *args, **kwargs)

    def key_for(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """See `CachedFunction.key_for`."""
        return self.__func__.key_for(self.__self__, *args, **kwargs)


@overload
def cached(function: Callable[P, Coroutine[Any, Any, R]], /) -> CachedFunction[P, R]: ...
@overload
def cached(
    *,
    ttl: Ttl = None,
    key_prefix: str = "",
    namespace: str = "",
    cache: CacheSource = None,
    ignore: Collection[str] = (),
    none_ttl: Ttl = None,
    errors: tuple[type[Exception], ...] = (),
    error_ttl: Ttl = None,
    tags: Collection[str] = (),
    jitter: float = 0.0,
    stale_while_revalidate: float = 0.0,
    stale_if_error: float = 0.0,
    retry_after: float = 1.0,
    soft_timeout: float | None = None,
    hard_timeout: float | None = None,
    refresh_ahead: float = 0.0,
    sliding: bool = False,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], CachedFunction[P, R]]: ...
def cached(function: Any = None, /, **options: Any) -> Any:
    """Cache the results of an async function. With or without parentheses.

    Concurrent calls with the same arguments run the function once; they share the object that it returns, so
    treat results as read-only. None is a result like any other. Exceptions are not cached unless asked for.

    Args:
        ttl: seconds to live; None for the cache's default, `NO_EXPIRY` for good.
        key_prefix: put before the function's name in the key, for ``cache.clear("prefix:*")``.
        namespace: put before the prefix; ``cache.clear(namespace=...)`` ends all of it in one write.
        cache: the cache to use, or what gives it at each call.
        ignore: parameters that do not matter to the result, such as a database session.
        none_ttl: seconds to live of a result that is None; None for ``ttl``.
        errors: exception classes to store and raise again at later calls. An exception is made again from its
            ``args``; one whose args are not plain JSON is not stored.
        error_ttl: seconds that these live; None for ``ttl``.
        tags: names for ``cache.invalidate_tag``; ``"user:{user_id}"`` takes the argument of that name.
        jitter, stale_while_revalidate, stale_if_error, retry_after, soft_timeout, hard_timeout, refresh_ahead,
            sliding: see `Freshness`.

    Raises:
        InvalidArgument: not an async function (a plain one, a generator), or an argument above is senseless. At
            a call: an argument has no canonical form; names the parameter.
        NotInstalled: at a call, without any cache.
    """
    for name in options.keys() - CachedOptions.__dataclass_fields__.keys():
        raise InvalidArgument(name, "cached() has no argument of this name")
    if function is None:
        made = CachedOptions(**options)
        return lambda decorated: _decorate(decorated, made)
    return _decorate(function, CachedOptions(**options))


def _decorate(decorated: Any, options: CachedOptions) -> CachedFunction[Any, Any]:
    if isinstance(decorated, classmethod):
        return CachedClassMethod(decorated.__func__, options)
    if isinstance(decorated, staticmethod):
        return CachedStaticMethod(decorated.__func__, options)
    return CachedFunction(decorated, options)


def _check(function: Any) -> None:
    name = getattr(function, "__qualname__", type(function).__name__)
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidArgument(
            "function", f"{name} is a generator: collect its items into a list to cache them"
        )
    if not callable(function):
        raise InvalidArgument(
            "function", "must be an async function; options have names, as in @cached(ttl=60)"
        )
    if not hasattr(function, "__qualname__"):
        raise InvalidArgument(
            "function", f"a {name} has no name to begin keys with: wrap it in an `async def`"
        )
    if not inspect.iscoroutinefunction(function):
        raise InvalidArgument("function", f"{name} must be declared with `async def`")
    if CACHE_ARGUMENT in inspect.signature(function).parameters:
        raise InvalidArgument(
            "function", f"{name} has a parameter called {CACHE_ARGUMENT}, which chooses the cache"
        )
