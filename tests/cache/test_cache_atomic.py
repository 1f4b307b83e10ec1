"""The atomic verbs: exact for 100 tasks in each of two processes, honest about what may have happened."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from aioinfra.cache.store import MISS, NO_EXPIRY
from aioinfra.codec.layout import Stamp, read_header
from aioinfra.codec.msgpack import MsgpackCodec
from aioinfra.errors import CounterOverflow, EncodeError, InvalidArgument, StoreUnavailable, WrongType
from aioinfra.testing import FaultProxy, Latency, VirtualClock, cancel_at_each_suspension
from tests.cache.atomic_workload import KEYS, TASKS, Fleet, VerbCache, memory_cache, server_cache, until
from tests.conftest import OwnServer, OwnServerFactory
from tests.fair_time import fair_time

FLEET = 2 * TASKS


@pytest.fixture(params=["memory", "valkey", "redis"])
def where(request: pytest.FixtureRequest) -> str:
    """URL of a server, or nothing for this process' memory."""
    if request.param == "memory":
        return ""
    server: OwnServer = request.getfixturevalue(f"session_{request.param}")
    return server.url


@pytest.fixture
async def cache(where: str, prefix: str) -> AsyncIterator[VerbCache]:
    if not where:
        yield memory_cache()
        return
    async with server_cache(where, prefix, push=False) as cache:
        yield cache


@pytest.fixture
async def server(redis_url: str, prefix: str) -> AsyncIterator[VerbCache]:
    async with server_cache(redis_url, prefix, push=False) as cache:
        yield cache


async def put(cache: VerbCache, key: str, value: Any, stamp: Stamp, px: int | None = None) -> None:
    """Store a value as another process would."""
    words = () if px is None else ("PX", px)
    sealed = cache.envelope.seal(value, stamp)
    await cache.currency._client.execute("SET", cache.namespace + key, sealed, *words)


# Two processes of 100 tasks


@dataclass(frozen=True)
class Done:
    """What two processes saw of each verb, and where what they stored is."""

    url: str
    prefix: str
    saw: dict[str, list[Any]]


async def _work(url: str, prefix: str) -> Done:
    async with Fleet(url, prefix, push=False) as fleet:
        return Done(
            url, prefix, {verb: await fleet.saw(verb) for verb in ("incr", "add", "get_or_set", "expire")}
        )


@pytest.fixture(scope="module", params=["valkey", "redis"])
def done(request: pytest.FixtureRequest) -> Done:
    """One run of both processes on one server."""
    server: OwnServer = request.getfixturevalue(f"session_{request.param}")
    with ThreadPoolExecutor(1) as thread:  # its loop is not that of the tests
        return thread.submit(asyncio.run, _work(server.url, f"t{secrets.token_hex(4)}:")).result()


@pytest.fixture
async def after(done: Done) -> AsyncIterator[VerbCache]:
    """A third process' view of what the two have stored."""
    async with server_cache(done.url, done.prefix, push=False) as cache:
        yield cache


async def test_sums_of_two_processes_are_exact(done: Done, after: VerbCache) -> None:
    assert await after.get("counter") == 7 * FLEET
    assert await after.get("down") == 1000 - 3 * FLEET
    assert len({task[-1] for task in done.saw["incr"]}) == FLEET  # every sum was seen by one caller alone


async def test_of_two_processes_one_caller_adds(done: Done, after: VerbCache) -> None:
    saw = done.saw["add"]
    assert Counter(number for task in saw for number in task) == dict.fromkeys(range(KEYS), 1)
    tasks = [process * 1_000 + task for process in range(2) for task in range(TASKS)]
    winners = {number: tasks[at] for at, task in enumerate(saw) for number in task}
    assert {number: await after.get(f"add{number}") for number in range(KEYS)} == winners


async def test_two_processes_agree_on_one_value(done: Done) -> None:
    saw = done.saw["get_or_set"]
    assert len(saw) == FLEET
    assert all(task == saw[0] for task in saw)


async def test_times_to_live_agree_with_the_server(done: Done, after: VerbCache) -> None:
    assert all(found and touched == 1 and 99 < left <= 297 for found, touched, left in done.saw["expire"])
    raw = after.currency._client
    for number in range(KEYS):
        key = f"{done.prefix}live{number}"
        data, pttl, time = await raw.pipeline([("GET", key), ("PTTL", key), ("TIME",)])
        logical = read_header(data).expires - (int(time[0]) + int(time[1]) / 1e6)
        assert abs(logical - pttl / 1000) < 0.01
        left = await after.ttl(f"live{number}")
        assert isinstance(left, float)
        assert -0.5 < left - pttl / 1000 < 0.01
        assert await after.get(f"live{number}") == number


# Counters


async def test_a_counter_starts_lives_and_is_read_as_a_number(cache: VerbCache) -> None:
    assert await cache.incr("a") == 1
    assert await cache.incr("a", 41) == 42
    assert await cache.decr("a", 2) == 40
    assert await cache.get("a") == 40
    assert await cache.incr("b", 0, initial=7) == 7
    assert await cache.incr("b", -10, initial=100) == -3
    assert await cache.get("b") == -3


async def test_a_stored_number_is_counted_on(cache: VerbCache) -> None:
    await cache.add("a", 5)
    assert await cache.incr("a") == 6


async def test_the_time_to_live_counts_from_the_creation(cache: VerbCache) -> None:
    await cache.incr("a", ttl=100)
    await cache.incr("a", ttl=500)
    left = await cache.ttl("a")
    assert isinstance(left, float)
    assert 99 < left <= 100
    await cache.incr("b", ttl=NO_EXPIRY)
    await cache.incr("b", ttl=5)
    assert await cache.ttl("b") is NO_EXPIRY
    await cache.incr("c")
    assert 59 < (await cache.ttl("c") or 0) <= 60  # type: ignore[operator]  # not NO_EXPIRY: the default


@pytest.mark.parametrize("value", ["5", "text", 5.0, True, None, [1], {"a": 1}, b"5", 1.5])
async def test_what_is_no_whole_number_is_refused_and_stays(cache: VerbCache, value: Any) -> None:
    await cache.add("a", value)
    with pytest.raises(WrongType):
        await cache.incr("a")
    found = await cache.get("a")
    assert found == value
    assert type(found) is type(value)


async def test_a_counter_is_exact_to_the_last_and_never_rounds(cache: VerbCache) -> None:
    most = 2**53
    assert await cache.incr("up", initial=most - 1) == most
    assert await cache.incr("down", -1, initial=1 - most) == -most
    for key, by in (("up", 1), ("up", most), ("down", -1), ("down", -most)):
        with pytest.raises(CounterOverflow):
            await cache.incr(key, by)
    assert await cache.get("up") == most
    assert await cache.get("down") == -most
    assert await cache.incr("up", -most) == 0
    await cache.add("beyond", most + 1)
    with pytest.raises(CounterOverflow):
        await cache.incr("beyond", -5)
    assert await cache.get("beyond") == most + 1


async def test_numbers_of_a_messagepack_cache_are_counted_on(valkey_url: str, prefix: str) -> None:
    async with server_cache(valkey_url, prefix, push=False, codec=MsgpackCodec()) as cache:
        for number in (0, 7, -1, -33, 200, 40_000, -40_000, 2**31, 2**40, -(2**40), 2**53 - 1):
            key = f"n{number}"
            await cache.add(key, number)
            assert await cache.incr(key, 0) == number
        for at, value in enumerate((2**53 + 1, 2**63)):
            await cache.add(f"large{at}", value)
            with pytest.raises(CounterOverflow):
                await cache.incr(f"large{at}")
        for at, other in enumerate((5.0, True, None, "5", [5], {"a": 5}, b"5")):
            await cache.add(f"other{at}", other)
            with pytest.raises(WrongType):
                await cache.incr(f"other{at}")


# One winner


async def test_add_leaves_what_is_there(cache: VerbCache) -> None:
    assert await cache.add("a", None, ttl=50)
    assert not await cache.add("a", 2)
    assert await cache.get("a") is None
    left = await cache.ttl("a")
    assert isinstance(left, float)
    assert 49 < left <= 50


async def test_get_or_set_asks_for_the_default_only_when_it_is_needed(cache: VerbCache) -> None:
    calls = 0

    def count() -> dict[str, int]:
        nonlocal calls
        calls += 1
        return {"calls": calls}

    async def later() -> str:
        return "async"

    assert await cache.get_or_set("a", count) == {"calls": 1}
    assert await cache.get_or_set("a", count) == {"calls": 1}
    assert await cache.get_or_set("a", "other") == {"calls": 1}
    assert await cache.get_or_set("b", later) == "async"
    assert await cache.get_or_set("c", None) is None
    assert await cache.get_or_set("c", 3) is None
    assert calls == 1


async def test_a_failing_default_stores_nothing(cache: VerbCache) -> None:
    async def fail() -> int:
        raise KeyError("no such user")

    with pytest.raises(KeyError):
        await cache.get_or_set("a", fail)
    assert await cache.get("a") is MISS


async def test_get_or_set_replaces_exactly_what_it_could_not_read(server: VerbCache) -> None:
    raw, key = server.currency._client, server.namespace + "a"
    other = VerbCache(server.namespace, MsgpackCodec())
    await raw.execute("SET", key, other.envelope.seal([1], Stamp(0.0)))  # of another codec
    assert await server.get_or_set("a", 5) == 5
    await raw.execute("SET", key, b"junk")
    assert await server.get_or_set("a", 6) == 6
    await raw.execute("SET", key, other.envelope.seal([2], Stamp(0.0)))

    async def default() -> int:
        await put(server, "a", 7, Stamp(0.0))  # another process repairs it meanwhile
        return 8

    assert await server.get_or_set("a", default) == 7


# Times to live


async def test_expire_ttl_and_touch(cache: VerbCache) -> None:
    assert await cache.ttl("a") is None
    assert not await cache.expire("a", 5)
    await cache.add("a", 1, ttl=NO_EXPIRY)
    await cache.add("b", 2, ttl=5)
    assert await cache.ttl("a") is NO_EXPIRY
    assert await cache.expire("a", 30)
    assert await cache.touch("a", "b", "none", ttl=20) == 2
    for key in "ab":
        left = await cache.ttl(key)
        assert isinstance(left, float)
        assert 19 < left <= 20
    assert await cache.touch() == 0
    assert await cache.touch("a", "a") == 2
    assert await cache.expire("b", NO_EXPIRY)
    assert await cache.ttl("b") is NO_EXPIRY
    assert await cache.get("b") == 2


async def test_a_value_ends_when_its_new_time_is_over(cache: VerbCache) -> None:
    await cache.add("a", 1, ttl=60)
    await cache.expire("a", 0.02)

    async def ended() -> bool:
        return await cache.ttl("a") is None

    await until(ended)
    assert await cache.get("a") is MISS
    assert await cache.add("a", 2)


async def test_a_value_kept_beyond_its_expiry_is_absent_to_verbs_and_keeps_its_margin(
    server: VerbCache,
) -> None:
    raw = server.currency._client
    now = int((await raw.execute("TIME"))[0])
    await put(server, "old", 5, Stamp(now - 20, now - 10, kept=True), px=50_000)
    assert await server.ttl("old") is None
    assert not await server.expire("old", 5)
    assert await server.incr("old") == 1
    await put(server, "kept", 5, Stamp(now, now + 10, kept=True), px=70_000)
    assert await server.expire("kept", 100)
    pttl = await raw.execute("PTTL", server.namespace + "kept")
    assert 158_000 < pttl <= 162_000
    left = await server.ttl("kept")
    assert isinstance(left, float)
    assert 99 < left <= 100


# Generations and tags


async def test_a_value_of_an_old_generation_is_absent(server: VerbCache) -> None:
    await server.incr("a", 5)
    await server.add("b", "old")
    server.generation.value = b"newer..."
    await server.currency._client.execute("SET", f"{server.namespace}meta:generation", b"newer...")
    assert await server.ttl("a") is None
    assert await server.incr("a") == 1
    assert await server.add("b", "new")
    assert await server.get("b") == "new"


async def test_a_process_that_knows_an_old_generation_destroys_nothing(redis_url: str, prefix: str) -> None:
    async with (
        server_cache(redis_url, prefix, push=False) as first,
        server_cache(redis_url, prefix, push=False) as late,
    ):
        await first.currency._client.execute("SET", f"{prefix}meta:generation", b"newer...")
        first.generation.value = b"newer..."
        assert await first.incr("a", 5) == 5
        assert await late.incr("a") == 6
        assert not await late.add("a", 0)
        assert late.generation.value == b"newer..."
        assert await first.get("a") == 6


async def test_a_tagged_value_counts_as_long_as_its_tags_stand(server: VerbCache) -> None:
    tag = ("user:7", b"12345678")
    server.currency.standing.add(tag)
    await put(server, "a", 5, Stamp(0.0, tags=(tag,)))
    assert await server.incr("a") == 6
    assert await server.incr("a") == 7  # the sum is tagged too
    server.currency.standing.clear()
    assert await server.ttl("a") is None
    assert await server.incr("a") == 1


# Faults


async def test_bad_input_is_refused_before_any_io() -> None:
    async with server_cache("redis://127.0.0.1:1/0", "p:", push=False) as cache:
        bad: dict[str, Callable[[], Awaitable[Any]]] = {
            "key": lambda: cache.incr(""),
            "by": lambda: cache.incr("a", True),
            "initial": lambda: cache.incr("a", initial=2**53 + 1),
            "ttl": lambda: cache.incr("a", ttl=0),
        }
        for argument, call in bad.items():
            with pytest.raises(InvalidArgument) as caught:
                await call()
            assert caught.value.argument == argument
        for refused in (
            cache.decr("a", 1.5),  # type: ignore[arg-type]  # what is being tested
            cache.add(7, 1),  # type: ignore[arg-type]  # as above
            cache.add("a", 1, ttl=math.nan),
            cache.get_or_set("a", 1, ttl=-1),
            cache.expire("a", math.inf),
            cache.ttl("\ud800"),
            cache.touch("a", ""),
        ):
            with pytest.raises(InvalidArgument):
                await refused
        for unsealable in (cache.add("a", object()), cache.get_or_set("a", {1})):
            with pytest.raises(EncodeError):
                await unsealable
        assert cache.changes == []


async def test_without_a_server_every_verb_says_so() -> None:
    async with server_cache("redis://127.0.0.1:1/0", "p:", push=False) as cache:
        for call in (
            cache.incr("a"),
            cache.add("a", 1),
            cache.get_or_set("a", 1),
            cache.expire("a", 1),
            cache.ttl("a"),
            cache.touch("a", "b"),
        ):
            with pytest.raises(StoreUnavailable) as caught:
                await call
            assert not caught.value.sent


async def test_a_sum_whose_reply_is_lost_is_uncertain_and_not_repeated(
    own_server: OwnServerFactory, prefix: str
) -> None:
    server = own_server(tcp=True)
    async with FaultProxy(server.url) as proxy, server_cache(proxy.url, prefix, push=False) as cache:
        assert await cache.incr("a") == 1
        proxy.lose_reply()
        with pytest.raises(StoreUnavailable) as caught:
            await cache.incr("a")
        assert caught.value.sent
        assert await cache.get("a") == 2


async def test_a_server_that_forgot_its_scripts_gets_them_again_and_counts_once(
    own_server: OwnServerFactory, prefix: str
) -> None:
    async with server_cache(own_server().url, prefix, push=False) as cache:
        raw = cache.currency._client
        await asyncio.gather(*[cache.incr("a") for _ in range(50)])
        await raw.execute("SCRIPT", "FLUSH")
        sums, added, left = await asyncio.gather(
            asyncio.gather(*[cache.incr("a") for _ in range(50)]), cache.add("b", 1), cache.ttl("a")
        )
        assert added
        assert left is not None
        assert sorted(sums) == list(range(51, 101))
        assert await cache.get("a") == 100


async def test_a_hundred_sums_share_round_trips(own_server: OwnServerFactory, prefix: str) -> None:
    server = own_server(tcp=True)
    async with FaultProxy(server.url) as proxy, server_cache(proxy.url, prefix, push=False) as cache:
        await cache.incr("a")
        with proxy.toxic(Latency(0.05)):
            started = fair_time()
            await asyncio.gather(*[cache.incr("a") for _ in range(100)])
            assert fair_time() - started < 0.5  # one by one it were five seconds


async def test_verbs_survive_a_cancellation_at_each_suspension(redis_url: str, prefix: str) -> None:
    async with server_cache(redis_url, prefix, push=False) as cache:
        before = asyncio.all_tasks()

        async def verbs() -> None:
            await cache.incr("a")
            await cache.add("b", 1)
            await cache.get_or_set("c", 1)
            await cache.touch("a", "b")
            await cache.currency._client.execute("DEL", f"{prefix}c")

        report = await cancel_at_each_suspension(verbs)
        assert not report.findings
        await cache.incr("settled")
        await until(lambda: not asyncio.all_tasks() - before)
        assert await cache.incr("a") > 1


async def test_each_change_is_told_before_and_after(cache: VerbCache) -> None:
    full = cache.namespace + "a"
    for call in (cache.incr("a"), cache.add("a", 1), cache.expire("a", 1), cache.touch("a")):
        cache.changes.clear()
        await call
        assert cache.changes == [full, full]
    await cache.ttl("a")
    await cache.get_or_set("a", 1)
    assert cache.changes == [full, full]


async def test_in_memory_times_follow_the_clock_of_the_cache() -> None:
    async with VirtualClock() as clock:
        cache = memory_cache(clock=clock)
        await cache.incr("a", 5, ttl=10)
        await clock.advance(9)
        assert await cache.ttl("a") == pytest.approx(1.0)
        assert await cache.incr("a") == 6
        await clock.advance(2)
        assert await cache.incr("a") == 1


async def test_in_memory_a_cleared_namespace_starts_anew() -> None:
    cache = memory_cache()
    await cache.incr("a", 5)
    cache.generation.value = b"newer..."
    assert await cache.ttl("a") is None
    assert await cache.incr("a") == 1
