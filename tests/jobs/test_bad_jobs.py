"""What a worker meets that it cannot run or record: it goes on, and the job ends where somebody can see it."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aioinfra import task
from aioinfra.backoff import Backoff
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import DecodeError, JobFailed, UntrustedPayload
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.dead import DeadLetter
from aioinfra.jobs.job import JobRequest
from aioinfra.jobs.payload import JsonCodec
from aioinfra.jobs.records import error_record
from aioinfra.jobs.run import RunOptions
from tests.jobs.kit import Recorder, engine, keys_of, run_burst, until, working


@task(name="tests.fine")
async def fine(number: int = 0) -> int:
    return number


async def put(redis: RedisClient, queue: str, job_id: str | bytes, payload: bytes | None) -> None:
    """A member, with whatever payload, as anybody may write it."""
    name = job_id if isinstance(job_id, bytes) else job_id.encode()
    if payload is not None:
        await redis.execute("SET", b"arq:job:" + name, payload, "EX", 60)
    await redis.execute("ZADD", queue, 1, name)


def job(**changes: Any) -> bytes:
    wire = {"t": None, "f": fine.name, "a": [], "k": {}, "et": 1_700_000_000_000, **changes}
    return msgspec.json.encode({name: value for name, value in wire.items() if value is not ...})


async def only_letter(client: JobClient, queue: str) -> DeadLetter:
    [letter] = await client.dead_letters(queue)
    return letter


class Canary:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


async def test_a_pickle_is_buried_and_never_loaded(
    redis_url: str, redis: RedisClient, client: JobClient, queue: str, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    payload = pickle.dumps({"t": None, "f": fine.name, "a": (Canary(canary),), "k": {}, "et": 1})
    await put(redis, queue, f"{queue}:1", payload)
    await run_burst(redis_url, fine, options=_on(queue))
    letter = await only_letter(client, queue)
    assert (letter.reason, letter.payload) == ("undecodable", payload)
    assert letter.error.type == "aioinfra.errors.UntrustedPayload"
    assert not canary.exists()
    await redis.execute("SET", f"arq:result:{queue}:2", payload, "EX", 60)
    with pytest.raises(UntrustedPayload):
        await client.handle(f"{queue}:2").result(timeout=1)
    assert not canary.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"junk",
        b"[]",
        b"\xff\xfe",
        b"{" * 100_000,
        job(a=...),
        job(a="abc"),
        job(a={"0": 1}),
        job(k=[]),
        job(k=None),
        job(f=None),
        job(f=3),
        job(et="yesterday"),
        job(h={"reply": 3}),
        job(a=[]) + b"x",
        b'{"t":null,"f":"f","a":[1' + b"0" * 5_000 + b"],",
    ],
    ids=str,
)
async def test_an_unreadable_payload_is_buried_whole(
    valkey_url: str, valkey: RedisClient, valkey_client: JobClient, queue: str, payload: bytes
) -> None:
    await put(valkey, queue, f"{queue}:1", payload)
    await valkey_client.enqueue(JobRequest[Any](fine.name, queue=queue))
    worker = await run_burst(valkey_url, fine, options=_on(queue))
    assert (worker.jobs_complete, worker.jobs_failed) == (1, 1)
    letter = await only_letter(valkey_client, queue)
    assert (letter.reason, letter.payload, letter.task) == ("undecodable", payload, "")
    assert await keys_of(valkey, f"{queue}:1") == {"arq:result"}


async def test_an_id_that_is_not_utf8_is_quarantined(
    redis_url: str, redis: RedisClient, client: JobClient, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = queue.encode() + b"\xff\xfe"
    await put(redis, queue, job_id, job())
    await run_burst(redis_url, fine, options=_on(queue))
    letter = await only_letter(client, queue)
    assert letter.job_id.encode("utf-8", "surrogateescape") == job_id
    assert letter.reason == "undecodable"
    assert await redis.execute("ZCARD", queue) == 0
    with pytest.raises(JobFailed, match="not UTF-8"):
        await client.handle(letter.job_id, queue).result(timeout=1)
    for record in caplog.records:
        record.getMessage().encode()  # no lone surrogate reaches a log


async def test_a_job_whose_payload_is_gone_is_buried_as_expired(
    redis_url: str, redis: RedisClient, client: JobClient, queue: str
) -> None:
    await put(redis, queue, f"{queue}:1", None)
    await run_burst(redis_url, fine, options=_on(queue))
    letter = await only_letter(client, queue)
    assert (letter.reason, letter.payload, letter.error.message) == ("expired", b"", "the job has expired")


async def test_an_unknown_task_is_left_to_other_workers_for_a_while(
    valkey_url: str, valkey_client: JobClient, queue: str
) -> None:
    """A rolling deploy: the old worker meets a task that only the new one has."""
    seen = Recorder()
    new = await valkey_client.enqueue(JobRequest[Any]("tests.new", queue=queue))
    old_worker = _on(queue, runs=RunOptions(unknown_task_grace=30), observer=seen)

    @task(name="tests.new")
    async def added() -> str:
        return "done"

    async with working(valkey_url, fine, options=old_worker) as old:
        await until(lambda: seen.outcomes["released"])
        old.allow_pick_jobs = False  # or it may be the first to look at it a few times more
        async with working(valkey_url, added, options=_on(queue)):
            assert await new.result(timeout=5) == "done"
    assert await valkey_client.dead_letters(queue) == []


async def test_an_unknown_task_is_buried_when_nobody_has_known_it_for_its_grace(
    valkey_url: str, valkey_client: JobClient, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = _on(queue, runs=RunOptions(unknown_task_grace=1.5))
    made_up = await valkey_client.enqueue(JobRequest[Any]("tests.made_up", queue=queue))
    waited = await valkey_client.enqueue(
        JobRequest[Any]("tests.made_up", queue=queue, at=1.0)
    )  # due long ago
    async with working(valkey_url, fine, options=options):
        for handle in (made_up, waited):
            with pytest.raises(JobFailed, match=r"no task named 'tests\.made_up' is known here"):
                await handle.result(timeout=10)
    letters = await valkey_client.dead_letters(queue)
    assert {(letter.reason, letter.task, letter.attempt) for letter in letters} == {
        ("unknown-task", "tests.made_up", 1)
    }
    assert "aioinfra.errors.UnknownTask" in caplog.text


async def test_arguments_that_do_not_fit_end_the_job_without_a_try(
    redis_url: str, redis: RedisClient, client: JobClient, queue: str
) -> None:
    ran: list[Any] = []

    @task(queue=queue, retry=Backoff(tries=5, base=0), name="tests.strict")
    async def strict(number: int, *, name: str = "") -> None:
        ran.append(number)

    bad: list[dict[str, Any]] = [
        {"a": ["seven"]},
        {"a": [[1]]},
        {"a": []},
        {"a": [1, 2]},
        {"a": [1], "k": {"name": 3}},
        {"a": [1], "k": {"other": 3}},
        {"a": [1], "k": {"number": 3}},
        {"k": {"number": "secret-value"}},
    ]
    for at, arguments in enumerate(bad):
        await put(redis, queue, f"{queue}:{at}", job(f=strict.name, **arguments))
    await run_burst(redis_url, strict)
    assert not ran
    letters = await client.dead_letters(queue)
    assert {letter.reason for letter in letters} == {"undecodable"}
    assert {letter.error.type for letter in letters} == {"aioinfra.errors.DecodeError"}
    messages = " ".join(letter.error.message for letter in letters)
    assert len(letters) == len(bad)
    assert "number: the stored value does not fit its annotation" in messages
    assert "secret-value" not in messages


@pytest.mark.parametrize(
    "value",
    [
        object(),
        threading.Lock(),
        float("nan"),
        {"deep": [1.0, float("inf")]},
        lambda: None,
        "lone \ud800",
        b"x" * 17_000_000,
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_result_that_cannot_be_encoded_is_a_failure_that_says_so(
    valkey_url: str, valkey_client: JobClient, queue: str, value: Any
) -> None:
    @task(queue=queue)
    async def answers() -> Any:
        return value

    async with working(valkey_url, answers):
        with pytest.raises(JobFailed) as caught:
            await (await answers.delay()).result(timeout=5)
    assert caught.value.error_type == "aioinfra.errors.EncodeError"
    assert "result" in caught.value.error_message
    assert (await only_letter(valkey_client, queue)).reason == "unencodable-result"


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("secret")

    __repr__ = __str__


class Verbose(Exception):
    def __str__(self) -> str:
        return "line one\nline two \x1b[31m\r" + "x" * 1_000_000 + "\ud800"


async def test_hostile_exceptions_end_their_job_and_nothing_else(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def fails(kind: str) -> None:
        if kind == "group":
            raise ExceptionGroup("several", [Hostile(), Verbose()])
        raise {"hostile": Hostile, "verbose": Verbose}[kind]

    async with working(redis_url, fails, fine, options=_on(queue)):
        with pytest.raises(JobFailed) as caught:
            await (await fails.delay("hostile")).result(timeout=5)
        assert caught.value.error_message == "<its text raised RuntimeError>"
        with pytest.raises(JobFailed) as caught:
            await (await fails.delay("verbose")).result(timeout=5)
        assert caught.value.error_message.startswith("line one\nline two")
        assert len(caught.value.error_message) <= 8_192
        with pytest.raises(JobFailed, match="several"):
            await (await fails.delay("group")).result(timeout=5)
        again = await client.enqueue(JobRequest[Any](fine.name, (5,), queue=queue))
        assert await again.result(timeout=5) == 5


def test_a_record_of_an_endless_recursion_is_bounded() -> None:
    def deeper(number: int) -> int:
        return deeper(number + 1)

    try:
        deeper(0)
    except RecursionError as error:
        record = error_record(error)
    assert len(record.traceback) == 64
    assert record.type == "RecursionError"


async def test_a_megabyte_of_arguments_and_result(redis_url: str, client: JobClient, queue: str) -> None:
    @task(queue=queue)
    async def echo(data: bytes, text: str) -> tuple[bytes, str]:
        return data, text

    data, text = bytes(range(256)) * 4_096, "ü" * 500_000
    async with working(redis_url, echo):
        assert await (await echo.delay(data, text)).result(timeout=10) == (data, text)


async def test_a_queue_of_another_type_is_reported_once_and_the_others_are_served(
    redis_url: str,
    redis: RedisClient,
    client: JobClient,
    queue: str,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong = f"{prefix}wrong"
    await redis.execute("RPUSH", wrong, "x")
    async with working(redis_url, fine, options=_on(queue, wrong)):
        job = await client.enqueue(JobRequest[Any](fine.name, (3,), queue=queue))
        assert await job.result(timeout=5) == 3
    assert caplog.text.count("is not a sorted set") == 1
    await redis.execute("DEL", wrong)


async def test_a_result_that_somebody_else_wrote_is_an_error_and_not_a_crash(
    valkey: RedisClient, valkey_client: JobClient, prefix: str
) -> None:
    for at, junk in enumerate((b"", b"junk", b"{}", b'{"s": true}')):
        await valkey.execute("SET", f"arq:result:{prefix}{at}", junk, "EX", 60)
        with pytest.raises(DecodeError):
            await valkey_client.handle(f"{prefix}{at}").result(timeout=1)
    foreign = {"t": 1, "f": "f", "a": [], "k": {}, "et": 1, "s": False, "st": 1, "ft": 1, "r": "it broke"}
    await valkey.execute("SET", f"arq:result:{prefix}x", msgspec.json.encode(foreign), "EX", 60)
    with pytest.raises(JobFailed, match="it broke"):
        await valkey_client.handle(f"{prefix}x").result(timeout=1)
    await valkey.execute("SET", f"aioinfra:progress:{prefix}x", b"junk", "EX", 60)
    with pytest.raises(DecodeError):
        await valkey_client.handle(f"{prefix}x").progress()


async def test_arguments_results_and_urls_stay_out_of_logs_and_texts(
    valkey_url: str, valkey_client: JobClient, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    @task(queue=queue, retry=Backoff(tries=2, base=0))
    async def pay(card: str) -> str:
        if card.endswith("0"):
            raise ValueError("refused")
        return f"paid {card}"

    async with working(valkey_url, pay):
        good, bad = await pay.delay("hunter2-1"), await pay.delay("hunter2-0")
        assert await good.result(timeout=5) == "paid hunter2-1"
        with pytest.raises(JobFailed):
            await bad.result(timeout=5)
        assert "hunter2" not in repr([good, bad, pay, pay.task_options])
    assert "hunter2" not in caplog.text
    assert "job started" in caplog.text


@pytest.mark.parametrize("channel", ["__redis__:invalidate", "somebody", "aioinfra:reply:ours"])
async def test_a_payload_cannot_make_its_worker_publish_anywhere(
    valkey_url: str, valkey: RedisClient, valkey_client: JobClient, queue: str, channel: str
) -> None:
    listener = valkey.raw.pubsub()
    await listener.subscribe(channel)
    await listener.get_message(timeout=1.0)
    await put(valkey, queue, f"{queue}:1", job(h={"reply": channel}))
    await run_burst(valkey_url, fine, options=_on(queue))
    message = await listener.get_message(timeout=0.1)
    assert (message is not None) == channel.startswith("aioinfra:reply:")
    await listener.aclose()  # type: ignore[no-untyped-call]  # redis-py has no hints there


def test_the_codec_reads_what_arqs_json_producers_write_and_more() -> None:
    codec = JsonCodec()
    decoded = codec.decode_job(job(a=[1, {"x": [None]}], k={"b": 2**80}, t=3, h={"request_id": "r"}, extra=1))
    assert decoded[:5] == (fine.name, (1, {"x": [None]}), {"b": 2**80}, 1_700_000_000_000, 3)
    assert decoded.headers == {"request_id": "r"}


async def test_a_value_nested_as_deep_as_the_encoder_goes_passes(
    valkey_url: str, valkey_client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def echo(value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    deep: Any = None
    for _ in range(400):
        deep = [deep]
    async with working(valkey_url, echo):
        assert await (await echo.delay(deep)).result(timeout=5) == deep


def _on(*queues: str, **more: Any) -> Any:
    from aioinfra.jobs.claim import QueueOptions

    return engine(queues=QueueOptions(dict.fromkeys(queues, 1)), **more)


async def test_a_job_that_cancels_itself_fails_once(
    redis_url: str, redis: RedisClient, client: JobClient, queue: str
) -> None:
    runs = 0

    @task(queue=queue)
    async def cancel_me() -> None:
        nonlocal runs
        runs += 1
        me = asyncio.current_task()
        assert me is not None
        me.cancel()
        await asyncio.sleep(60)

    await cancel_me.delay()
    await run_burst(redis_url, cancel_me)
    assert runs == 1
    assert (await only_letter(client, queue)).reason == "failed"
