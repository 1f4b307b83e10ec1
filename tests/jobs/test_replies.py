"""How a producer hears of a job's end: told with its result when that is short; without a channel it looks."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import msgspec
import pytest

from aioinfra import task
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.client import ClientOptions, JobClient
from aioinfra.jobs.job import Action, Claim, Finish, JobRequest, JobStatus
from aioinfra.jobs.payload import JsonCodec
from aioinfra.jobs.redis_store import RedisJobStore
from aioinfra.jobs.replies import ReplyListener, read_message
from aioinfra.jobs.results import ResultReader
from aioinfra.jobs.store import ClaimRequest, Share
from tests.jobs.kit import until, working


async def claimed(store: RedisJobStore, queue: str) -> Claim:
    request = ClaimRequest((Share(queue, 1, 1),), 1, uuid.uuid4().hex, "w", 15.0)
    [claim] = (await store.claim(request)).claims
    return claim


def result_of(claim: Claim, value: str) -> bytes:
    wire = {"t": 1, "f": "t", "a": [], "k": {}, "et": 1, "s": True, "r": value, "st": 1, "ft": 1}
    return msgspec.json.encode({**wire, "q": claim.queue, "id": claim.job_id})


class CountingStore(RedisJobStore):
    """Counts the looks at a job's status that were answered."""

    looks = 0

    async def status(self, queue: str, job_id: str) -> tuple[JobStatus, bytes | None]:
        found = await super().status(queue, job_id)
        self.looks += 1
        return found


@pytest.mark.parametrize(("size", "looks"), [(10, 1), (40_000, 2)])
async def test_a_short_result_needs_no_second_look(
    redis: RedisClient, client: JobClient, prefix: str, queue: str, size: int, looks: int
) -> None:
    store = CountingStore(redis)
    replies = ReplyListener(redis, prefix)
    reader = ResultReader(store, JsonCodec(), replies)
    replies.start()
    await until(lambda: replies.is_up)
    job = await client.enqueue(JobRequest[Any]("t", queue=queue))
    waiting = asyncio.create_task(reader.result(queue, job.id, str, 10))
    await until(lambda: store.looks == 1)
    claim = await claimed(store, queue)
    result = result_of(claim, "x" * size)
    await store.finish(prefix, "n", [Finish(claim, Action.DONE, result, 60_000, 0, str(replies.channel))])
    assert await waiting == "x" * size
    assert store.looks == looks
    await replies.aclose()


async def test_a_client_without_replies_names_no_channel_and_still_gets_results(
    redis_url: str, redis: RedisClient, queue: str
) -> None:
    @task(queue=queue)
    async def double(number: int) -> int:
        return 2 * number

    client = JobClient(redis, options=ClientOptions(replies=False))
    job, late = await client.enqueue_many([double.job(1), double.job(2)])
    payload = msgspec.json.decode(await redis.execute("GET", f"arq:job:{job.id}"))
    assert "h" not in payload
    waiting = asyncio.create_task(job.result(timeout=10))
    async with working(redis_url, double):
        assert (await waiting, await late.result(timeout=10)) == (2, 4)
    assert not client._replies.is_up
    await client.aclose()


def test_replies_is_a_bool() -> None:
    with pytest.raises(InvalidArgument, match="replies"):
        ClientOptions(replies=1)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (b"a", [("a", None)]),
        (b"a\nb", [("a", None), ("b", None)]),
        (b"a\nb\n\x001:x-:", [("a", b"x"), ("b", None)]),
        (b"a\n\x003:\n\x00:", [("a", b"\n\x00:")]),
        (b"a\nb\n\x001:x", [("a", None), ("b", None)]),
        (b"a\n\x00x:1", [("a", None)]),
        (b"a\n\x00" + b"9" * 5_000 + b":x", [("a", None)]),
        (b"\xff\n\x00-:", [("\udcff", None)]),
    ],
)
def test_what_a_message_says(message: bytes, told: list[tuple[str, bytes | None]]) -> None:
    assert read_message(message) == told
