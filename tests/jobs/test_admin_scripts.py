"""The invariants in the headers of the controls' scripts, one by one, with time that is handed in."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.errors import StoreFull, WrongType
from aioinfra.jobs.job import Action, Claim, Finish, StoredRequest
from aioinfra.jobs.redis_store import RedisJobStore, script
from aioinfra.jobs.store import ClaimRequest, Share
from tests.conftest import OwnServerFactory
from tests.jobs.kit import keys_of

NOW = 1_700_000_000_000
HOUR = 3_600_000
PAYLOAD = b'{"t":null,"f":"f","a":[],"k":{},"et":7,"h":{"request_id":"r-1"}}'
RECORD = b'{"task":"f","reason":"failed","error":{"type":"E","message":"m"},"attempt":1,"stalls":0}'

Bury = Callable[..., Awaitable[str]]
Add = Callable[..., Awaitable[str]]


@pytest.fixture
def store(redis: RedisClient) -> RedisJobStore:
    return RedisJobStore(redis, now_ms=lambda: NOW)


@pytest.fixture
def add(store: RedisJobStore, queue: str, prefix: str) -> Add:
    """Enqueue a job of an id that no other test has; answers the id."""
    numbers = iter(range(100_000))

    async def add(due: int = NOW, payload: bytes = PAYLOAD) -> str:
        job_id = f"{prefix}{next(numbers)}"
        await store.add(
            [StoredRequest(queue, job_id, False, due, 0, HOUR, "", payload)], repeated=False, deadline=5.0
        )
        return job_id

    return add


async def claim(store: RedisJobStore, queue: str, *, aborts: bool = False) -> list[Claim]:
    call = uuid.uuid4().hex
    return (
        await store.claim(ClaimRequest((Share(queue, 99, 99),), 99, call, call, 15.0, aborts=aborts))
    ).claims


@pytest.fixture
def bury(store: RedisJobStore, queue: str, add: Add) -> Bury:
    """A dead letter by way of a claim; answers its id."""

    async def bury(payload: bytes = PAYLOAD, result: bytes = b"") -> str:
        job_id = await add(payload=payload)
        [taken] = [one for one in await claim(store, queue) if one.job_id == job_id]
        await store.finish(
            uuid.uuid4().hex,
            "n",
            [Finish(taken, Action.BURY, result, 60_000 if result else 0, record=RECORD)],
        )
        return job_id

    return bury


async def run(redis: RedisClient, name: str, queue: str, *args: Any) -> Any:
    return await redis.run_script(script(name), [queue], args)


async def requeue(redis: RedisClient, queue: str, *ids: str) -> Any:
    return await run(redis, "requeue", queue, NOW + 5, HOUR, *ids)


async def score(redis: RedisClient, key: str, member: str) -> float | None:
    found = await redis.execute("ZSCORE", key, member)
    return None if found is None else float(found)


async def is_letter(redis: RedisClient, queue: str, job_id: str) -> bool:
    """Whether the letter and its entry are there; one without the other fails."""
    letter = await redis.execute("EXISTS", f"aioinfra:dead-letter:{queue}:{job_id}")
    listed = await score(redis, f"aioinfra:dead:{queue}", job_id)
    assert bool(letter) == (listed is not None)
    return bool(letter)


class TestRequeue:
    async def test_a_letter_becomes_a_fresh_job_byte_for_byte(
        self, redis: RedisClient, store: RedisJobStore, queue: str, bury: Bury
    ) -> None:
        job_id = await bury()
        await redis.execute("SET", f"arq:retry:{job_id}", 4, "EX", 60)
        await redis.execute("ZADD", "arq:abort", NOW, job_id)
        assert await requeue(redis, queue, job_id) == [1]
        assert not await is_letter(redis, queue, job_id)
        assert await score(redis, queue, job_id) == NOW + 5
        assert await redis.execute("GET", f"arq:job:{job_id}") == PAYLOAD
        assert HOUR - 5_000 < await redis.execute("PTTL", f"arq:job:{job_id}") <= HOUR
        assert await keys_of(redis, job_id) == {"arq:job"}
        assert await score(redis, "arq:abort", job_id) is None
        store = RedisJobStore(redis, now_ms=lambda: NOW + 5)
        [again] = await claim(store, queue, aborts=True)
        assert (again.job_id, again.attempt, again.stalls, again.aborted) == (job_id, 1, 0, False)

    async def test_a_repeat_after_a_lost_reply_changes_nothing(
        self, redis: RedisClient, queue: str, bury: Bury
    ) -> None:
        job_id = await bury()
        assert await requeue(redis, queue, job_id, job_id) == [1, 0]
        assert await requeue(redis, queue, job_id) == [0]
        assert await redis.execute("ZCARD", queue) == 1

    @pytest.mark.parametrize("holder", ["job", "claim", "member", "result"])
    async def test_a_letter_whose_id_is_taken_stays(
        self, redis: RedisClient, queue: str, bury: Bury, holder: str
    ) -> None:
        job_id, other = await bury(), await bury()
        if holder == "member":
            await redis.execute("ZADD", queue, NOW, job_id)
        else:
            prefix = "aioinfra:claim" if holder == "claim" else f"arq:{holder}"
            theirs = b'{"t":1,"f":"g","a":[],"k":{},"et":8,"s":true,"r":1}'
            await redis.execute("SET", f"{prefix}:{job_id}", theirs, "EX", 60)
        assert await requeue(redis, queue, job_id, other) == [2, 1]
        assert await is_letter(redis, queue, job_id)
        assert not await is_letter(redis, queue, other)
        if holder == "result":
            assert await redis.execute("GET", f"arq:result:{job_id}") == theirs

    @pytest.mark.parametrize(
        ("payload", "result"),
        [
            (PAYLOAD, b'{"t":1,"f":"f","a":[],"k":{},"et":7,"s":false,"r":null}'),
            (b'{"t":null,"f":"f","a":[{"et":5}],"k":{},"et": 7}', b'{"t":1,"a":[{"et":5}],"et":7,"s":false}'),
            (b"junk", b'{"t":1,"f":"","a":[],"k":{},"et":0,"s":false,"r":null}'),
        ],
    )
    async def test_the_result_of_the_death_goes_with_it(
        self, redis: RedisClient, queue: str, bury: Bury, payload: bytes, result: bytes
    ) -> None:
        job_id = await bury(payload, result)
        assert await requeue(redis, queue, job_id) == [1]
        assert await keys_of(redis, job_id) == {"arq:job"}

    async def test_an_enqueue_time_inside_an_argument_is_not_taken_for_the_jobs(
        self, redis: RedisClient, queue: str, bury: Bury
    ) -> None:
        job_id = await bury(b'{"t":null,"f":"f","a":["\\"et\\":8"],"k":{"x":{"et":8}},"et":7}')
        theirs = b'{"t":1,"f":"g","a":[],"k":{},"et":8,"s":true,"r":1}'
        await redis.execute("SET", f"arq:result:{job_id}", theirs, "EX", 60)
        assert await requeue(redis, queue, job_id) == [2]

    async def test_what_cannot_come_back_stays_as_it_was(
        self, redis: RedisClient, queue: str, prefix: str, bury: Bury
    ) -> None:
        expired, junk, gone = await bury(), await bury(), await bury()
        await redis.execute("HSET", f"aioinfra:dead-letter:{queue}:{expired}", "payload", "")
        await redis.execute("DEL", f"aioinfra:dead-letter:{queue}:{junk}")
        await redis.execute("SET", f"aioinfra:dead-letter:{queue}:{junk}", "x", "EX", 60)
        await redis.execute("DEL", f"aioinfra:dead-letter:{queue}:{gone}")
        assert await requeue(redis, queue, expired, junk, gone, f"{prefix}unknown") == [3, 5, 0, 0]
        assert await is_letter(redis, queue, expired)
        assert await is_letter(redis, queue, junk)
        assert not await is_letter(redis, queue, gone)  # its entry in the list has gone too
        assert await redis.execute("EXISTS", queue) == 0

    async def test_a_queue_of_another_type_keeps_its_letters(
        self, redis: RedisClient, queue: str, bury: Bury
    ) -> None:
        job_id = await bury()
        await redis.execute("SET", queue, "x", "EX", 60)
        assert await requeue(redis, queue, job_id) == [4]
        assert await is_letter(redis, queue, job_id)
        assert not await keys_of(redis, job_id)

    async def test_a_call_ends_after_some_megabytes_of_payloads(
        self, redis: RedisClient, queue: str, bury: Bury
    ) -> None:
        large = PAYLOAD + b" " * 3_000_000
        ids = [await bury(large), await bury(large), await bury()]
        assert await requeue(redis, queue, *ids) == [1, 1]
        assert await is_letter(redis, queue, ids[2])
        assert await requeue(redis, queue, ids[2]) == [1]
        await redis.execute("DEL", *(f"arq:job:{one}" for one in ids))

    async def test_a_full_server_refuses_before_anything_is_changed(
        self, own_server: OwnServerFactory, prefix: str
    ) -> None:
        server = own_server(kind="valkey")
        async with RedisClient(server.url) as redis:
            queue = f"{prefix}queue"
            for job_id in ("a", "b"):
                letter = f"aioinfra:dead-letter:{queue}:{job_id}"
                await redis.execute("HSET", letter, "payload", PAYLOAD, "record", RECORD)
                await redis.execute("ZADD", f"aioinfra:dead:{queue}", NOW, job_id)
            await redis.execute("CONFIG", "SET", "maxmemory", "1mb")
            with pytest.raises(StoreFull):
                await requeue(redis, queue, "a", "b")
            assert await is_letter(redis, queue, "a")
            assert not await keys_of(redis, "a")
            await redis.execute("CONFIG", "SET", "maxmemory", "0")
            assert await requeue(redis, queue, "a", "b") == [1, 1]


class TestDiscard:
    async def test_letter_and_entry_go_together_and_the_job_with_the_id_stays(
        self, redis: RedisClient, queue: str, bury: Bury
    ) -> None:
        job_id, junk, kept = await bury(), await bury(), await bury()
        await redis.execute("SET", f"arq:job:{job_id}", "another's", "EX", 60)
        await redis.execute("DEL", f"aioinfra:dead-letter:{queue}:{junk}")
        await redis.execute("SADD", f"aioinfra:dead-letter:{queue}:{junk}", "x")
        assert await run(redis, "discard", queue, job_id, junk, "unknown") == [1, 1, 0]
        assert await run(redis, "discard", queue, job_id) == [0]
        assert [await is_letter(redis, queue, one) for one in (job_id, junk, kept)] == [False, False, True]
        assert await keys_of(redis, job_id) == {"arq:job"}


class TestLetters:
    async def test_pages_follow_one_another_through_letters_of_one_millisecond(
        self, redis: RedisClient, queue: str, bury: Bury
    ) -> None:
        ids = {(await bury()).encode() for _ in range(7)}
        seen: list[bytes] = []
        position: tuple[Any, Any] = ("", "")
        while page := await run(redis, "letters", queue, 3, *position):
            seen += page[::4]
            position = (page[-3], page[-4])
        assert len(seen) == 7
        assert set(seen) == ids

    async def test_a_page_begins_at_the_same_time_when_its_predecessor_has_gone(
        self, redis: RedisClient, queue: str
    ) -> None:
        for at, job_id in enumerate("abcd"):
            await redis.execute("ZADD", f"aioinfra:dead:{queue}", NOW + at // 2, job_id)
        await run(redis, "discard", queue, "d")
        page = await run(redis, "letters", queue, 9, NOW + 1, "d")
        assert page[::4] == [b"c", b"b", b"a"]

    async def test_junk_is_told_from_what_has_expired(
        self, redis: RedisClient, queue: str, bury: Bury
    ) -> None:
        expired, junk = await bury(), await bury()
        for job_id in (expired, junk):
            await redis.execute("DEL", f"aioinfra:dead-letter:{queue}:{job_id}")
        await redis.execute("SET", f"aioinfra:dead-letter:{queue}:{junk}", "x", "EX", 60)
        page = await run(redis, "letters", queue, 9, "", "")
        found = {page[at].decode(): page[at + 2 : at + 4] for at in (0, 4)}
        assert found == {expired: [None, 0], junk: [b"", -1]}


class TestList:
    async def test_states_due_times_and_where_to_go_on(
        self, redis: RedisClient, store: RedisJobStore, queue: str, add: Add
    ) -> None:
        running = await add(NOW - 10)
        await claim(store, queue)
        queued, deferred = await add(NOW - 5), await add(NOW + HOUR)
        now, rank, flat = await run(redis, "list", queue, NOW, 0, 10, 2, "", 100)
        assert (now, rank) == (NOW, 2)
        assert [(flat[at].decode(), flat[at + 2]) for at in (0, 7)] == [(queued, b"q"), (running, b"r")]
        assert flat[5:7] == [len(PAYLOAD), PAYLOAD]
        _, rank, flat = await run(redis, "list", queue, NOW, rank, 10, 2, "", 100)
        assert (flat[0].decode(), flat[1], flat[2], rank) == (deferred, b"%d" % (NOW + HOUR), b"d", -1)

    async def test_a_state_is_looked_for_where_it_can_be(
        self, redis: RedisClient, queue: str, add: Add
    ) -> None:
        for due in (NOW - 2, NOW - 1, NOW + 1, NOW + 2, NOW + 3):
            await add(due)
        _, rank, flat = await run(redis, "list", queue, NOW, -1, 2, 9, "d", 100)
        assert (rank, flat[1::7]) == (4, [b"%d" % (NOW + 1), b"%d" % (NOW + 2)])
        _, rank, flat = await run(redis, "list", queue, NOW, 0, 9, 9, "q", 100)
        assert (rank, len(flat)) == (-1, 14)
        _, rank, flat = await run(redis, "list", queue, NOW, 0, 9, 1, "q", 100)
        assert (rank, len(flat)) == (1, 7)

    async def test_payloads_are_cut_and_junk_keeps_nobody_from_being_read(
        self, redis: RedisClient, queue: str, add: Add
    ) -> None:
        large, wrong, gone = await add(payload=b"x" * 50), await add(), await add()
        await redis.execute("DEL", f"arq:job:{wrong}", f"arq:job:{gone}")
        await redis.execute("SADD", f"arq:job:{wrong}", "x")
        await redis.execute("SADD", f"arq:retry:{large}", "x")
        _, _, flat = await run(redis, "list", queue, NOW, 0, 9, 9, "", 10)
        found = {flat[at].decode(): flat[at + 3 : at + 7] for at in range(0, len(flat), 7)}
        assert found == {
            large: [b"", b"", 50, b"x" * 10],
            wrong: [b"", b"", -2, b""],
            gone: [b"", b"", -1, b""],
        }

    async def test_a_reply_is_bounded_in_bytes(self, redis: RedisClient, queue: str, add: Add) -> None:
        for _ in range(7):
            await add(payload=b"x" * 1_000_000)
        _, rank, flat = await run(redis, "list", queue, NOW, 0, 99, 99, "", 1_000_000)
        assert (rank, len(flat) // 7) == (5, 5)


class TestAbort:
    async def ask(self, redis: RedisClient, job_id: str, queue: str = "") -> int:
        answer: int = await redis.run_script(script("abort"), ["arq:abort"], [NOW, job_id, queue])
        return answer

    async def test_an_unknown_or_ended_job_leaves_no_trace(
        self, redis: RedisClient, queue: str, prefix: str
    ) -> None:
        unknown, ended, cron = f"{prefix}u", f"{prefix}e", f"{prefix}c"
        await redis.execute("SET", f"arq:result:{ended}", "x", "EX", 60)
        await redis.execute("SET", f"arq:in-progress:{cron}", "1", "EX", 60)  # kept after a cron job's end
        assert [await self.ask(redis, one, queue) for one in (unknown, ended, cron)] == [0, 3, 0]
        assert [await score(redis, "arq:abort", one) for one in (unknown, ended, cron)] == [None] * 3
        assert await redis.execute("EXISTS", queue) == 0

    async def test_a_waiting_job_is_due_at_once_where_its_queue_is_known(
        self, redis: RedisClient, queue: str, add: Add
    ) -> None:
        hidden, known, due = await add(NOW + HOUR), await add(NOW + HOUR), await add(NOW - 9)
        assert await self.ask(redis, hidden) == 1
        assert await self.ask(redis, known, queue) == 1
        assert await self.ask(redis, due, queue) == 1
        assert [await score(redis, queue, one) for one in (hidden, known, due)] == [NOW + HOUR, NOW, NOW - 9]
        assert [await score(redis, "arq:abort", one) for one in (hidden, known, due)] == [NOW] * 3

    async def test_a_running_jobs_score_is_not_moved_even_when_its_payload_has_expired(
        self, redis: RedisClient, store: RedisJobStore, queue: str, add: Add
    ) -> None:
        job_id = await add()
        await claim(store, queue)
        await redis.execute("DEL", f"arq:job:{job_id}")
        assert await self.ask(redis, job_id) == 2
        assert await self.ask(redis, job_id, queue) == 2
        assert await score(redis, queue, job_id) == NOW + 15_000


class TestDelete:
    async def test_a_waiting_job_goes_with_all_its_keys(
        self, redis: RedisClient, store: RedisJobStore, queue: str, add: Add
    ) -> None:
        job_id = await add(NOW + HOUR)
        for key in ("arq:retry", "aioinfra:parked", "aioinfra:progress", "aioinfra:claim"):
            await redis.execute("SET", f"{key}:{job_id}", "1", "EX", 60)
        await redis.execute("ZADD", "arq:abort", NOW, job_id)
        assert await run(redis, "delete", queue, job_id) == 1
        assert not await keys_of(redis, job_id)
        assert await redis.execute("EXISTS", f"aioinfra:progress:{job_id}") == 0
        assert await score(redis, "arq:abort", job_id) is None
        assert await run(redis, "delete", queue, job_id) == 0

    async def test_a_held_job_and_a_job_of_another_queue_are_left_alone(
        self, redis: RedisClient, store: RedisJobStore, queue: str, add: Add
    ) -> None:
        job_id = await add()
        assert await run(redis, "delete", f"{queue}-other", job_id) == 0
        [taken] = await claim(store, queue)
        assert await run(redis, "delete", queue, job_id) == 2
        assert await keys_of(redis, job_id) == {"arq:job", "arq:in-progress", "aioinfra:claim"}
        assert taken.job_id == job_id


class TestRunNow:
    async def test_a_later_job_is_due_and_a_due_or_held_one_keeps_its_place(
        self, redis: RedisClient, store: RedisJobStore, queue: str, add: Add
    ) -> None:
        held = await add(NOW - 20)
        await claim(store, queue)
        later, due = await add(NOW + HOUR), await add(NOW - 9)
        await redis.execute("SET", f"arq:retry:{later}", "2", "EX", 60)
        answers = [await run(redis, "run_now", queue, NOW, one) for one in (later, due, held, "unknown")]
        assert answers == [1, 1, 2, 0]
        scores = [await score(redis, queue, one) for one in (later, due, held)]
        assert scores == [NOW, NOW - 9, NOW + 15_000]
        assert await redis.execute("GET", f"arq:retry:{later}") == b"2"


class TestResume:
    async def test_only_the_queue_is_resumed_and_its_scores_are_as_before(
        self, redis: RedisClient, queue: str
    ) -> None:
        await redis.execute("ZADD", queue, "1700000000000.25", "a", "inf", "b")
        await redis.execute("SADD", "aioinfra:paused", queue, f"{queue}-other")
        try:
            assert await run(redis, "resume", queue) == 1
            assert await run(redis, "resume", queue) == 0
            assert await redis.execute("SISMEMBER", "aioinfra:paused", f"{queue}-other") == 1
        finally:
            await redis.execute("SREM", "aioinfra:paused", f"{queue}-other")
        assert float(await redis.execute("ZSCORE", queue, "a")) == 1_700_000_000_000.25
        assert await redis.execute("ZCARD", queue) == 2

    async def test_a_queue_without_members_or_of_another_type_is_left_alone(
        self, redis: RedisClient, queue: str
    ) -> None:
        await redis.execute("SADD", "aioinfra:paused", queue)
        assert await run(redis, "resume", queue) == 1
        assert await redis.execute("EXISTS", queue) == 0
        await redis.execute("SET", queue, "x", "EX", 60)
        await redis.execute("SADD", "aioinfra:paused", queue)
        assert await run(redis, "resume", queue) == 1
        assert await redis.execute("GET", queue) == b"x"


@pytest.mark.parametrize(
    ("name", "args"), [("delete", ("a",)), ("run_now", (NOW, "a")), ("list", (NOW, 0, 9, 9, "", 9))]
)
async def test_a_queue_of_another_type_is_an_error_that_says_so(
    redis: RedisClient, queue: str, name: str, args: tuple[Any, ...]
) -> None:
    await redis.execute("SET", queue, "x", "EX", 60)
    with pytest.raises(WrongType):
        await run(redis, name, queue, *args)
