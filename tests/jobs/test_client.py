"""What a client makes of taken ids and of junk that others have stored."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from aioinfra import task
from aioinfra.connection.batch import BatchLimits
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import DecodeError, EnqueueUncertain, StoreUnavailable, WrongType
from aioinfra.jobs.client import ClientOptions, JobClient
from aioinfra.jobs.job import JobRequest, JobStatus
from tests.conftest import OwnServerFactory
from tests.fair_time import fair_time
from tests.jobs.kit import run_burst, working


async def test_a_taken_id_gives_the_handle_of_the_job_that_has_it(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def first() -> str:
        return "first"

    chosen = f"{queue}:chosen"
    await first.options(job_id=chosen)()
    other = await first.options(job_id=chosen, queue=f"{queue}:other")()
    assert (other.created, other.queue, await other.status()) == (False, queue, JobStatus.QUEUED)
    elsewhere = JobRequest[str](first.name, queue=f"{queue}:other", job_id=chosen)
    fresh, again = await client.enqueue_many([JobRequest(first.name, queue=f"{queue}:x"), elsewhere])
    assert [(job.created, job.queue) for job in (fresh, again)] == [(True, f"{queue}:x"), (False, queue)]
    async with working(redis_url, first):
        assert await other.result(timeout=5) == "first"
    ended = await client.enqueue(elsewhere)
    assert (ended.created, ended.queue, await ended.result(timeout=1)) == (False, queue, "first")


async def test_junk_among_the_dead_letters_hides_no_letter(
    redis_url: str, redis: RedisClient, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def fail() -> None:
        raise ValueError("no")

    job = await fail.delay()
    await run_burst(redis_url, fail)
    letters = {
        "no-at": ("HSET", "payload", "p", "record", "{}"),
        "odd-at": ("HSET", "payload", "p", "record", "\udcff".encode("utf-8", "surrogateescape"), "at", "x"),
        "only-at": ("HSET", "at", "1" * 400),
        "deep": ("HSET", "record", "[" * 100_000, "at", "1"),
        "text": ("SET", "junk"),
    }
    for number, (name, (command, *fields)) in enumerate(letters.items()):
        await redis.execute(command, f"aioinfra:dead-letter:{queue}:{name}", *fields)
        await redis.execute("ZADD", f"aioinfra:dead:{queue}", number, name)
    found = {letter.job_id: letter for letter in await client.dead_letters(queue)}
    assert found[job.id].reason == "failed"
    assert {found[name].reason for name in letters} == {"unreadable"}
    assert found["no-at"].payload == b"p"
    await redis.execute("SET", f"aioinfra:dead:{queue}:text", "junk")
    with pytest.raises(WrongType):
        await client.dead_letters(f"{queue}:text")


@pytest.mark.parametrize("junk", [b"", b"\xff", b"[]", b'{"done": "x"}', b"[" * 100_000])
async def test_junk_as_progress_is_a_typed_error(
    redis: RedisClient, client: JobClient, prefix: str, junk: bytes
) -> None:
    await redis.execute("SET", f"aioinfra:progress:{prefix}", junk, "EX", 60)
    with pytest.raises(DecodeError):
        await client.handle(prefix).progress()


async def test_progress_of_another_type_is_a_typed_error(
    redis: RedisClient, client: JobClient, prefix: str
) -> None:
    await redis.execute("LPUSH", f"aioinfra:progress:{prefix}", "x")
    with pytest.raises(WrongType):
        await client.handle(prefix).progress()


async def test_a_payload_of_millions_of_values_is_refused_before_it_is_decoded(
    redis: RedisClient, client: JobClient, prefix: str
) -> None:
    result: dict[str, Any] = {"t": 1, "f": "f", "a": [], "k": {}, "et": 1, "s": True, "st": 1, "ft": 1}
    bomb = msgspec.json.encode({**result, "r": msgspec.Raw(b"[" + b"[]," * 5_000_000 + b"1]")})
    await redis.execute("SET", f"arq:result:{prefix}", bomb, "EX", 60)
    with pytest.raises(DecodeError, match="values"):
        await client.handle(prefix).result(timeout=1)


async def test_enqueues_on_a_hung_server_end_in_their_own_time_however_many_wait(
    own_server: OwnServerFactory,
) -> None:
    server = own_server()
    async with RedisClient(server.url) as redis:
        options = ClientOptions(timeout=0.5, batch=BatchLimits(max_items=20))
        client = JobClient(redis, options=options)
        await client.enqueue(JobRequest[Any]("t"))
        server.stop_process()
        started = fair_time()
        ends = await asyncio.gather(
            *(client.enqueue(JobRequest[Any]("t")) for _ in range(500)), return_exceptions=True
        )
        assert fair_time() - started < 1.5  # 25 batches of half a second each would be 12 s
        assert all(isinstance(end, EnqueueUncertain | StoreUnavailable) for end in ends)
        certain = sum(isinstance(end, StoreUnavailable) for end in ends)
        server.continue_process()
        await client.enqueue(JobRequest[Any]("t"))
        depth = (await client.depths(["default"]))["default"].queued
        assert depth <= 2 + len(ends) - certain  # what was said not to be stored is not
        await client.aclose()
