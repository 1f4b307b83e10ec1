"""Each error that a server can answer, put in front of a real one: retryable or fatal as documented.

                                            cache                   enqueue                 worker
    LOADING MASTERDOWN CLUSTERDOWN BUSY     memory answers          repeated until its      repeats, and goes on
    READONLY NOREPLICAS MISCONF TRYAGAIN    until it has passed     time is over, then
    max number of clients                                           StoreUnavailable
    OOM                                     memory keeps new values StoreFull at once       repeats, and goes on
    NOAUTH NOPERM                           StoreDenied at once     StoreDenied at once     repeats, and goes on
    WRONGTYPE                               a miss, counted         WrongType at once       goes on
    NOSCRIPT                                                        the script is sent      the script is sent

The rules refuse the commands that a real server refuses in that state.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import pytest

from aioinfra import task
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.cache.store import MISS
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import (
    DeadlineExceeded,
    EnqueueUncertain,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    WrongType,
)
from aioinfra.jobs.client import ClientOptions, JobClient
from aioinfra.jobs.job import JobRequest
from aioinfra.testing import (
    BUSY,
    CLUSTERDOWN,
    JUNK,
    LOADING,
    MASTERDOWN,
    MAX_CLIENTS,
    MISCONF,
    NOAUTH,
    NOPERM,
    NOREPLICAS,
    NOSCRIPT,
    OOM,
    READONLY,
    TRYAGAIN,
    WRONGTYPE,
    Answer,
    Delayed,
    ErrorReply,
    FakeRedis,
    LostReply,
    ThenClose,
    Truncated,
)
from tests.fair_time import fair_time
from tests.jobs.kit import Recorder, engine, until, working

Command = tuple[bytes, ...]

PATIENT = CacheOptions(redis=RedisStoreOptions(budget=3.0))  # a busy machine is no outage

GREETING = {b"AUTH", b"HELLO", b"CLIENT", b"SELECT", b"INFO", b"QUIT"}
WRITES = {b"SET", b"UNLINK", b"DEL", b"EVALSHA", b"EVAL"}
GROWS = {b"SET", b"EVALSHA", b"EVAL"}  # what a server out of memory refuses
SCRIPTS = {b"EVALSHA", b"EVAL"}


def all_but_greetings(command: Command) -> bool:
    return command[0].upper() not in GREETING


def one_of(*names: set[bytes]) -> Callable[[Command], bool]:
    found = set().union(*names)
    return lambda command: command[0].upper() in found


STATES: dict[ErrorReply, Callable[[Command], bool]] = {
    LOADING: all_but_greetings,
    MASTERDOWN: all_but_greetings,
    BUSY: all_but_greetings,
    CLUSTERDOWN: one_of(WRITES, {b"GET", b"MGET", b"EXISTS"}),
    TRYAGAIN: one_of(WRITES, {b"MGET"}),
    READONLY: one_of(WRITES),
    NOREPLICAS: one_of(WRITES),
    MISCONF: one_of(WRITES, {b"PING"}),
    MAX_CLIENTS: all_but_greetings,
    OOM: one_of(GROWS),
    NOAUTH: all_but_greetings,
    NOPERM: one_of(WRITES, {b"GET", b"MGET", b"EXISTS"}),
    WRONGTYPE: one_of(SCRIPTS, {b"GET"}),
}
PASSING = [*(error for error in STATES if error not in (OOM, NOAUTH, NOPERM, WRONGTYPE))]


def name_of(value: object) -> str:
    return value.text[:12].replace(" ", "-") if isinstance(value, ErrorReply) else type(value).__name__


@contextmanager
def state(fake: FakeRedis, error: ErrorReply, *, times: int | None = None) -> Iterator[None]:
    """The server is in the state in which it answers so."""
    if error is MAX_CLIENTS:
        fake.drop_connections()
        with fake.on_connect(ThenClose(error), times=times):
            yield
    else:
        with fake.answer(STATES[error], error, times=times):
            yield


@pytest.fixture
async def fake(valkey_url: str) -> AsyncIterator[FakeRedis]:
    async with FakeRedis(valkey_url) as opened:
        yield opened


@pytest.fixture
def queue(prefix: str) -> str:
    return f"{prefix}queue"


async def count_of(url: str, queue: str) -> int:
    async with RedisClient(url) as direct:
        return int(await direct.execute("ZCARD", queue))


# The cache


@pytest.mark.parametrize("error", PASSING, ids=name_of)
async def test_a_cache_answers_from_memory_until_the_state_has_passed(
    fake: FakeRedis, prefix: str, error: ErrorReply
) -> None:
    async with CacheManager(fake.url, namespace=prefix, options=PATIENT) as cache:
        await cache.mset({"kept": "before", "changed": "before"})
        with state(fake, error):
            await cache.set("changed", "during")
            assert await cache.get("changed") == "during"
            assert await cache.mget(["changed"]) == {"changed": "during"}
            assert await cache.exists("changed")
            health = await cache.health_check()
            assert health.status == "degraded"
            assert error.code in (health.reason or "") or error is MAX_CLIENTS
        async with asyncio.timeout(5):
            await cache.wait_healthy()
        assert await cache.get("changed", MISS) is MISS  # written meanwhile: deleted, never replayed
        assert await cache.get("kept") == "before"
        await cache.set("changed", "after")
        assert await cache.get("changed") == "after"


async def test_a_cache_whose_server_is_full_serves_the_newest_value(fake: FakeRedis, prefix: str) -> None:
    async with CacheManager(fake.url, namespace=prefix, options=PATIENT) as cache:
        await cache.mset({"kept": "before", "changed": "before"})
        with state(fake, OOM):
            await cache.set("changed", "during")
            assert await cache.get("changed") == "during"
            assert await cache.get("kept") == "before"
        await cache.set("changed", "after")
        assert await cache.get("changed") == "after"
        assert await cache.get("kept") == "before"


@pytest.mark.parametrize("error", [NOAUTH, NOPERM], ids=name_of)
async def test_a_cache_that_is_denied_says_so_and_works_when_it_is_allowed(
    fake: FakeRedis, prefix: str, error: ErrorReply
) -> None:
    async with CacheManager(fake.url, namespace=prefix, options=PATIENT) as cache:
        await cache.set("k", "before")
        with state(fake, error):
            for call in (cache.get("k"), cache.mget(["k"]), cache.set("k", "during"), cache.delete("k")):
                with pytest.raises(StoreDenied, match=error.code):
                    await call
        assert await cache.get("k") == "before"
        assert cache.get_stats()["outages"] == 0


async def test_a_key_of_another_type_is_a_miss_that_is_counted(fake: FakeRedis, prefix: str) -> None:
    async with CacheManager(fake.url, namespace=prefix, options=PATIENT) as cache:
        await cache.set("k", "whole")
        with state(fake, WRONGTYPE):
            assert await cache.get("k", "unknown") == "unknown"
        assert await cache.get("k") == "whole"
        assert cache.get_stats()["wrong_type"] == 1


@pytest.mark.parametrize(
    "answer",
    [JUNK, Truncated(keep=3), Truncated(keep=3, hang=True), Delayed(1.7)],
    ids=["junk", "half", "half-hang", "late"],
)
async def test_a_broken_reply_is_no_value_and_passes(fake: FakeRedis, prefix: str, answer: Answer) -> None:
    options = CacheOptions(redis=RedisStoreOptions(budget=0.6))
    async with CacheManager(fake.url, namespace=prefix, options=options) as cache:
        await cache.set("k", "whole")
        fake.answer("GET", answer, times=1)
        before = fair_time()
        assert await cache.get("k", "unknown") == "unknown"
        assert fair_time() - before < 1.5
        # The connection stays silent until its socket timeout, 2 s; the next read takes another one.
        await until(lambda: gives(cache, "k", "whole"), timeout=1.2)


async def gives(cache: CacheManager, key: str, value: str) -> bool:
    return bool(await cache.get(key) == value)


# Enqueueing


@pytest.mark.parametrize("error", PASSING, ids=name_of)
async def test_an_enqueue_outlasts_a_state_that_passes(
    fake: FakeRedis, valkey_url: str, queue: str, error: ErrorReply
) -> None:
    async with RedisClient(fake.url) as redis:
        client = JobClient(redis)
        with state(fake, error, times=2):
            job = await client.enqueue(JobRequest[object]("none", queue=queue, job_id=f"{queue}:1"))
        assert job.created
        assert await count_of(valkey_url, queue) == 1
        await client.aclose()


@pytest.mark.parametrize("error", PASSING, ids=name_of)
async def test_an_enqueue_that_meets_it_for_too_long_is_known_not_to_be_stored(
    fake: FakeRedis, valkey_url: str, queue: str, error: ErrorReply
) -> None:
    async with RedisClient(fake.url) as redis:
        client = JobClient(redis, options=ClientOptions(timeout=0.4))
        with state(fake, error):
            before = fair_time()
            with pytest.raises(StoreUnavailable) as caught:
                await client.enqueue(JobRequest[object]("none", queue=queue))
            assert fair_time() - before < 1.8
            assert not caught.value.sent
        assert await count_of(valkey_url, queue) == 0
        await client.enqueue(JobRequest[object]("none", queue=queue))
        assert await count_of(valkey_url, queue) == 1
        await client.aclose()


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OOM, StoreFull), (NOAUTH, StoreDenied), (NOPERM, StoreDenied), (WRONGTYPE, WrongType)],
    ids=name_of,
)
async def test_an_enqueue_is_told_at_once_what_does_not_pass(
    fake: FakeRedis, valkey_url: str, queue: str, error: ErrorReply, kind: type[StoreError]
) -> None:
    async with RedisClient(fake.url) as redis:
        client = JobClient(redis)
        with state(fake, error):
            before = fair_time()
            with pytest.raises(kind, match=error.code):
                await client.enqueue(JobRequest[object]("none", queue=queue))
            assert fair_time() - before < 1.5
            assert fake.count("EVALSHA") == 1
        assert await count_of(valkey_url, queue) == 0
        await client.aclose()


async def test_an_unknown_script_is_sent(fake: FakeRedis, valkey_url: str, queue: str) -> None:
    async with RedisClient(fake.url) as redis:
        client = JobClient(redis)
        fake.answer("EVALSHA", NOSCRIPT, times=1)
        await client.enqueue(JobRequest[object]("none", queue=queue))
        assert await count_of(valkey_url, queue) == 1
        await client.aclose()


@pytest.mark.parametrize(
    "answer",
    [LostReply(), LostReply(reset=True), Truncated(keep=1), Truncated(keep=1, hang=True), Delayed(1.2)],
    ids=["lost", "reset", "half", "half-hang", "late"],
)
async def test_an_enqueue_whose_reply_is_lost_finds_its_own_job(
    fake: FakeRedis, valkey_url: str, queue: str, answer: Answer
) -> None:
    async with RedisClient(fake.url, PoolOptions(socket_timeout=0.6)) as redis:
        client = JobClient(redis, options=ClientOptions(timeout=8))
        await client.enqueue(JobRequest[object]("none", queue=queue))
        fake.answer(one_of(SCRIPTS), answer, times=1)
        job = await client.enqueue(JobRequest[object]("none", queue=queue, job_id=f"{queue}:mine"))
        assert job.created
        fake.answer(one_of(SCRIPTS), answer, times=1)
        again = await client.enqueue(JobRequest[object]("none", queue=queue, job_id=f"{queue}:mine"))
        assert not again.created  # the job of the call before, and not its own
        assert await count_of(valkey_url, queue) == 2
        await client.aclose()


async def test_an_enqueue_that_never_hears_of_its_job_says_so(
    fake: FakeRedis, valkey_url: str, queue: str
) -> None:
    async with RedisClient(fake.url) as redis:
        client = JobClient(redis, options=ClientOptions(timeout=0.4))
        with fake.answer(one_of(SCRIPTS), LostReply()), pytest.raises(EnqueueUncertain) as caught:
            await client.enqueue(JobRequest[object]("none", queue=queue))
        assert not isinstance(caught.value, DeadlineExceeded)
        async with RedisClient(valkey_url) as direct:
            assert await direct.execute("ZRANGE", queue, 0, -1) == [caught.value.job_id.encode()]
        await client.aclose()


# A running worker


@pytest.mark.parametrize("error", STATES, ids=name_of)
async def test_a_worker_outlives_every_state_and_runs_each_job(
    fake: FakeRedis, valkey_url: str, queue: str, error: ErrorReply
) -> None:
    """One job ends while the server refuses, one was enqueued meanwhile. Both are recorded afterwards."""
    seen = Recorder()
    starts: Counter[str] = Counter()
    go_on = asyncio.Event()

    @task(queue=queue)
    async def work(name: str) -> str:
        starts[name] += 1
        await go_on.wait()
        return name

    async with RedisClient(valkey_url) as direct:
        client = JobClient(direct, options=ClientOptions(timeout=8))
        work.client = client
        options = engine(lease=1.5, observer=seen)
        async with working(fake.url, work, options=options) as worker:
            first = await work.delay("first")
            await until(lambda: starts["first"])
            with state(fake, error):
                go_on.set()
                second = await work.delay("second")
                await until(lambda: seen.errors["finish"] >= 1 and sum(seen.errors.values()) >= 2)
                assert worker.tasks is not None
            assert await first.result(timeout=8) == "first"
            assert await second.result(timeout=8) == "second"
            assert await direct.execute("ZCARD", queue) == 0
        await client.aclose()
    # A finish that the server calls wrong is not repeated: that job runs again after its lease.
    most = 2 if error is WRONGTYPE else 1
    assert 1 <= starts["first"] <= most
    assert 1 <= starts["second"] <= most


async def test_a_worker_comes_up_while_its_server_loads(fake: FakeRedis, valkey_url: str, queue: str) -> None:
    @task(queue=queue)
    async def work() -> str:
        return "done"

    async with RedisClient(valkey_url) as direct:
        client = JobClient(direct)
        work.client = client
        job = await work.delay()
        with state(fake, LOADING):
            async with working(fake.url, work, options=engine()):
                await asyncio.sleep(0.3)
                fake.remove_rules()
                assert await job.result(timeout=8) == "done"
        await client.aclose()


@pytest.mark.parametrize("answer", [LostReply(), Truncated(keep=1), JUNK], ids=["lost", "half", "junk"])
async def test_a_worker_whose_replies_are_lost_runs_each_job_once(
    fake: FakeRedis, valkey_url: str, queue: str, answer: Answer
) -> None:
    """Claims and finishes that took effect and were never answered: the repeats find them done."""
    starts: Counter[int] = Counter()

    @task(queue=queue)
    async def work(number: int) -> int:
        starts[number] += 1
        return number

    async with RedisClient(valkey_url) as direct:
        client = JobClient(direct)
        async with working(fake.url, work, options=engine(lease=10.0)) as worker:
            for lost in range(4):
                fake.answer(one_of(SCRIPTS), answer, times=1, skip=lost)
                jobs = await client.enqueue_many([work.job(5 * lost + n) for n in range(5)])
                for job in jobs:
                    await job.result(timeout=8)
            await until(lambda: worker.jobs_complete == 20)
        await client.aclose()
    assert set(starts.values()) == {1}
    assert len(starts) == 20
