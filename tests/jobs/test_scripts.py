"""The invariants in the scripts' headers, one by one, through the store that calls them.

Time is handed in where due times matter; a lease that lapses is a key that is deleted.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.errors import StoreFull, StoreUnavailable
from aioinfra.jobs.job import Action, Claim, Finish, QueueDepth, StoredRequest
from aioinfra.jobs.redis_store import RedisJobStore, RedisLeaseStore
from aioinfra.jobs.replies import read_message
from aioinfra.jobs.store import Added, ClaimRequest, FinishStatus, Share
from tests.conftest import OwnServerFactory
from tests.jobs.kit import keys_of

NOW = 1_700_000_000_000
HOUR = 3_600_000
PAYLOAD = b'{"f":"f"}'


def standing_at(now_ms: int) -> Callable[[], int]:
    """A clock that stands."""
    return lambda: now_ms


@pytest.fixture
def store(redis: RedisClient) -> RedisJobStore:
    return RedisJobStore(redis, now_ms=standing_at(NOW))


@pytest.fixture
def new_id(prefix: str) -> Any:
    """Ids that no other test has."""
    numbers = iter(range(100_000))
    return lambda: f"{prefix}{next(numbers)}"


def request(queue: str, job_id: str, **changes: Any) -> StoredRequest:
    plain = StoredRequest(queue, job_id, False, None, 0, HOUR, "", PAYLOAD)
    return plain._replace(**changes)


async def add(store: RedisJobStore, *requests: StoredRequest, repeated: bool = False) -> list[Added]:
    return await store.add(requests, repeated=repeated, deadline=5.0)


async def claim(
    store: RedisJobStore, *queues: str | Share, free: int = 10, call: str = "w-1", **more: Any
) -> list[Claim]:
    shares = tuple(name if isinstance(name, Share) else Share(name, free, free) for name in queues)
    return (await store.claim(ClaimRequest(shares, free, uuid.uuid4().hex, call, 15.0, **more))).claims


async def score(redis: RedisClient, queue: str, job_id: str) -> float | None:
    text = await redis.execute("ZSCORE", queue, job_id)
    return None if text is None else float(text)


async def dead_ids(redis: RedisClient, queue: str) -> list[str]:
    """Ids of the queue's dead letters, newest first."""
    return [
        job_id.decode() for job_id in await redis.execute("ZRANGE", f"aioinfra:dead:{queue}", 0, -1, "REV")
    ]


async def one_claimed(store: RedisJobStore, queue: str, job_id: str, **changes: Any) -> Claim:
    await add(store, request(queue, job_id, **changes))
    [taken] = await claim(store, queue)
    return taken


async def finish(
    store: RedisJobStore, *finishes: Finish, nonce: str = "n-1", worker: str | None = None
) -> list[FinishStatus]:
    """As a worker that has not finished anything before, unless one is named: its receipt is its own."""
    return await store.finish(worker or uuid.uuid4().hex, nonce, finishes)


class TestAdd:
    async def test_stores_payload_and_member_together(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        job_id = new_id()
        assert await add(store, request(queue, job_id, offset_ms=5_000)) == [Added.STORED]
        assert await score(redis, queue, job_id) == NOW + 5_000
        assert await redis.execute("GET", f"arq:job:{job_id}") == PAYLOAD
        lives = await redis.execute("PTTL", f"arq:job:{job_id}")
        assert HOUR + 4_000 < lives <= HOUR + 5_000

    async def test_writes_scores_of_priorities_and_far_futures_exactly(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        urgent, late = new_id(), new_id()
        far = 99_999_999_999_123
        await add(
            store, request(queue, urgent, offset_ms=-1_000_000_000_000), request(queue, late, due_ms=far)
        )
        assert await redis.execute("ZSCORE", queue, urgent) == b"700000000000"
        assert await redis.execute("ZSCORE", queue, late) == b"99999999999123"

    @pytest.mark.parametrize("held_by", ["job", "result"])
    async def test_an_id_is_taken_while_its_payload_or_result_exists(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any, held_by: str
    ) -> None:
        job_id = new_id()
        await redis.execute("SET", f"arq:{held_by}:{job_id}", "x", "EX", 60)
        assert await add(store, request(queue, job_id, chosen=True, nonce="n")) == [Added.TAKEN]
        assert await score(redis, queue, job_id) is None
        await redis.execute("DEL", f"arq:{held_by}:{job_id}")
        assert await add(store, request(queue, job_id, chosen=True, nonce="n")) == [Added.STORED]

    async def test_an_id_twice_in_one_call_is_stored_once(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        job_id = new_id()
        twice = [request(queue, job_id, chosen=True, nonce=nonce) for nonce in ("a", "b")]
        assert await add(store, *twice) == [Added.STORED, Added.TAKEN]

    async def test_a_repeat_finds_its_own_job_by_a_drawn_id(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        job_id = new_id()
        await add(store, request(queue, job_id))
        assert await add(store, request(queue, job_id), repeated=True) == [Added.FOUND]
        assert await redis.execute("ZCARD", queue) == 1

    @pytest.mark.parametrize(
        ("kind", "content", "answer"),
        [
            ("job", "...the-nonce...", Added.FOUND),
            ("result", "...the-nonce...", Added.FOUND),
            ("job", "another's", Added.TAKEN),
            ("result", "of a plain worker, or of another job", Added.UNKNOWN),
        ],
    )
    async def test_a_repeat_knows_a_chosen_id_by_the_nonce(
        self,
        redis: RedisClient,
        store: RedisJobStore,
        queue: str,
        new_id: Any,
        kind: str,
        content: str,
        answer: Added,
    ) -> None:
        job_id = new_id()
        await redis.execute("SET", f"arq:{kind}:{job_id}", content, "EX", 60)
        mine = request(queue, job_id, chosen=True, nonce="the-nonce")
        assert await add(store, mine, repeated=True) == [answer]
        assert await score(redis, queue, job_id) is None

    async def test_a_queue_key_of_another_type_fails_its_own_jobs_alone(
        self, redis: RedisClient, store: RedisJobStore, queue: str, prefix: str, new_id: Any
    ) -> None:
        wrong, lost, kept = f"{prefix}wrong", new_id(), new_id()
        await redis.execute("SET", wrong, "x", "EX", 60)
        assert await add(store, request(wrong, lost), request(queue, kept)) == [
            Added.WRONG_TYPE,
            Added.STORED,
        ]
        assert not await keys_of(redis, lost)
        assert await score(redis, queue, kept) == NOW

    async def test_more_jobs_than_lua_can_unpack_at_once(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        added = await add(store, *(request(queue, new_id()) for _ in range(5_000)))
        assert set(added) == {Added.STORED}
        assert await redis.execute("ZCARD", queue) == 5_000


class TestClaim:
    async def test_a_claimed_job_leaves_the_due_window_under_a_lease_of_its_own(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        job_id = new_id()
        taken = await one_claimed(store, queue, job_id)
        assert taken == Claim(queue, job_id, NOW, 1, 0, False, "w-1.1", PAYLOAD, NOW)
        assert await score(redis, queue, job_id) == NOW + 15_000
        assert await redis.execute("GET", f"arq:in-progress:{job_id}") == b"w-1.1"
        assert 14_000 < await redis.execute("PTTL", f"arq:in-progress:{job_id}") <= 15_000
        assert await redis.execute("GET", f"aioinfra:claim:{job_id}") == b"w-1.1|0"
        assert await claim(store, queue) == []

    async def test_what_is_due_later_is_left_and_its_time_is_told(
        self, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        await add(
            store, request(queue, new_id(), due_ms=NOW + 700), request(queue, new_id(), due_ms=NOW + 300)
        )
        reply = await store.claim(ClaimRequest((Share(queue, 9, 9),), 9, uuid.uuid4().hex, "w-1", 15.0))
        assert (reply.claims, reply.next_due_ms) == ([], 300)

    async def test_a_job_held_by_a_plain_worker_is_left_with_its_score(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        held, free = new_id(), new_id()
        await add(store, request(queue, held, due_ms=NOW - 10), request(queue, free))
        await redis.execute("SET", f"arq:in-progress:{held}", "1", "EX", 60)
        assert [taken.job_id for taken in await claim(store, queue, free=1)] == [free]
        assert await score(redis, queue, held) == NOW - 10

    async def test_a_thousand_held_jobs_at_the_head_do_not_hide_a_free_one(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        held = [new_id() for _ in range(1_000)]
        free = new_id()
        await add(store, *(request(queue, job_id, due_ms=NOW - 10) for job_id in held), request(queue, free))
        await redis.pipeline([("SET", f"arq:in-progress:{job_id}", "1", "EX", 60) for job_id in held])
        assert [taken.job_id for taken in await claim(store, queue, free=1)] == [free]

    async def test_free_jobs_among_held_ones_are_all_found(
        self, redis: RedisClient, store: RedisJobStore, queue: str, prefix: str, new_id: Any
    ) -> None:
        """Also by the second pass over the queues, which gives away what the shares left over."""
        jobs = [new_id() for _ in range(40)]
        held = set(jobs[1::3])
        await add(store, *(request(queue, job_id, due_ms=NOW - 100 + at) for at, job_id in enumerate(jobs)))
        await redis.pipeline([("SET", f"arq:in-progress:{job_id}", "1", "EX", 60) for job_id in held])
        taken = await claim(store, Share(queue, 3, 100), Share(f"{prefix}empty", 97, 100), free=100)
        assert [one.job_id for one in taken] == [job_id for job_id in jobs if job_id not in held]

    @pytest.mark.parametrize("begun", [True, False])
    async def test_a_run_that_ended_without_a_word_is_a_stall_and_no_try(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any, begun: bool
    ) -> None:
        """After the first one only runs that said that they begin are counted."""
        taken = await one_claimed(store, queue, new_id())
        for stalls in (1, 2, 3):
            later = RedisJobStore(redis, now_ms=standing_at(NOW + stalls * 15_000))
            [taken] = await claim(later, queue, call=f"w-{stalls + 1}")
            assert (taken.attempt, taken.stalls) == (1, stalls if begun else 1)
            if begun:
                await later.begin(taken)
                await later.begin(taken)

    async def test_a_begin_of_a_claim_that_was_taken_over_changes_nothing(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        stale = await one_claimed(store, queue, new_id())
        later = RedisJobStore(redis, now_ms=standing_at(NOW + 15_000))
        [current] = await claim(later, queue, call="w-2")
        await later.begin(stale)
        assert await finish(later, Finish(current, Action.DONE)) == [FinishStatus.RECORDED]

    @pytest.mark.parametrize("junk", ["9" * 400, "-5", "1e3", "0x10", "", "nan"])
    async def test_junk_where_counters_are_kept_counts_as_nothing(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any, junk: str
    ) -> None:
        job_id = new_id()
        await redis.execute("SET", f"arq:retry:{job_id}", junk, "EX", 60)
        await redis.execute("SET", f"aioinfra:claim:{job_id}", f"x|{junk}", "EX", 60)
        taken = await one_claimed(store, queue, job_id)
        assert (taken.attempt, taken.stalls) == (1, 1)

    @pytest.mark.parametrize(("counter", "attempt"), [("3", 4), ("junk", 1), ("1e999", 1)])
    async def test_the_attempt_follows_the_tries_that_ended(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any, counter: str, attempt: int
    ) -> None:
        job_id = new_id()
        await redis.execute("SET", f"arq:retry:{job_id}", counter, "EX", 60)
        taken = await one_claimed(store, queue, job_id)
        assert taken.attempt == attempt

    async def test_a_leftover_with_a_result_is_removed_and_never_run(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        done, next_one = new_id(), new_id()
        await redis.execute("ZADD", queue, NOW - 5, done)
        await redis.execute("SET", f"arq:result:{done}", "x", "EX", 60)
        await add(store, request(queue, next_one))
        assert [taken.job_id for taken in await claim(store, queue, free=1)] == [next_one]
        assert await score(redis, queue, done) is None

    async def test_an_expired_job_is_handed_out_without_payload(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        await redis.execute("ZADD", queue, NOW - 5, new_id())
        [taken] = await claim(store, queue)
        assert taken.payload is None

    async def test_an_abort_request_is_used_up_by_the_claim(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        job_id = new_id()
        await add(store, request(queue, job_id))
        await redis.execute("ZADD", "arq:abort", NOW, job_id)
        [taken] = await claim(store, queue, aborts=True)
        assert taken.aborted
        assert await redis.execute("ZSCORE", "arq:abort", job_id) is None

    async def test_shares_limits_and_what_is_left_over(
        self, store: RedisJobStore, prefix: str, new_id: Any
    ) -> None:
        names = [f"{prefix}{name}" for name in ("first", "second", "third")]
        await add(store, *(request(name, new_id()) for name in names[:2] for _ in range(20)))
        await add(store, request(names[2], new_id()))
        shares = [Share(names[0], 4, 6), Share(names[1], 4, 20), Share(names[2], 8, 20)]
        taken = await claim(store, *shares, free=16)
        counts = [sum(one.queue == name for one in taken) for name in names]
        assert counts == [
            6,
            9,
            1,
        ]  # the third queue's seven go to the first up to its limit, then to the second

    async def test_a_queue_key_of_another_type_is_told_and_the_others_are_served(
        self, redis: RedisClient, store: RedisJobStore, queue: str, prefix: str, new_id: Any
    ) -> None:
        wrong = f"{prefix}wrong"
        await redis.execute("RPUSH", wrong, "x")
        await add(store, request(queue, new_id()))
        shares = (Share(wrong, 5, 5), Share(queue, 5, 5))
        reply = await store.claim(ClaimRequest(shares, 5, uuid.uuid4().hex, "w-1", 15.0, sizes=True))
        assert (len(reply.claims), reply.wrong, reply.sizes) == (1, (wrong,), {queue: 1})
        await redis.execute("DEL", wrong)

    async def test_foreign_ids_and_scores_are_no_obstacle(
        self, redis: RedisClient, store: RedisJobStore, queue: str
    ) -> None:
        await redis.execute("ZADD", queue, "-inf", b"\xff\xfe", "1.5", "half", "inf", "never")
        taken = await claim(store, queue)
        assert [(one.job_id, one.score) for one in taken] == [("\udcff\udcfe", 0), ("half", 1)]
        await finish(store, *(Finish(one, Action.DONE) for one in taken))
        assert await redis.execute("ZRANGE", queue, 0, -1) == [b"never"]

    async def test_more_jobs_than_lua_can_unpack_at_once(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        await add(store, *(request(queue, new_id()) for _ in range(5_000)))
        taken = await claim(store, queue, free=5_000, call="w-1")
        assert len({one.token for one in taken}) == len(taken) == 2_000  # as many as one call looks at
        assert await redis.execute("ZCOUNT", queue, "-inf", NOW) == 3_000
        statuses = await finish(store, *(Finish(one, Action.DONE) for one in taken))
        assert statuses == [FinishStatus.RECORDED] * 2_000
        assert await redis.execute("ZCARD", queue) == 3_000


class TestFinish:
    @pytest.mark.parametrize(("ttl", "kept"), [(0, -2), (60_000, 60), (-1, -1)])
    async def test_done_leaves_the_result_and_nothing_else(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any, ttl: int, kept: int
    ) -> None:
        taken = await one_claimed(store, queue, new_id())
        result = b"result" if ttl else b""
        assert await finish(store, Finish(taken, Action.DONE, result, ttl)) == [FinishStatus.RECORDED]
        assert await keys_of(redis, taken.job_id) == ({"arq:result"} if ttl else set())
        assert await redis.execute("TTL", f"arq:result:{taken.job_id}") == kept
        assert await score(redis, queue, taken.job_id) is None

    async def test_done_can_keep_the_id_taken(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        taken = await one_claimed(store, queue, new_id())
        await finish(store, Finish(taken, Action.DONE, number=60_000))
        assert await keys_of(redis, taken.job_id) == {"arq:in-progress"}
        assert 50 < await redis.execute("TTL", f"arq:in-progress:{taken.job_id}") <= 60

    async def test_a_retry_counts_and_its_payload_lives_longer_by_the_delay(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        taken = await one_claimed(store, queue, new_id())
        two_days = 48 * HOUR
        await finish(store, Finish(taken, Action.RETRY, result_ttl_ms=1, number=two_days))
        assert await score(redis, queue, taken.job_id) == NOW + two_days
        assert await keys_of(redis, taken.job_id) == {"arq:job", "arq:retry"}
        assert await redis.execute("PTTL", f"arq:job:{taken.job_id}") > two_days
        assert await redis.execute("PTTL", f"arq:retry:{taken.job_id}") > two_days
        [again] = await claim(RedisJobStore(redis, now_ms=standing_at(NOW + two_days)), queue, call="w-2")
        assert (again.attempt, again.stalls) == (2, 0)

    async def test_a_release_is_as_if_nothing_had_been(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        taken = await one_claimed(store, queue, new_id(), offset_ms=-500)
        await finish(store, Finish(taken, Action.RELEASE, number=taken.score))
        assert await score(redis, queue, taken.job_id) == NOW - 500
        assert await keys_of(redis, taken.job_id) == {"arq:job"}
        [again] = await claim(store, queue, call="w-2")
        assert again == taken._replace(token="w-2.1")

    async def test_a_dead_job_moves_with_payload_and_record(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        taken = await one_claimed(store, queue, new_id())
        await finish(store, Finish(taken, Action.BURY, b"r", 60_000, record=b"why"))
        assert await keys_of(redis, taken.job_id) == {"arq:result"}
        assert await dead_ids(redis, queue) == [taken.job_id]
        letter = f"aioinfra:dead-letter:{queue}:{taken.job_id}"
        stored = await redis.execute("HMGET", letter, "payload", "record", "at")
        assert stored == [PAYLOAD, b"why", str(NOW).encode()]

    async def test_dead_letters_are_bounded(
        self, redis: RedisClient, queue: str, new_id: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aioinfra.jobs.redis_store._DEAD_KEPT", 3)
        ids = [new_id() for _ in range(5)]
        for at, job_id in enumerate(ids):
            store = RedisJobStore(redis, now_ms=standing_at(NOW + at))
            taken = await one_claimed(store, queue, job_id)
            await finish(store, Finish(taken, Action.BURY), nonce=f"n-{at}")
        assert await dead_ids(redis, queue) == ids[:1:-1]
        assert await redis.execute("EXISTS", f"aioinfra:dead-letter:{queue}:{ids[0]}") == 0

    async def test_a_parked_job_waits_for_other_workers_then_dies(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        job_id = new_id()
        taken = await one_claimed(store, queue, job_id)
        parked = Finish(taken, Action.PARK, number=3_000, record=b"why")
        assert await finish(store, parked) == [FinishStatus.PARKED]
        assert await score(redis, queue, job_id) == NOW + 1_000
        assert await keys_of(redis, job_id) == {"arq:job", "aioinfra:parked"}
        for later, status in ((2_999, FinishStatus.PARKED), (6_000, FinishStatus.RECORDED)):
            at = RedisJobStore(redis, now_ms=standing_at(NOW + later))
            [taken] = await claim(at, queue, call=f"w-{later}")
            assert taken.attempt == 1
            assert await finish(at, parked._replace(claim=taken), nonce=f"n-{later}") == [status]
        assert await keys_of(redis, job_id) == set()
        assert await dead_ids(redis, queue) == [job_id]

    @pytest.mark.parametrize("action", list(Action))
    async def test_a_claim_that_was_taken_over_may_not_finish(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any, action: Action
    ) -> None:
        old = await one_claimed(store, queue, new_id())
        await redis.execute("DEL", f"arq:in-progress:{old.job_id}")
        [new] = await claim(RedisJobStore(redis, now_ms=standing_at(NOW + 15_000)), queue, call="w-2")
        before = await score(redis, queue, old.job_id), await keys_of(redis, old.job_id)
        assert await finish(store, Finish(old, action, b"stale", 60_000)) == [FinishStatus.FENCED]
        assert (await score(redis, queue, old.job_id), await keys_of(redis, old.job_id)) == before
        assert await finish(store, Finish(new, Action.DONE), nonce="n-2") == [FinishStatus.RECORDED]

    async def test_nor_one_whose_job_a_plain_worker_holds_now(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        taken = await one_claimed(store, queue, new_id())
        await redis.execute("SET", f"arq:in-progress:{taken.job_id}", "1", "EX", 60)
        assert await finish(store, Finish(taken, Action.DONE, b"stale", 60_000)) == [FinishStatus.FENCED]

    async def test_a_lapsed_lease_that_nobody_took_over_may_still_finish(
        self, redis: RedisClient, store: RedisJobStore, queue: str, new_id: Any
    ) -> None:
        taken = await one_claimed(store, queue, new_id())
        await redis.execute("DEL", f"arq:in-progress:{taken.job_id}")
        assert await finish(store, Finish(taken, Action.DONE)) == [FinishStatus.RECORDED]

    async def test_a_repeat_answers_the_same_and_changes_nothing(
        self, redis: RedisClient, store: RedisJobStore, queue: str, prefix: str, new_id: Any
    ) -> None:
        taken = await one_claimed(store, queue, new_id())
        batch = (Finish(taken, Action.DONE, b"r", 60_000), Finish(taken._replace(token="x"), Action.DONE))
        worker = f"{prefix}w"
        first = await finish(store, *batch, nonce="n-1", worker=worker)
        await redis.execute("DEL", f"arq:result:{taken.job_id}")
        assert await finish(store, *batch, nonce="n-1", worker=worker) == first
        assert first == [FinishStatus.RECORDED, FinishStatus.FENCED]
        assert await keys_of(redis, taken.job_id) == set()

    @pytest.mark.parametrize("action", [Action.RETRY, Action.RELEASE, Action.PARK, Action.DONE])
    async def test_a_queue_key_that_became_another_type_fails_its_own_job_alone(
        self, redis: RedisClient, store: RedisJobStore, queue: str, prefix: str, new_id: Any, action: Action
    ) -> None:
        wrong = f"{prefix}wrong"
        lost, kept = await one_claimed(store, wrong, new_id()), await one_claimed(store, queue, new_id())
        await redis.execute("SET", wrong, "x", "EX", 60)
        batch = (Finish(lost, action, number=1_000), Finish(kept, Action.DONE, b"r", 60_000))
        statuses = await finish(store, *batch)
        assert statuses[1] is FinishStatus.RECORDED
        assert await keys_of(redis, kept.job_id) == {"arq:result"}
        returns = action in (Action.RETRY, Action.RELEASE)
        assert statuses[0] is (FinishStatus.FENCED if returns else FinishStatus.RECORDED)

    async def test_the_producer_is_told_in_one_message_a_channel(
        self, redis: RedisClient, store: RedisJobStore, queue: str, prefix: str, new_id: Any
    ) -> None:
        channel = f"{prefix}channel"
        async with listening(redis, channel) as heard:
            ids = [new_id() for _ in range(3)]
            await add(store, *(request(queue, job_id) for job_id in ids))
            taken = await claim(store, queue)
            retried = await one_claimed(store, queue, new_id())
            await finish(
                store,
                *(Finish(one, Action.DONE, reply_to=channel) for one in taken),
                Finish(retried, Action.RETRY, reply_to=channel, result_ttl_ms=1),
            )
            assert (await heard()).decode().split("\n") == ids

    async def test_a_short_result_comes_with_the_news_of_it(
        self, redis: RedisClient, store: RedisJobStore, queue: str, prefix: str, new_id: Any
    ) -> None:
        results = [b"one\n\0:2", b"x" * 20_000, b"not kept", b"\x80\xff"]
        ttls = [60_000, 60_000, 0, -1]
        ids = [new_id() for _ in results]
        async with listening(redis, f"{prefix}channel") as heard:
            await add(store, *(request(queue, job_id) for job_id in ids))
            ends = zip(await claim(store, queue), results, ttls, strict=True)
            await finish(
                store,
                *(Finish(one, Action.DONE, what, ttl, 0, f"{prefix}channel") for one, what, ttl in ends),
            )
            told = read_message(await heard())
        assert told == list(zip(ids, [results[0], None, None, results[3]], strict=True))
        await redis.execute("DEL", f"arq:result:{ids[3]}")

    async def test_results_of_a_large_batch_and_under_odd_ids_are_left_to_be_read(
        self, redis: RedisClient, store: RedisJobStore, queue: str, prefix: str, new_id: Any
    ) -> None:
        async with listening(redis, f"{prefix}channel") as heard:
            many = [new_id() for _ in range(17)]
            for ids in (many, ["forged\n\0" + new_id()]):
                await add(store, *(request(queue, job_id) for job_id in ids))
                taken = await claim(store, queue, free=20)
                await finish(
                    store, *(Finish(one, Action.DONE, b"r", 60_000, 0, f"{prefix}channel") for one in taken)
                )
                message = await heard()
                assert sorted(message.decode().split("\n")) == sorted("\n".join(ids).split("\n"))


@asynccontextmanager
async def listening(redis: RedisClient, channel: str) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Hear what is published on a channel: one message a call, and none is left at the end."""
    listener = redis.raw.pubsub()
    await listener.subscribe(channel)
    await listener.get_message(timeout=1.0)

    async def heard() -> bytes:
        message = await listener.get_message(timeout=2.0)
        assert message is not None
        return bytes(message["data"])

    yield heard
    assert await listener.get_message(timeout=0.05) is None
    await listener.aclose()  # type: ignore[no-untyped-call]  # redis-py has no hints there


class TestRenew:
    @pytest.fixture
    def leases(self, redis: RedisClient) -> Any:
        opened = RedisLeaseStore(redis.blocking_connection(), now_ms=standing_at(NOW + 5_000))
        yield opened
        opened.close()

    @pytest.mark.parametrize("move", [False, True])
    async def test_renewing_prolongs_lease_and_claim_and_moves_the_score_when_asked(
        self,
        redis: RedisClient,
        store: RedisJobStore,
        leases: RedisLeaseStore,
        queue: str,
        new_id: Any,
        move: bool,
    ) -> None:
        taken = await one_claimed(store, queue, new_id())
        await redis.execute("EXPIRE", f"aioinfra:claim:{taken.job_id}", 5)
        with contextlib.closing(RedisLeaseStore(redis.blocking_connection())) as real_time:
            assert (leases if move else real_time).renew([taken], 30.0, move=move) == []
        assert await redis.execute("TTL", f"arq:in-progress:{taken.job_id}") > 20
        assert await redis.execute("TTL", f"aioinfra:claim:{taken.job_id}") > 80_000
        assert await score(redis, queue, taken.job_id) == (NOW + 35_000 if move else NOW + 15_000)

    async def test_a_lapsed_lease_is_taken_back_when_nobody_has_it(
        self, redis: RedisClient, store: RedisJobStore, leases: RedisLeaseStore, queue: str, new_id: Any
    ) -> None:
        taken = await one_claimed(store, queue, new_id())
        await redis.execute("DEL", f"arq:in-progress:{taken.job_id}")
        assert leases.renew([taken], 30.0, move=False) == []
        assert await redis.execute("GET", f"arq:in-progress:{taken.job_id}") == taken.token.encode()
        assert await score(redis, queue, taken.job_id) == NOW + 35_000

    async def test_what_others_hold_or_has_ended_is_reported_lost_and_untouched(
        self, redis: RedisClient, store: RedisJobStore, leases: RedisLeaseStore, queue: str, new_id: Any
    ) -> None:
        mine, plain, over, done = [await one_claimed(store, queue, new_id()) for _ in range(4)]
        await redis.execute("SET", f"arq:in-progress:{plain.job_id}", "1", "EX", 60)
        await redis.execute("DEL", f"arq:in-progress:{over.job_id}")
        await redis.execute("ZADD", queue, NOW, over.job_id)
        [theirs] = await claim(store, queue, call="w-2", free=1)
        await finish(store, Finish(done, Action.DONE))
        assert leases.renew([mine, plain, over, done], 30.0, move=True) == [plain, over, done]
        assert await redis.execute("GET", f"arq:in-progress:{plain.job_id}") == b"1"
        assert await redis.execute("GET", f"arq:in-progress:{over.job_id}") == theirs.token.encode()
        assert await score(redis, queue, done.job_id) is None


async def test_depths_tell_due_deferred_and_running_apart(
    redis: RedisClient, store: RedisJobStore, queue: str, prefix: str, new_id: Any
) -> None:
    wrong = f"{prefix}wrong"
    await redis.execute("SET", wrong, "x", "EX", 60)
    await add(store, *(request(queue, new_id()) for _ in range(5)))
    await claim(store, queue, free=2)
    await add(store, *(request(queue, new_id(), offset_ms=99_000) for _ in range(4)))
    empty = f"{prefix}empty"
    depths = await store.depths([queue, wrong, empty])
    assert depths == {queue: QueueDepth(3, 4, 2), empty: QueueDepth(0, 0, 0)}


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_a_full_server_refuses_new_jobs_and_is_drained(
    own_server: OwnServerFactory, kind: str, queue: str, new_id: Any
) -> None:
    server = own_server(kind=kind)
    async with RedisClient(server.url) as redis:
        store = RedisJobStore(redis)
        await add(store, *(request(queue, new_id()) for _ in range(3)))
        held = await claim(store, queue, free=1)
        await redis.raw.config_set("maxmemory", 1)
        with pytest.raises(StoreFull):
            await add(store, request(queue, new_id()))
        assert await redis.execute("ZCARD", queue) == 3
        leases = RedisLeaseStore(redis.blocking_connection())
        assert leases.renew(held, 30.0, move=True) == []
        leases.close()
        taken = await claim(store, queue, call="w-2")
        assert len(taken) == 2
        done = [Finish(one, Action.DONE, b"r", 60_000) for one in [*held, *taken]]
        assert await finish(store, *done) == [FinishStatus.RECORDED] * 3
        assert await redis.execute("ZCARD", queue) == 0


async def test_a_user_without_channels_still_finishes_jobs(
    own_server: OwnServerFactory, queue: str, new_id: Any
) -> None:
    server = own_server()
    async with RedisClient(server.url) as admin:
        await admin.execute("ACL", "SETUSER", "worker", "on", ">secret", "~*", "+@all", "resetchannels")
    async with RedisClient(f"unix://worker:secret@{server.socket_path}?db=0") as redis:
        store = RedisJobStore(redis)
        taken = await one_claimed(store, queue, new_id())
        assert await finish(store, Finish(taken, Action.DONE, reply_to="aioinfra:reply:x")) == [
            FinishStatus.RECORDED
        ]
        assert await keys_of(redis, taken.job_id) == set()


async def test_the_servers_own_clock_is_used_in_production(
    redis: RedisClient, queue: str, new_id: Any
) -> None:
    store = RedisJobStore(redis)
    before = int(time.time() * 1000)
    taken = await one_claimed(store, queue, new_id())
    assert before - 50 <= taken.score <= taken.claimed_ms <= time.time() * 1000 + 50


async def test_a_dead_server_is_an_error_and_not_an_empty_queue(
    own_server: OwnServerFactory, queue: str
) -> None:
    server = own_server()
    async with RedisClient(server.url) as redis:
        store = RedisJobStore(redis)
        await store.depths([queue])
        server.kill()
        with pytest.raises(StoreUnavailable):
            await claim(store, queue)
