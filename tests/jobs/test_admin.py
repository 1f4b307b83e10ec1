"""The controls of a running system: what an operator asks for, and what workers do."""

from __future__ import annotations

import asyncio
import json
import pickle
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aioinfra import task
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument, JobAborted, JobFailed, JobNotFound, StoreError, WrongType
from aioinfra.jobs.admin import JobAdmin
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.context import JobContext
from aioinfra.jobs.job import JobRequest, JobStatus
from aioinfra.jobs.letters import Requeue
from aioinfra.jobs.retry import Retry
from tests.fair_time import fair_time
from tests.jobs.kit import Recorder, engine, keys_of, run_burst, until, working

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def admin(redis: RedisClient) -> JobAdmin:
    return JobAdmin(redis)


def job(name: str, queue: str, *args: Any, **more: Any) -> JobRequest[Any]:
    return JobRequest(name, args, queue=queue, **more)


async def bury(redis: RedisClient, queue: str, *ids: str, task: str = "f", reason: str = "failed") -> None:
    """Dead letters as finish.lua writes them."""
    payload = json.dumps({"t": None, "f": task, "a": ["secret"], "k": {}, "et": 7, "h": {"request_id": "r"}})
    record = {
        "task": task,
        "reason": reason,
        "error": {"type": "E", "message": "m"},
        "attempt": 3,
        "stalls": 1,
    }
    await redis.pipeline(
        [
            command
            for at, job_id in enumerate(ids)
            for command in (
                ("HSET", f"aioinfra:dead-letter:{queue}:{job_id}", "payload", payload, "record",
                 json.dumps(record), "at", 1_000 + at),
                ("ZADD", f"aioinfra:dead:{queue}", 1_000 + at, job_id),
            )
        ]
    )  # fmt: skip


class TestDeadLetters:
    async def test_a_dead_job_can_be_understood_brought_back_and_ends_well(
        self, redis_url: str, redis: RedisClient, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        broken = True
        seen: list[tuple[int, str | None]] = []

        @task(queue=queue, name="pay")
        async def pay(ctx: JobContext, amount: int) -> int:
            seen.append((ctx.attempt, ctx.headers.get("request_id")))
            if broken:
                raise RuntimeError("the bank is closed")
            return amount

        handle = await client.enqueue(job("pay", queue, 7, headers={"request_id": "r-1"}))
        await run_burst(redis_url, pay)
        [entry] = (await admin.dead.page(queue)).letters
        assert (entry.job_id, entry.task, entry.reason, entry.attempt) == (handle.id, "pay", "failed", 1)
        assert abs(entry.died_at - time.time()) < 60
        assert "closed" not in repr(entry)
        found = await admin.dead.inspect(queue, handle.id)
        assert found.job is not None
        assert (found.job.args, found.letter.error.message) == ((7,), "the bank is closed")
        assert found.letter.payload
        with pytest.raises(JobFailed):
            await handle.result(timeout=1)
        broken = False
        assert await admin.dead.requeue(queue, handle.id) is Requeue.REQUEUED
        with pytest.raises(TimeoutError):  # the old failure is no answer any more
            await handle.result(timeout=0)
        await run_burst(redis_url, pay)
        assert await handle.result(timeout=1) == 7
        assert seen == [(1, "r-1"), (1, "r-1")]
        assert (await admin.dead.page(queue)).letters == ()
        assert await keys_of(redis, handle.id) == {"arq:result"}

    async def test_pages_go_back_in_time_and_filters_reach_through_them(
        self, redis: RedisClient, admin: JobAdmin, queue: str
    ) -> None:
        await bury(redis, queue, *(f"a{at:03}" for at in range(150)), task="a")
        await bury(redis, queue, "b1", task="b", reason="poison")
        first = await admin.dead.page(queue, limit=100)
        second = await admin.dead.page(queue, limit=100, cursor=first.cursor)
        ids = [letter.job_id for letter in (*first.letters, *second.letters)]
        assert ids[:3] == ["a149", "a148", "a147"]
        assert (len(ids), len(set(ids)), second.cursor) == (151, 151, None)
        [found] = (await admin.dead.page(queue, task="b")).letters
        assert (found.job_id, found.reason) == ("b1", "poison")
        assert len((await admin.dead.page(queue, reason="failed", limit=120)).letters) == 120

    async def test_only_what_fits_the_filter_is_brought_back_or_deleted(
        self, redis: RedisClient, admin: JobAdmin, queue: str
    ) -> None:
        await bury(redis, queue, "a1", "a2", task="a")
        await bury(redis, queue, "b1", "b2", task="b")
        await redis.execute("SET", "arq:job:b1", "another's", "EX", 60)
        report = await admin.dead.requeue_all(queue, task="b")
        assert (report.requeued, report.kept) == (1, (("b1", Requeue.TAKEN),))
        assert await redis.execute("ZRANGE", queue, 0, -1) == [b"b2"]
        assert await admin.dead.delete_all(queue, task="a", reason="failed") == 2
        assert await admin.dead.delete(queue, "b1")
        assert not await admin.dead.delete(queue, "b1")
        assert await redis.execute("EXISTS", f"aioinfra:dead:{queue}") == 0
        assert await redis.execute("DEL", "arq:job:b1") == 1

    async def test_large_letters_all_come_back(self, redis: RedisClient, admin: JobAdmin, queue: str) -> None:
        ids = [f"{queue}{at}" for at in range(6)]
        await bury(redis, queue, *ids)
        for job_id in ids:
            await redis.execute("HSET", f"aioinfra:dead-letter:{queue}:{job_id}", "payload", b"x" * 2_000_000)
        report = await admin.dead.requeue_all(queue)
        assert (report.requeued, report.kept) == (6, ())
        assert await redis.execute("DEL", *(f"arq:job:{one}" for one in ids)) == 6

    async def test_a_job_that_dies_again_while_all_are_brought_back_is_brought_back_once(
        self, redis_url: str, redis: RedisClient, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        @task(queue=queue, name="f")
        async def poor(*_: str) -> None:
            raise RuntimeError

        ids = [f"{queue}{at}" for at in range(250)]
        await bury(redis, queue, *ids)
        recorder = Recorder()
        async with working(redis_url, poor, options=engine(observer=recorder)):
            report = await asyncio.wait_for(admin.dead.requeue_all(queue), 20)
            await until(lambda: recorder.outcomes["dead"] >= 250)
        assert report.requeued == 250
        assert recorder.outcomes == {"dead": 250}

    async def test_no_job_is_lost_or_doubled_when_the_requeuing_process_is_killed(
        self, redis_url: str, redis: RedisClient, queue: str
    ) -> None:
        ids = {f"{queue}{at}" for at in range(1_000)}
        await bury(redis, queue, *ids)
        program = (
            "import asyncio, sys\n"
            "from aioinfra.connection.pool import RedisClient\n"
            "from aioinfra.jobs.admin import JobAdmin\n"
            "from aioinfra.jobs import letters\n"
            "letters.SLICE = 10\n"
            "class Slow(RedisClient):\n"  # so that there is a middle to be killed in
            "    async def run_script(self, *args):\n"
            "        await asyncio.sleep(0.01)\n"
            "        return await super().run_script(*args)\n"
            "async def main():\n"
            "    async with Slow(sys.argv[1]) as redis:\n"
            "        await JobAdmin(redis).dead.requeue_all(sys.argv[2])\n"
            "asyncio.run(main())\n"
        )
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, redis_url, queue, cwd=ROOT
        )
        try:
            await until(lambda: redis.execute("EXISTS", queue), every=0.001)
        finally:
            child.kill()
            assert await child.wait() == -signal.SIGKILL
        queued = {one.decode() for one in await redis.execute("ZRANGE", queue, 0, -1)}
        listed = {one.decode() for one in await redis.execute("ZRANGE", f"aioinfra:dead:{queue}", 0, -1)}
        payloads = await redis.pipeline([("EXISTS", f"arq:job:{one}") for one in sorted(ids)])
        letters = await redis.pipeline(
            [("EXISTS", f"aioinfra:dead-letter:{queue}:{one}") for one in sorted(ids)]
        )
        assert queued | listed == ids
        assert not queued & listed
        assert payloads == [int(one in queued) for one in sorted(ids)]
        assert letters == [int(one in listed) for one in sorted(ids)]
        assert 0 < len(queued) < 1_000
        report = await JobAdmin(redis).dead.requeue_all(queue)
        assert (report.requeued, report.kept) == (len(listed), ())
        await redis.execute("DEL", queue, *(f"arq:job:{one}" for one in ids))

    async def test_junk_is_shown_and_can_be_deleted(
        self, redis: RedisClient, admin: JobAdmin, queue: str
    ) -> None:
        await bury(redis, queue, "pickled")
        keys = f"aioinfra:dead-letter:{queue}:"
        await redis.execute("HSET", f"{keys}pickled", "payload", pickle.dumps({"f": "x"}))
        await redis.execute("HSET", f"{keys}broken", "record", "{", "payload", "{", "at", "yesterday")
        await redis.execute("SET", f"{keys}string", "x", "EX", 60)
        await redis.execute("HSET", keys.encode() + b"\xff", "payload", "")
        await redis.execute("ZADD", f"aioinfra:dead:{queue}", 5, "broken", 5, "string", 5, b"\xff", 5, "gone")
        page = await admin.dead.page(queue)
        reasons = {letter.job_id: letter.reason for letter in page.letters}
        assert reasons == {
            "pickled": "failed",
            "broken": "unreadable",
            "string": "unreadable",
            "\udcff": "unreadable",
        }
        told = {one: (await admin.dead.inspect(queue, one)).unreadable for one in reasons}
        assert told == {
            "pickled": "pickle", "broken": "undecodable", "string": "expired", "\udcff": "expired",
        }  # fmt: skip
        with pytest.raises(JobNotFound):
            await admin.dead.inspect(queue, "gone")
        assert await admin.dead.delete_all(queue) == 5
        assert await redis.execute("EXISTS", *(f"{keys}{one}" for one in ("broken", "string"))) == 0


class TestPause:
    async def test_a_paused_queue_is_not_claimed_from_and_the_others_are(
        self, redis_url: str, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        ran: list[str] = []

        @task(queue=queue, name="f")
        async def paused(number: int) -> None:
            ran.append(f"paused {number}")

        @task(queue=f"{queue}-open", name="g")
        async def open_(number: int) -> None:
            ran.append(f"open {number}")

        async with working(redis_url, paused, open_), working(redis_url, paused, open_):
            assert await admin.pause(queue)
            assert not await admin.pause(queue)
            assert queue in await admin.paused()
            held = await client.enqueue(job("f", queue, 1))
            await (await client.enqueue(job("g", f"{queue}-open", 1))).result(timeout=5)
            await asyncio.sleep(1.2)  # longer than the safety poll
            assert ran == ["open 1"]
            assert await held.status() is JobStatus.QUEUED
            assert await admin.resume(queue)
            told = fair_time()
            await held.result(timeout=5)
            assert fair_time() - told < 0.5  # told, not polled
            assert not await admin.resume(queue)
            assert queue not in await admin.paused()

    async def test_claims_stop_at_once_under_load(
        self, redis_url: str, redis: RedisClient, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        @task(queue=queue, name="f")
        async def work() -> None:
            await asyncio.sleep(0.002)

        await client.enqueue_many([job("f", queue) for _ in range(2_000)])
        recorder = Recorder()
        options = engine(observer=recorder)
        async with working(redis_url, work, options=options, concurrency=5):
            await until(lambda: recorder.outcomes["succeeded"] > 20)
            await admin.pause(queue)
            left = await admin.drain(queue, timeout=5)
            assert left.running == 0
            assert left.queued > 0
            assert recorder.claims == 2_000 - left.queued + recorder.outcomes["released"]
            await admin.resume(queue)
            await admin.drain(queue, timeout=20)
        assert recorder.outcomes["succeeded"] == 2_000


class TestDrain:
    async def test_it_waits_for_what_is_due_or_runs_and_not_for_later(
        self, redis_url: str, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        gate = asyncio.Event()

        @task(queue=queue, name="f")
        async def work() -> None:
            await gate.wait()

        await client.enqueue(job("f", queue))
        await client.enqueue(job("f", queue, delay=3600))
        async with working(redis_url, work):
            draining = asyncio.create_task(admin.drain(queue, timeout=10))
            await until(lambda: admin.dead)
            await asyncio.sleep(0.1)
            assert not draining.done()
            gate.set()
            left = await draining
            assert (left.queued, left.running, left.deferred) == (0, 0, 1)

    async def test_it_says_what_is_left(self, client: JobClient, admin: JobAdmin, queue: str) -> None:
        await client.enqueue(job("f", queue))
        await client.enqueue(job("f", queue, delay=60))
        with pytest.raises(TimeoutError, match=r"1 jobs are due, 0 run, 1 are due later"):
            await admin.drain(queue, timeout=0.05)


class TestAbort:
    async def test_a_running_job_is_cancelled(
        self, redis_url: str, redis: RedisClient, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        @task(queue=queue, name="f")
        async def endless() -> None:
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        async with working(redis_url, endless):
            handle = await client.enqueue(job("f", queue))
            await asyncio.wait_for(started.wait(), 5)
            assert await admin.abort(handle.id)
            with pytest.raises(JobAborted):
                await handle.result(timeout=3)
            assert ended.is_set()
        assert await keys_of(redis, handle.id) == {"arq:result"}
        assert await redis.execute("ZSCORE", "arq:abort", handle.id) is None
        assert not await admin.abort(handle.id)

    @pytest.mark.parametrize("waits", ["queued", "deferred"])
    async def test_a_waiting_job_ends_without_running(
        self, redis_url: str, redis: RedisClient, client: JobClient, admin: JobAdmin, queue: str, waits: str
    ) -> None:
        ran: list[int] = []

        @task(queue=queue, name="f")
        async def work() -> None:
            ran.append(1)

        handle = await client.enqueue(job("f", queue, delay=3600 if waits == "deferred" else None))
        assert await admin.abort(handle.id, queue=queue)
        async with working(redis_url, work):
            with pytest.raises(JobAborted):
                await handle.result(timeout=3)
        assert ran == []
        assert await redis.execute("ZSCORE", "arq:abort", handle.id) is None

    async def test_an_unknown_id_leaves_no_trace_for_the_next_job_of_that_id(
        self, redis_url: str, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        @task(queue=queue, name="f")
        async def work() -> str:
            return "ran"

        with pytest.raises(JobNotFound):
            await admin.abort(f"{queue}later", queue=queue)
        handle = await client.enqueue(job("f", queue, job_id=f"{queue}later"))
        async with working(redis_url, work):
            assert await handle.result(timeout=3) == "ran"

    async def test_a_handle_aborts_its_job(
        self, redis_url: str, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        @task(queue=queue, name="f")
        async def work() -> None: ...

        handle = await client.enqueue(job("f", queue, delay=3600))
        assert await handle.abort()
        async with working(redis_url, work):
            with pytest.raises(JobAborted):
                await handle.result(timeout=3)
        assert not await handle.abort()
        with pytest.raises(JobNotFound):
            await client.handle(f"{queue}nobody", queue).abort()


class TestJobs:
    async def test_a_deleted_job_is_gone_and_a_running_one_is_refused(
        self, redis_url: str, redis: RedisClient, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        gate, started = asyncio.Event(), asyncio.Event()

        @task(queue=queue, name="f")
        async def work() -> str:
            started.set()
            await gate.wait()
            return "ran"

        later = await client.enqueue(job("f", queue, delay=3600))
        assert await admin.delete(queue, later.id)
        assert not await keys_of(redis, later.id)
        with pytest.raises(JobNotFound):
            await later.result(timeout=1)
        with pytest.raises(JobNotFound):
            await admin.delete(queue, later.id)
        async with working(redis_url, work):
            handle = await client.enqueue(job("f", queue))
            await asyncio.wait_for(started.wait(), 5)
            assert not await admin.delete(queue, handle.id)
            assert not await admin.run_now(queue, handle.id)
            gate.set()
            assert await handle.result(timeout=3) == "ran"

    async def test_a_later_job_and_a_retry_run_at_once(
        self, redis_url: str, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        @task(queue=queue, name="f")
        async def work(ctx: JobContext) -> int:
            if ctx.attempt == 1:
                raise Retry(delay=3600)
            return ctx.attempt

        handle = await client.enqueue(job("f", queue, delay=3600))
        async with working(redis_url, work):
            assert await admin.run_now(queue, handle.id)
            page = await until(lambda: retried(admin, queue))
            assert page.jobs[0].attempt == 2
            assert page.jobs[0].due_at == pytest.approx(time.time() + 3600, abs=30)
            assert await admin.run_now(queue, handle.id)
            assert await handle.result(timeout=3) == 2
        with pytest.raises(JobNotFound):
            await admin.run_now(queue, handle.id)

    async def test_lists_show_where_jobs_are_and_no_arguments(
        self, redis_url: str, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        gate = asyncio.Event()

        @task(queue=queue, name="running")
        async def work(_: str) -> None:
            await gate.wait()

        async with working(redis_url, work, concurrency=1):
            running = await client.enqueue(job("running", queue, "s3cret"))
            await until(lambda: found(admin, queue, "running"))
            await admin.pause(queue)
            queued = await client.enqueue(job("queued", queue, "s3cret" * 20_000, priority=3))
            deferred = await client.enqueue(job("deferred", queue, "s3cret", delay=3600))
            page = await admin.jobs(queue)
            assert {(one.job_id, one.status, one.task) for one in page.jobs} == {
                (running.id, JobStatus.RUNNING, "running"),
                (queued.id, JobStatus.QUEUED, "queued"),
                (deferred.id, JobStatus.DEFERRED, "deferred"),
            }
            assert "s3cret" not in repr(page)
            for status, handle in (("running", running), ("queued", queued), ("deferred", deferred)):
                assert [one.job_id for one in (await admin.jobs(queue, status)).jobs] == [handle.id]
                details = await admin.inspect(queue, handle.id)
                assert (details.entry.status, details.entry.task) == (status, status)
                assert "s3cret" not in repr(details)
            small = await admin.jobs(queue, limit=2)
            rest = await admin.jobs(queue, limit=2, cursor=small.cursor)
            assert {one.job_id for one in (*small.jobs, *rest.jobs)} == {running.id, queued.id, deferred.id}
            gate.set()
            await running.result(timeout=3)
            await admin.resume(queue)
        ended = await admin.inspect(queue, running.id)
        assert (ended.entry.status, ended.entry.task) == (JobStatus.SUCCEEDED, "running")
        assert ended.result is not None

    async def test_a_page_of_many_is_bounded(
        self, redis: RedisClient, client: JobClient, admin: JobAdmin, queue: str
    ) -> None:
        await client.enqueue_many([job("f", queue, delay=60.0 + at) for at in range(2_500)])
        await client.enqueue(job("f", queue))
        page = await admin.jobs(queue, "deferred", limit=2_400)
        assert len(page.jobs) == 2_400
        rest = await admin.jobs(queue, "deferred", limit=2_400, cursor=page.cursor)
        assert (len(rest.jobs), rest.cursor) == (100, None)
        assert len((await admin.jobs(queue, "queued")).jobs) == 1

    async def test_junk_is_shown_as_unreadable(self, redis: RedisClient, admin: JobAdmin, queue: str) -> None:
        ids = {kind: f"{queue}{kind}" for kind in ("pickle", "undecodable", "wrong-type", "expired", "large")}
        await redis.execute("SET", f"arq:job:{ids['pickle']}", pickle.dumps({"f": "x"}), "EX", 60)
        await redis.execute("SET", f"arq:job:{ids['undecodable']}", '{"f":', "EX", 60)
        await redis.execute("SET", f"arq:job:{ids['large']}", '["' + "x" * 50_000, "EX", 60)
        await redis.execute("SADD", f"arq:job:{ids['wrong-type']}", "x")
        await redis.execute("SADD", f"aioinfra:claim:{ids['expired']}", "x")
        members: list[str | bytes] = [*ids.values(), queue.encode() + b"\xff\x1b[31m"]
        for score, job_id in enumerate(members):
            await redis.execute("ZADD", queue, score or "-inf", job_id)
        page = await admin.jobs(queue)
        assert [(one.unreadable, one.task) for one in page.jobs] == [
            ("pickle", ""), ("undecodable", ""), ("wrong-type", ""), ("expired", ""), ("undecodable", ""),
            ("expired", ""),
        ]  # fmt: skip
        for entry in page.jobs:
            if entry.job_id != ids["large"]:
                assert (await admin.inspect(queue, entry.job_id)).entry.unreadable == entry.unreadable
            assert await admin.delete(queue, entry.job_id)
        assert await redis.execute("EXISTS", queue) == 0
        await redis.execute("SET", f"arq:result:{ids['large']}", "junk", "EX", 60)
        details = await admin.inspect(queue, ids["large"])
        assert (details.entry.status, details.entry.size) == (JobStatus.FAILED, -1)


async def retried(admin: JobAdmin, queue: str) -> Any:
    page = await admin.jobs(queue, "deferred")
    return page if page.jobs and page.jobs[0].attempt > 1 else None


async def found(admin: JobAdmin, queue: str, status: str) -> bool:
    return bool((await admin.jobs(queue, status)).jobs)


Verb = Callable[[JobAdmin, Any], Awaitable[Any]]


@pytest.mark.parametrize(
    ("argument", "verb"),
    [
        ("queue", lambda admin, bad: admin.pause(bad)),
        ("queue", lambda admin, bad: admin.resume(bad)),
        ("queue", lambda admin, bad: admin.drain(bad, 1)),
        ("queue", lambda admin, bad: admin.depth(bad)),
        ("queue", lambda admin, bad: admin.jobs(bad)),
        ("queue", lambda admin, bad: admin.delete(bad, "a")),
        ("queue", lambda admin, bad: admin.dead.page(bad)),
        ("queue", lambda admin, bad: admin.dead.requeue_all(bad)),
        ("job_id", lambda admin, bad: admin.delete("q", bad)),
        ("job_id", lambda admin, bad: admin.run_now("q", bad)),
        ("job_id", lambda admin, bad: admin.abort(bad)),
        ("job_id", lambda admin, bad: admin.inspect("q", bad)),
        ("job_id", lambda admin, bad: admin.dead.inspect("q", bad)),
        ("job_id", lambda admin, bad: admin.dead.requeue("q", bad)),
        ("job_id", lambda admin, bad: admin.dead.delete("q", bad)),
        ("limit", lambda admin, bad: admin.jobs("q", limit=bad)),
        ("limit", lambda admin, bad: admin.dead.page("q", limit=bad)),
        ("cursor", lambda admin, bad: admin.jobs("q", cursor=bad or "")),
        ("cursor", lambda admin, bad: admin.dead.page("q", cursor=bad or "")),
        ("status", lambda admin, bad: admin.jobs("q", bad or "")),
        ("task", lambda admin, bad: admin.dead.delete_all("q", task=bad or "")),
        ("reason", lambda admin, bad: admin.dead.requeue_all("q", reason=bad or "")),
        ("timeout", lambda admin, bad: admin.drain("q", bad)),
    ],
)
@pytest.mark.parametrize("bad", [None, "", True, 0.5j, "\ud800", b"x"])
async def test_a_bad_argument_is_named_before_any_call(argument: str, verb: Verb, bad: Any) -> None:
    async with RedisClient("redis://127.0.0.1:1") as nobody:
        with pytest.raises(InvalidArgument) as refused:
            await verb(JobAdmin(nobody), bad)
    assert refused.value.argument == argument


async def test_a_queue_of_another_type_is_told_as_such(
    redis: RedisClient, admin: JobAdmin, queue: str
) -> None:
    await redis.execute("SET", queue, "x", "EX", 60)
    for verb in (admin.depth(queue), admin.jobs(queue), admin.inspect(queue, "a"), admin.delete(queue, "a")):
        with pytest.raises(WrongType):
            await verb


async def test_a_server_that_is_away_is_an_error() -> None:
    async with RedisClient("redis://127.0.0.1:1") as nobody:
        admin = JobAdmin(nobody)
        for verb in (admin.paused(), admin.inspect("q", "a"), admin.dead.inspect("q", "a")):
            with pytest.raises(StoreError):
                await verb
