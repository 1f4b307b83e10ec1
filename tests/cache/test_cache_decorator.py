"""@cached, as users write it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from aioinfra.cache.decorator import cached
from aioinfra.cache.default import default_cache, use_cache
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions, NearOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import EncodeError, InvalidArgument, LifecycleError, NotInstalled


@pytest.fixture(params=["memory", "server"])
async def cache(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[CacheManager]:
    url = request.getfixturevalue("valkey_url") if request.param == "server" else None
    async with CacheManager(url, namespace=prefix) as made:
        yield made


@pytest.fixture
def default(cache: CacheManager) -> Iterator[CacheManager]:
    default_cache.install(cache)
    yield cache
    default_cache.withdraw(cache)


class Calls:
    """Counts the runs of a decorated function."""

    def __init__(self) -> None:
        self.count = 0


@dataclass
class User:
    id: int
    tags: set[str]
    since: datetime | None = None


class Point(msgspec.Struct):
    x: float


class Row(TypedDict):
    price: Decimal


class Model(pydantic.BaseModel):
    id: UUID


async def test_without_and_with_parentheses(default: CacheManager) -> None:
    calls = Calls()

    @cached
    async def plain(number: int) -> int:
        calls.count += 1
        return number * 2

    @cached()
    async def empty(number: int) -> int:
        calls.count += 1
        return number * 3

    @cached(ttl=60, key_prefix="api")
    async def full(number: int, *, factor: int = 4) -> int:
        calls.count += 1
        return number * factor

    for _ in range(3):
        assert (await plain(2), await empty(2), await full(2)) == (4, 6, 8)
        assert (await plain(number=2), await full(2, factor=4)) == (4, 8)
    assert calls.count == 3
    assert full.key_for(2).startswith("api:")
    assert await default.exists(full.key_for(2))
    assert await default.clear("api:*") == 1
    assert await full(2) == 8
    assert calls.count == 4


async def test_the_cache_comes_from_the_call_or_the_decorator_or_the_process(prefix: str) -> None:
    async with CacheManager() as one, CacheManager() as two:

        @cached
        async def where() -> int:
            return 1

        with pytest.raises(NotInstalled):
            await where()
        await where(_cache_manager=one)  # type: ignore[call-arg]  # not part of the function's signature
        assert await one.exists(where.key_for())
        assert not await two.exists(where.key_for())

        @cached(cache=two)
        async def bound() -> int:
            return 1

        await bound()
        assert await two.exists(bound.key_for())
        assert await where.invalidate(_cache_manager=one)  # type: ignore[call-arg]  # as above
        assert not await one.exists(where.key_for())
        await bound(_cache_manager=one)  # type: ignore[call-arg]  # as above
        assert await one.exists(bound.key_for())
        with pytest.raises(InvalidArgument, match="_cache_manager"):
            await bound(_cache_manager="redis://")  # type: ignore[call-arg]  # as above


async def test_a_call_on_another_cache_is_typed_and_has_every_verb(default: CacheManager) -> None:
    runs = 0

    class Shop:
        @cached(ttl=60, ignore=("self",), tags=("t",))
        async def price(self, article: int) -> str:
            nonlocal runs
            runs += 1
            return f"{article} EUR"

    @cached(ttl=60)
    async def double(number: int) -> int:
        nonlocal runs
        runs += 1
        return 2 * number

    async with CacheManager() as other:
        for _ in range(3):
            assert await double.on(other)(4) == 8
            assert await Shop().price.on(other)(article=7) == "7 EUR"
        assert runs == 2
        assert await other.exists(double.key_for(4))
        assert not await default.exists(double.key_for(4))
        assert await double.on(other).strong(4) == 8
        assert (await double.on(other).explain(4)).state == "fresh"
        assert await Shop().price.on(other).refresh(7) == "7 EUR"
        assert await Shop().price.on(other).invalidate(7)
        assert await double.on(other).invalidate(4)
        assert double.on(other).key_for(4) == double.key_for(4)
        assert Shop().price.on(other).tags_for(7) == ("t",)
    assert runs == 3
    assert await double(4) == 8
    with pytest.raises(InvalidArgument, match="cache"):
        double.on("redis://")  # type: ignore[arg-type]  # a slip


async def test_turning_from_cache_to_cache_keeps_what_l1_has_of_each(valkey_url: str, prefix: str) -> None:
    """What L1 keeps is of one kind of values, so the kind must be the same at the next call."""

    @cached(ttl=60)
    async def load(number: int) -> User:
        return User(number, {"a"})

    # A busy machine is slow to answer and to confirm; this is not about that.
    options = CacheOptions(redis=RedisStoreOptions(budget=3.0), near=NearOptions(max_staleness=60))
    async with (
        CacheManager(valkey_url, namespace=f"{prefix}one:", options=options) as one,
        CacheManager(valkey_url, namespace=f"{prefix}two:", options=options) as two,
    ):
        for cache in (one, two):
            async with asyncio.timeout(30):
                while cache.get_stats()["l1_hits"] == 0:  # filled by a read once the server is heard
                    await load.on(cache)(1)
        before = [cache.get_stats()["l1_hits"] for cache in (one, two)]
        for cache in (one, two) * 5:
            await load.on(cache)(1)
            await load(1, _cache_manager=cache)  # type: ignore[call-arg]  # as above
        assert [cache.get_stats()["l1_hits"] for cache in (one, two)] == [hits + 10 for hits in before]


async def test_a_plain_cache_can_be_the_default_of_decorated_functions() -> None:
    @cached
    async def load() -> int:
        return 1

    async with CacheManager() as cache, CacheManager() as other:
        with use_cache(cache) as used:
            assert used is cache
            assert await load() == 1
            with use_cache(cache):
                assert await load() == 1
            assert await cache.exists(load.key_for())
            assert await load.invalidate()
            with pytest.raises(LifecycleError), use_cache(other):
                pass
            assert await load() == 1
        with pytest.raises(NotInstalled):
            await load()
        with pytest.raises(InvalidArgument), use_cache(None):  # type: ignore[arg-type]  # a slip
            pass


async def test_invalidate_and_refresh(default: CacheManager) -> None:
    calls = Calls()

    @cached
    async def count(name: str) -> int:
        calls.count += 1
        return calls.count

    assert await count("a") == 1
    assert await count.refresh("a") == 2
    assert await count("a") == 2
    assert await count.invalidate("a") is True
    assert await count.invalidate(name="a") is False
    assert await count("a") == 3


async def test_none_is_a_result(default: CacheManager) -> None:
    calls = Calls()

    @cached
    async def find(name: str) -> User | None:
        calls.count += 1
        return None

    for _ in range(5):
        assert await find("nobody") is None
    assert calls.count == 1
    key = find.key_for("nobody")
    assert await default.get(key, "absent") is None
    assert await default.mget([key, "absent"]) == {key: None}


async def test_an_error_is_raised_and_not_cached(default: CacheManager) -> None:
    calls = Calls()

    @cached
    async def fail() -> int:
        calls.count += 1
        raise OSError("down")

    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            await fail()
    assert calls.count == 2


class NotFoundError(Exception):
    pass


class WrappedError(NotFoundError):
    """Its args do not rebuild it."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} {two}")


async def test_errors_are_cached_on_request(default: CacheManager) -> None:
    calls = Calls()

    @cached(errors=(NotFoundError, WrappedError), error_ttl=60)
    async def find(error: int) -> str:
        calls.count += 1
        raise [NotFoundError("user", 7), WrappedError(1, 2), NotFoundError(object()), OSError("down")][error]

    for _ in range(3):
        with pytest.raises(NotFoundError) as caught:
            await find(0)
        assert caught.value.args == ("user", 7)
    assert calls.count == 1
    assert await default.exists(find.key_for(0))
    assert await default.get(find.key_for(0), "no value") == "no value"
    assert await default.mget([find.key_for(0)]) == {}
    await find.invalidate(0)
    with pytest.raises(NotFoundError):
        await find(0)
    for number, error in ((1, WrappedError), (2, NotFoundError), (3, OSError)):
        calls.count = 0
        for _ in range(2):
            with pytest.raises(error):
                await find(number)
        assert calls.count == 2
    assert default.get_stats()["undecodable"] == 0
    assert default.get_stats()["not_stored"] == 2


async def test_none_and_errors_have_times_of_their_own(valkey_url: str, prefix: str) -> None:
    async with CacheManager(valkey_url, namespace=prefix) as cache, RedisClient(valkey_url) as client:

        @cached(cache=cache, ttl=100, none_ttl=10, errors=(NotFoundError,), error_ttl=1)
        async def find(number: int) -> int | None:
            if number == 0:
                raise NotFoundError
            return None if number == 1 else number

        with pytest.raises(NotFoundError):
            await find(0)
        assert [await find(1), await find(2)] == [None, 2]
        left = [await client.execute("PTTL", prefix + find.key_for(number)) for number in range(3)]
        for milliseconds, most in zip(left, (1_000, 10_000, 100_000), strict=True):
            assert most * 0.5 < milliseconds <= most


async def test_concurrent_calls_run_the_function_once(default: CacheManager) -> None:
    """Also when it never awaits, so that its flight is over before the last reader has its answer."""
    calls = Calls()

    @cached
    async def quick(number: int) -> int:
        calls.count += 1
        return number

    @cached
    async def slow(number: int) -> int:
        calls.count += 1
        await asyncio.sleep(0.01)
        return number

    for number, function in enumerate((quick, slow)):
        calls.count = 0
        assert await asyncio.gather(*(function(number) for _ in range(300))) == [number] * 300
        assert calls.count == 1
        late = [asyncio.create_task(function(number + 10))]
        for _ in range(200):
            await asyncio.sleep(0)
            late.append(asyncio.create_task(function(number + 10)))
        await asyncio.gather(*late)
        assert calls.count == 2


async def test_a_cancelled_caller_takes_nothing_from_the_others(default: CacheManager) -> None:
    calls = Calls()
    started, go = asyncio.Event(), asyncio.Event()

    @cached
    async def slow() -> int:
        calls.count += 1
        started.set()
        await go.wait()
        return 5

    leader = asyncio.create_task(slow())
    await started.wait()
    followers = [asyncio.create_task(slow()) for _ in range(10)]
    await asyncio.sleep(0.01)
    leader.cancel()
    await asyncio.wait([leader])
    go.set()
    assert await asyncio.gather(*followers) == [5] * 10
    assert calls.count == 1


async def test_a_result_that_was_invalidated_while_it_was_computed_is_not_stored(
    default: CacheManager,
) -> None:
    calls = Calls()
    started, go = asyncio.Event(), asyncio.Event()

    @cached
    async def slow() -> int:
        calls.count += 1
        started.set()
        await go.wait()
        return calls.count

    first = asyncio.create_task(slow())
    await started.wait()
    await slow.invalidate()
    go.set()
    assert await first == 1
    assert not await default.exists(slow.key_for())
    assert await slow() == 2


async def test_types_are_restored_from_the_annotation(default: CacheManager) -> None:
    calls = Calls()

    @cached
    async def user() -> User:
        calls.count += 1
        return User(1, {"a"}, datetime(2024, 1, 1, tzinfo=UTC))

    @cached
    async def users() -> dict[int, list[User | None]]:
        calls.count += 1
        return {1: [User(1, set()), None]}

    @cached
    async def point() -> Point:
        calls.count += 1
        return Point(0.5)

    @cached
    async def row() -> Row:
        calls.count += 1
        return {"price": Decimal("9.90")}

    @cached
    async def model() -> list[Model]:
        calls.count += 1
        return [Model(id=UUID(int=1))]

    @cached
    async def pair() -> tuple[bytes, frozenset[int]]:
        calls.count += 1
        return (b"x", frozenset({1}))

    @cached
    async def raw() -> bytes:
        calls.count += 1
        return b"\0raw"

    functions: list[Any] = [user, users, point, row, model, pair, raw]
    for function in functions:
        first, second = await function(), await function()
        assert first == second
        assert type(first) is type(second)
    assert calls.count == len(functions)


@dataclass(frozen=True)
class Chain:
    length: int

    @cached
    async def longer(self) -> Chain:
        return Chain(self.length + 1)

    @cached
    async def end(self) -> Link:
        return Link(self.length)


@dataclass
class Link:
    number: int


async def test_annotations_may_name_their_own_class_or_a_later_one(default: CacheManager) -> None:
    for _ in range(2):
        assert await Chain(1).longer() == Chain(2)
        assert await Chain(1).end() == Link(1)


async def test_a_result_that_cannot_be_given_back_equal_is_refused(default: CacheManager) -> None:
    @cached
    async def untyped():  # type: ignore[no-untyped-def]  # the point of the test
        return {1, 2}

    with pytest.raises(EncodeError, match="annotated with its type"):
        await untyped()


async def test_only_the_return_annotation_needs_to_be_known(default: CacheManager) -> None:
    @cached(ignore=("session",))
    async def load(session: Session, number: int) -> User:  # type: ignore[name-defined]  # noqa: F821 - the point
        return User(number, {"a"})

    for _ in range(2):
        assert await load(None, 1) == User(1, {"a"})


async def test_an_annotation_that_is_not_known_is_named_where_it_matters(default: CacheManager) -> None:
    @cached
    async def load() -> Elsewhere:  # type: ignore[name-defined]  # noqa: F821 - the point
        return User(1, set())

    @cached
    async def plain() -> Elsewhere:  # type: ignore[name-defined]  # noqa: F821 - the point
        return 1

    with pytest.raises(EncodeError, match=r"load could not be resolved: 'Elsewhere' is not defined"):
        await load()
    assert [await plain(), await plain()] == [1, 1]


def versions() -> tuple[Any, Any]:
    """One function before and after its model got a field."""

    def before() -> Any:
        @dataclass
        class Item:
            name: str

        async def load() -> Item:
            return Item("x")

        return Item, load

    def after() -> Any:
        @dataclass
        class Item:
            name: str
            price: int = 0

        async def load() -> Item:
            return Item("x", 5)

        return Item, load

    made = []
    for item, load in (before(), after()):
        load.__qualname__, item.__qualname__ = "load", "Item"
        load.__annotations__["return"] = item
        made.append(cached(load))
    return made[0], made[1]


async def test_a_changed_model_is_a_miss(default: CacheManager) -> None:
    before, after = versions()
    assert (await before()).name == "x"
    assert before.key_for() != after.key_for()
    assert (await after()).price == 5
    # The same key, as after a change that the fingerprint does not see: a miss as well.
    await default.set(after.key_for(), {"nothing": "fits"})
    assert (await after()).price == 5
    assert default.get_stats()["undecodable"] == 1


class Shop:
    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0

    def cache_key(self) -> int:
        return self.number

    @cached
    async def price(self, item: str) -> int:
        self.calls += 1
        return self.number

    @cached(ignore=("self",))
    async def shared(self) -> int:
        self.calls += 1
        return self.number

    @cached
    @classmethod
    async def name(cls, number: int) -> str:
        return f"{cls.__name__} {number}"

    @classmethod
    @cached
    async def title(cls, number: int) -> str:
        return f"{cls.__name__} {number}"

    @cached
    @staticmethod
    async def double(number: int) -> int:
        return number * 2

    @staticmethod
    @cached
    async def triple(number: int) -> int:
        return number * 3


class Bakery(Shop):
    pass


class Keyless:
    @cached
    async def method(self) -> int:
        return 1


async def test_methods(default: CacheManager) -> None:
    one, two = Shop(1), Shop(2)
    assert [await one.price("a"), await one.price(item="a"), await two.price("a")] == [1, 1, 2]
    assert (one.calls, two.calls) == (1, 1)
    assert one.price.key_for("a") == Shop(1).price.key_for("a") != two.price.key_for("a")
    assert await one.price.invalidate("a")
    assert await one.price("a") == 1
    assert await one.price.refresh("a") == 1
    assert one.calls == 3
    assert (await one.shared(), await two.shared()) == (1, 1)
    assert one.price.__name__ == "price"
    assert await Shop.price(two, "a") == 2


async def test_class_and_static_methods(default: CacheManager) -> None:
    shop: Any = Shop  # mypy takes the class for an argument of a decorated class method
    for method in ("name", "title"):
        assert await getattr(shop, method)(1) == "Shop 1"
        assert await getattr(Bakery, method)(1) == "Bakery 1"
        assert await getattr(Bakery(1), method)(1) == "Bakery 1"
        assert await getattr(shop, method).invalidate(1)
        assert await default.exists(getattr(Bakery, method).key_for(1))
    instance: Any = Shop(1)  # mypy takes the instance for an argument of a decorated static method
    for receiver in (shop, instance):
        assert await receiver.double(2) == 4
        assert await receiver.triple(2) == 6
    assert await default.exists(shop.double.key_for(2))


async def test_an_instance_without_a_key_is_refused_at_the_first_call(default: CacheManager) -> None:
    with pytest.raises(InvalidArgument, match=r"^self: .*Keyless has no canonical form"):
        await Keyless().method()


async def test_a_parameter_without_a_canonical_form_can_be_ignored(default: CacheManager) -> None:
    @cached(ignore=("session",))
    async def query(session: object, number: int) -> int:
        return number

    @cached
    async def refused(session: object, number: int) -> int:
        return number

    assert await query(object(), 5) == 5
    assert await default.exists(query.key_for(object(), 5))
    with pytest.raises(InvalidArgument, match="^session: "):  # noqa: RUF043 - a plain prefix
        await refused(object(), 5)


def plain() -> int:
    return 1


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


async def fine(number: int) -> int:
    return number


async def reserved(_cache_manager: object) -> int:
    return 1


@pytest.mark.parametrize(
    "function", [plain, generator, async_generator, reserved, 5, len, Shop, partial(fine, 1)]
)
def test_what_is_no_async_function_is_refused_at_decoration(function: Any) -> None:
    for decorate in (cached, cached(ttl=5)):
        with pytest.raises(InvalidArgument, match="function: "):
            decorate(function)


@pytest.mark.parametrize(
    "options",
    [
        {"none_ttl": 0},
        {"error_ttl": -1},
        {"errors": [OSError]},
        {"errors": (5,)},
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": True},
        {"ttl": float("nan")},
        {"key_prefix": 5},
        {"ignore": "a"},
    ],
)
def test_senseless_options_are_refused_at_decoration(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        cached(**options)


async def test_it_looks_like_the_function() -> None:
    @cached
    async def documented(number: int, /, name: str = "x") -> int:
        """Text."""
        return number

    assert documented.__name__ == "documented"  # type: ignore[attr-defined]  # copied from the function
    assert documented.__doc__ == "Text."
    assert str(inspect.signature(documented)) == "(number: 'int', /, name: 'str' = 'x') -> 'int'"
    assert inspect.iscoroutinefunction(documented.__call__)  # what web frameworks ask
    with pytest.raises(TypeError):
        documented.key_for(1, 2, 3)  # type: ignore[call-arg, arg-type]  # the point of the test


def test_an_option_that_does_not_exist_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidArgument, match=r"^tt: cached\(\)"):
        cached(tt=1)  # type: ignore[call-overload]  # the point of the test
