"""What one claim call brings: bounded in bytes, the same again after a lost reply, and never the worker's end."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest

from aioinfra import task
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import DecodeError, JobFailed, StoreDenied, StoreError, StoreUnavailable
from aioinfra.jobs.claim import Claimer, QueueOptions
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import Action, ClaimReply, Finish, StoredRequest
from aioinfra.jobs.redis_store import RedisJobStore
from aioinfra.jobs.store import ClaimRequest, FinishStatus, Share
from tests.conftest import OwnServerFactory
from tests.jobs.kit import Recorder, engine, run_burst

MEBI = 1 << 20


def asking(queue: str, free: int = 100) -> ClaimRequest:
    return ClaimRequest((Share(queue, free, free),), free, uuid.uuid4().hex, uuid.uuid4().hex, 15.0)


async def add(store: RedisJobStore, queue: str, prefix: str, payloads: Sequence[bytes]) -> list[str]:
    ids = [f"{prefix}{number}" for number in range(len(payloads))]
    requests = [
        StoredRequest(queue, job_id, False, None, 0, 60_000, "", payload)
        for job_id, payload in zip(ids, payloads, strict=True)
    ]
    for request in requests:
        await store.add([request], repeated=False, deadline=5.0)
    return ids


class TestBytes:
    async def test_a_reply_holds_four_mebibytes_and_says_that_more_is_due(
        self, redis: RedisClient, queue: str, prefix: str
    ) -> None:
        store = RedisJobStore(redis)
        ids = await add(store, queue, prefix, [b"x" * (MEBI // 2)] * 20)
        sizes: list[int] = []
        taken: list[str] = []
        while len(taken) < len(ids):
            reply = await store.claim(asking(queue))
            sizes.append(sum(len(claim.payload or b"") for claim in reply.claims))
            taken += [claim.job_id for claim in reply.claims]
            assert len(taken) == len(ids) or reply.next_due_ms == 0
        assert sorted(taken) == sorted(ids)
        assert max(sizes) <= 4 * MEBI
        assert sizes == [4 * MEBI, 4 * MEBI, 2 * MEBI]

    async def test_a_payload_over_the_bound_comes_alone(
        self, redis: RedisClient, queue: str, prefix: str
    ) -> None:
        store = RedisJobStore(redis)
        ids = await add(store, queue, prefix, [b"small", b"x" * (6 * MEBI), b"small"])
        replies = [await store.claim(asking(queue)) for _ in ids]
        assert [len(reply.claims) for reply in replies] == [1, 1, 1]

    async def test_one_that_is_too_large_to_be_read_is_buried_and_the_rest_runs(
        self, redis: RedisClient, client: JobClient, queue: str, prefix: str
    ) -> None:
        @task(queue=queue)
        async def small() -> int:
            return 7

        [large] = await add(RedisJobStore(redis), queue, prefix, [b"x" * (33 * MEBI)])
        job = await small.delay()
        await run_burst(client_url(redis), small)
        assert await job.result(timeout=2) == 7
        [letter] = await client.dead_letters(queue)
        assert (letter.job_id, letter.reason) == (large, "undecodable")
        await redis.execute("DEL", f"aioinfra:dead-letter:{queue}:{large}", f"aioinfra:dead:{queue}")

    async def test_a_hundred_large_jobs_run_once_each_without_a_stall(
        self, redis: RedisClient, client: JobClient, queue: str
    ) -> None:
        @task(queue=queue)
        async def measure(text: str) -> int:
            return len(text)

        jobs = [await measure.delay("x" * MEBI) for _ in range(40)]
        recorder = Recorder()
        await run_burst(client_url(redis), measure, options=engine(observer=recorder))
        assert [await job.result(timeout=2) for job in jobs] == [MEBI] * 40
        assert recorder.outcomes == {"succeeded": 40}
        assert not recorder.errors


def client_url(redis: RedisClient) -> str:
    return redis.location


class TestLostReply:
    async def test_a_repeat_brings_what_the_lost_call_had_claimed(
        self, redis: RedisClient, queue: str, prefix: str
    ) -> None:
        store = RedisJobStore(redis)
        await redis.execute("SET", f"arq:retry:{prefix}1", "3", "EX", 60)
        await add(store, queue, prefix, [b"a", b"b", b"c"])
        request = asking(queue, free=2)
        first = await store.claim(request)
        again = await store.claim(replace(request, repeated=True))
        assert [claim._replace(claimed_ms=0) for claim in again.claims] == [
            claim._replace(claimed_ms=0) for claim in first.claims
        ]
        assert [claim.attempt for claim in again.claims] == [1, 4]
        assert await store.finish(request.worker, "n", [Finish(again.claims[1], Action.DONE)]) == [
            FinishStatus.RECORDED
        ]
        third = await store.claim(replace(request, repeated=True))
        assert third.claims == [first.claims[0]._replace(claimed_ms=third.claims[0].claimed_ms)]

    async def test_a_repeat_of_a_call_that_never_arrived_claims(
        self, redis: RedisClient, queue: str, prefix: str
    ) -> None:
        store = RedisJobStore(redis)
        ids = await add(store, queue, prefix, [b"a", b"b"])
        worker = asking(queue, free=1)
        await store.claim(worker)
        later = replace(worker, token=uuid.uuid4().hex, repeated=True)
        assert [claim.job_id for claim in (await store.claim(later)).claims] == ids[1:]

    async def test_a_claim_that_somebody_has_taken_over_is_not_handed_out_again(
        self, redis: RedisClient, queue: str, prefix: str
    ) -> None:
        """The reply's numbers stay those of the tokens."""
        store = RedisJobStore(redis)
        ids = await add(store, queue, prefix, [b"a", b"b"])
        request = asking(queue)
        first = await store.claim(request)
        await redis.execute("SET", f"aioinfra:claim:{ids[0]}", "heir.1|1", "EX", 60)
        again = await store.claim(replace(request, repeated=True))
        assert [(claim.job_id, claim.token) for claim in again.claims] == [(ids[1], first.claims[1].token)]

    @pytest.mark.parametrize(
        ("error", "asked_again"),
        [
            (StoreUnavailable("lost"), True),
            (StoreUnavailable("refused", sent=False), False),
            (StoreDenied("no"), False),
        ],
    )
    async def test_the_claimer_repeats_a_request_that_may_have_taken_jobs(
        self, redis: RedisClient, queue: str, prefix: str, error: StoreError, asked_again: bool
    ) -> None:
        store = Failing(redis, [error], after_the_call=asked_again)
        [job_id] = await add(store, queue, prefix, [b"a"])
        claimer = Claimer(store, QueueOptions({queue: 1}), lease=15.0)
        with pytest.raises(type(error)):
            await claimer.claim(5, {}, sizes=False)
        [claim] = (await claimer.claim(1, {}, sizes=False)).claims
        assert (claim.job_id, claim.stalls) == (job_id, 0)
        assert [request.repeated for request in store.requests] == [False, asked_again]
        assert (await claimer.claim(1, {}, sizes=False)).claims == []
        assert not store.requests[-1].repeated


class Failing(RedisJobStore):
    """Raises these at its first claims, before or after the server has done its part."""

    def __init__(
        self, client: RedisClient, errors: Sequence[Exception], *, after_the_call: bool = False
    ) -> None:
        super().__init__(client)
        self.errors = list(errors)
        self.after = after_the_call
        self.requests: list[ClaimRequest] = []

    async def claim(self, request: ClaimRequest) -> ClaimReply:
        self.requests.append(request)
        reply = await super().claim(request) if self.after or not self.errors else None
        if self.errors:
            raise self.errors.pop(0)
        assert reply is not None
        return reply


class TestPaused:
    async def test_nothing_is_claimed_from_a_paused_queue_and_the_others_go_on(
        self, own_server: OwnServerFactory, queue: str, prefix: str
    ) -> None:
        """On a server of its own: the set of paused queues is everybody's."""
        async with RedisClient(own_server().url) as redis:
            store = RedisJobStore(redis)
            both = ClaimRequest(
                (Share(queue, 5, 5), Share(f"{prefix}other", 5, 5)), 10, "w", "t-1", 15.0, sizes=True
            )
            await add(store, queue, prefix, [b"a"])
            await add(store, f"{prefix}other", f"{prefix}o", [b"b"])
            await redis.execute("SADD", "aioinfra:paused", queue)
            reply = await store.claim(both)
            assert [claim.queue for claim in reply.claims] == [f"{prefix}other"]
            assert (reply.paused, reply.next_due_ms, reply.sizes[queue]) == ((queue,), None, 1)
            await redis.execute("SREM", "aioinfra:paused", queue)
            [claim] = (await store.claim(replace(both, token="t-2"))).claims
            assert claim.queue == queue
            await redis.execute("SET", "aioinfra:paused", "junk")
            assert (await store.claim(replace(both, token="t-3"))).paused == ()


class TestOddReplies:
    @pytest.mark.parametrize(
        "reply",
        [
            None,
            b"OK",
            [1, 2, 3],
            [1, b"soon", [], [], [], []],
            [1, -1, [], [], [1, b"id"], []],
            [1, -1, [], [], [1, b"id", b"x", b"p", b""], []],
            [1, -1, [], [], [99, b"id", b"1", b"p", b""], []],
            [1, -1, [], [], [1, b"id", b"1", b"p", b"one 0 0"], []],
            [1, -1, [], [99], [], []],
        ],
    )
    async def test_an_answer_of_another_form_is_the_stores_error(self, reply: Any) -> None:
        class Odd:
            hash_tag = None

            async def run_script(self, *_: Any) -> Any:
                return reply

        store = RedisJobStore(cast("RedisClient", Odd()))
        with pytest.raises(StoreError, match="form"):
            await store.claim(asking("queue"))

    async def test_no_error_of_a_claim_ends_the_worker(
        self, redis: RedisClient, client: JobClient, queue: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        errors: list[Exception] = [RuntimeError("odd"), StoreError("odd"), TypeError("odd")]
        claim_of = RedisJobStore.claim

        async def claim(self: RedisJobStore, request: ClaimRequest) -> ClaimReply:
            if errors:
                raise errors.pop()
            return await claim_of(self, request)

        @task(queue=queue)
        async def fine() -> int:
            return 1

        monkeypatch.setattr(RedisJobStore, "claim", claim)
        job = await fine.delay()
        await run_burst(client_url(redis), fine)
        assert not errors
        assert await job.result(timeout=2) == 1


class TestUnwritableEnds:
    @pytest.mark.parametrize(
        "junk",
        [
            ("RPUSH", "aioinfra:dead:{queue}", "x"),
            ("SET", "aioinfra:dead:{queue}", "x"),
            ("SET", "aioinfra:dead-letter:{queue}:{job}", "x"),
            ("RPUSH", "aioinfra:dead-letter:{queue}:{job}", "x"),
            ("HSET", "aioinfra:parked:{job}", "x", "y"),
            ("SET", "aioinfra:parked:{job}", "inf"),
            ("SET", "arq:result:{job}", "x"),
            ("HSET", "arq:result:{job}", "x", "y"),
            ("HSET", "arq:retry:{job}", "x", "y"),
        ],
        ids=lambda junk: "-".join(junk[:2]),
    )
    async def test_a_failed_job_runs_once_whatever_its_keys_hold(
        self, redis: RedisClient, client: JobClient, queue: str, prefix: str, junk: tuple[str, ...]
    ) -> None:
        runs = 0

        @task(queue=queue)
        async def fail() -> None:
            nonlocal runs
            runs += 1
            raise DecodeError("broken")

        job = await fail.options(job_id=f"{prefix}job")()
        await redis.execute(*(part.format(queue=queue, job=job.id) for part in junk))
        await run_burst(client_url(redis), fail)
        assert runs == 1
        assert await redis.execute("ZCARD", queue) == 0
        assert [letter.job_id for letter in await client.dead_letters(queue)] == [job.id]

    @pytest.mark.parametrize("junk", ["inf", "nan", "-1", "9" * 300, "text"])
    async def test_a_job_that_nobody_knows_is_parked_and_then_buried_whatever_its_time_says(
        self, redis: RedisClient, queue: str, prefix: str, junk: str
    ) -> None:
        now = 1_700_000_000_000
        [job_id] = await add(RedisJobStore(redis, now_ms=lambda: now), queue, prefix, [b"a"])
        await redis.execute("SET", f"aioinfra:parked:{job_id}", junk, "EX", 60)
        for seconds, status in (
            (0, FinishStatus.PARKED),
            (5, FinishStatus.PARKED),
            (11, FinishStatus.RECORDED),
        ):
            store = RedisJobStore(redis, now_ms=partial(int, now + seconds * 1000))
            [claim] = (await store.claim(asking(queue))).claims
            finish = Finish(claim, Action.PARK, number=10_000, record=b"{}")
            assert await store.finish(uuid.uuid4().hex, "n", [finish]) == [status]

    async def test_a_payload_of_another_type_is_buried_as_expired(
        self, redis: RedisClient, client: JobClient, queue: str, prefix: str
    ) -> None:
        @task(queue=queue)
        async def fine() -> None: ...

        await redis.execute("RPUSH", f"arq:job:{prefix}list", "x")
        await redis.execute("ZADD", queue, 1, f"{prefix}list")
        await run_burst(client_url(redis), fine)
        [letter] = await client.dead_letters(queue)
        assert (letter.job_id, letter.reason) == (f"{prefix}list", "expired")
        assert not await redis.execute("EXISTS", f"arq:job:{prefix}list")


class TestRights:
    """A user who may not touch what is the engine's own."""

    @pytest.mark.parametrize("half", [None, "aioinfra:dead-letter:*", "aioinfra:dead:*"])
    async def test_without_a_right_to_dead_letters_a_failed_job_still_ends_once(
        self, own_server: OwnServerFactory, queue: str, half: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = own_server(tcp=True)
        runs = 0

        @task(queue=queue)
        async def fail() -> None:
            nonlocal runs
            runs += 1
            raise DecodeError("broken")

        async with RedisClient(server.url) as admin:
            keys = (f"{queue}*", "arq:*", "aioinfra:[cfpr]*")  # not aioinfra:dead*
            rules = [*(f"~{key}" for key in (*keys, *([half] if half else []))), "&*", "+@all"]
            await admin.execute("ACL", "SETUSER", "narrow", "on", ">narrow", "reset", *rules, "on", ">narrow")
            fail.client = JobClient(admin)
            job = await fail.delay()
            await run_burst(server.url.replace("//", "//narrow:narrow@"), fail)
            assert runs == 1
            with pytest.raises(JobFailed):
                await job.result(timeout=2)
            assert await admin.execute("ZCARD", queue) == 0
            assert await admin.execute("KEYS", "aioinfra:dead*") == []
            await fail.client.aclose()
        assert "1 dead letters refused" in caplog.text

    async def test_a_full_index_of_dates_to_come_does_not_push_out_new_letters(
        self, own_server: OwnServerFactory, queue: str, prefix: str
    ) -> None:
        async with RedisClient(own_server().url) as redis:
            junk = [str(part) for number in range(10_000) for part in ("inf", f"junk{number}")]
            await redis.execute("ZADD", f"aioinfra:dead:{queue}", *junk)
            store = RedisJobStore(redis)
            await add(store, queue, prefix, [b"a"])
            [claim] = (await store.claim(asking(queue))).claims
            await store.finish("w", "n", [Finish(claim, Action.BURY, record=b"{}")])
            assert await redis.execute("ZRANGE", f"aioinfra:dead:{queue}", 0, -1) == [f"{prefix}0".encode()]
