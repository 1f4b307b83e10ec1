"""What a producer may not ask for: refused before any I/O, by the name of the argument."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aioinfra import task
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import EncodeError, InvalidArgument, StoreUnavailable
from aioinfra.jobs.client import ClientOptions, JobClient, default_client
from aioinfra.jobs.job import JobRequest
from aioinfra.jobs.retry import Retry
from tests.jobs.kit import working

NAN, INF, HUGE = float("nan"), float("inf"), 10**400


@pytest.fixture
async def nowhere() -> AsyncIterator[JobClient]:
    """A client without a server: whatever it refuses, it refuses before any I/O."""
    async with RedisClient("unix:///nowhere/at/all?db=0") as redis:
        client = JobClient(redis, options=ClientOptions(timeout=0.1))
        default_client.install(client)
        yield client
        default_client.withdraw(client)
        await client.aclose()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("task", [None, "", 5, b"t", "a\nb", "\ud800", "x" * 513]),
        ("args", [None, 5, "abc", [1], {1: 2}]),
        ("kwargs", [None, 5, "abc", ["a"], {1: 2}, {None: 1}]),
        ("queue", ["", 5, b"q", True, "a\0b", "\ud800"]),
        ("job_id", ["", 5, b"q", True, "a\nb", "x" * 513]),
        ("delay", [-1, NAN, INF, HUGE, True, "1"]),
        ("at", [-1, NAN, INF, HUGE, True, "1"]),
        ("expires", [-1, 0, NAN, INF, HUGE, True, "1"]),
        ("priority", [None, -1, 101, 1.0, True, "1"]),
        ("headers", [None, 5, "abc", ["a"], {1: "x"}, {"x": 1}, {"x": None}]),
    ],
)
async def test_a_request_with_a_wrong_field_is_refused_by_its_name(
    nowhere: JobClient, field: str, values: list[Any]
) -> None:
    for value in values:
        with pytest.raises(InvalidArgument) as refused:
            await nowhere.enqueue(JobRequest[Any](**{"task": "t", field: value}))
        assert refused.value.argument == field, value
        with pytest.raises(InvalidArgument):
            await nowhere.enqueue_many([JobRequest[Any]("t"), JobRequest[Any](**{"task": "t", field: value})])


async def test_what_is_no_request_is_refused(nowhere: JobClient) -> None:
    for wrong in (None, 5, "t", {"task": "t"}):
        with pytest.raises(InvalidArgument, match="request: "):
            await nowhere.enqueue(wrong)  # type: ignore[arg-type]  # that is the test
        with pytest.raises(InvalidArgument, match="request"):
            await nowhere.enqueue_many(wrong)  # type: ignore[arg-type]  # that is the test
        with pytest.raises(InvalidArgument, match="request: "):
            await nowhere.enqueue_many([wrong])  # type: ignore[arg-type]  # that is the test


async def test_what_is_no_id_or_queue_is_refused(nowhere: JobClient) -> None:
    for wrong in (None, 5, "", b"x", True, "\ud800"):
        with pytest.raises(InvalidArgument, match="job_id"):
            nowhere.handle(wrong)  # type: ignore[arg-type]  # that is the test
        with pytest.raises(InvalidArgument, match="queue"):
            await nowhere.dead_letters(wrong)  # type: ignore[arg-type]  # that is the test
        with pytest.raises(InvalidArgument, match="queue"):
            await nowhere.depths([wrong])  # type: ignore[list-item]  # that is the test
    with pytest.raises(InvalidArgument, match="queues"):
        await nowhere.depths("email")
    assert nowhere.handle("\udcff").id == "\udcff"  # an id that is not UTF-8, as it is shown
    for timeout in (-1, NAN, INF, HUGE, True, "1"):
        with pytest.raises(InvalidArgument, match="timeout"):
            await nowhere.handle("x").result(timeout)  # type: ignore[arg-type]  # that is the test


def test_a_retry_is_bounded() -> None:
    for delay in (-1, NAN, INF, 1e300, HUGE, 367 * 86_400, True, "1"):
        with pytest.raises(InvalidArgument, match="delay"):
            Retry(delay)  # type: ignore[arg-type]  # that is the test
    assert Retry().delay is None
    assert Retry(86_400).delay == 86_400


def test_wrong_errors_to_retry_are_refused_also_without_a_retry() -> None:
    for wrong in ([OSError], OSError, (5,), "OSError", None):
        with pytest.raises(InvalidArgument, match="retry_on"):
            task(retry_on=wrong)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize(
    "value",
    [{1: 2}, [{"a": ({2.5: 1},)}], {uuid.UUID(int=1): 1}, {1: "a", "1": "b"}],
)
async def test_keys_that_would_become_text_are_refused(nowhere: JobClient, value: Any) -> None:
    @task
    async def unannotated(value: Any, more: Any = None) -> None: ...

    @task
    async def bare(value: dict) -> None: ...  # type: ignore[type-arg]  # that is the test

    with pytest.raises(EncodeError, match=r"value: .*keys"):
        await unannotated.delay(value)
    with pytest.raises(EncodeError, match=r"more: .*keys"):
        await unannotated.delay(1, more=value)
    if isinstance(value, dict):
        with pytest.raises(EncodeError, match=r"value: .*keys"):
            await bare.delay(value)
    with pytest.raises(EncodeError, match=r"args\[0\]: .*keys"):
        await nowhere.enqueue(JobRequest[Any]("t", (value,)))
    with pytest.raises(EncodeError, match=r"named: .*keys"):
        await nowhere.enqueue(JobRequest[Any]("t", (), {"named": value}))


async def test_keys_that_the_annotation_restores_are_kept(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def show(by_number: dict[int, dict[float, str]], *more: dict[int, int]) -> str:
        return f"{by_number} {more}"

    async with working(redis_url, show):
        job = await show.delay({1: {2.5: "x"}}, {3: 4})
        assert await job.result(timeout=5) == "{1: {2.5: 'x'}} ({3: 4},)"


async def test_numbers_beyond_what_text_may_hold_are_refused(nowhere: JobClient) -> None:
    with pytest.raises(EncodeError, match=r"args\[0\]"):
        await nowhere.enqueue(JobRequest[Any]("t", (10**5000,)))
    with pytest.raises(EncodeError, match=r"args\[1\]"):
        await nowhere.enqueue(JobRequest[Any]("t", (1, [-(10**5000)])))


async def test_what_is_nested_too_deeply_or_does_not_fit_its_annotation_is_refused(
    nowhere: JobClient,
) -> None:
    @task
    async def show(by_number: dict[int, int]) -> None: ...

    with pytest.raises(EncodeError, match=r"by_number: "):
        await show.delay({1.5: 2})  # type: ignore[dict-item]  # that is the test
    for depth in (100, 400, 600, 900, 5_000):
        deep: list[Any] = []
        for _ in range(depth):
            deep = [deep]
        with pytest.raises((EncodeError, StoreUnavailable)) as caught:
            await nowhere.enqueue(JobRequest[Any]("t", (deep,)))
        assert isinstance(caught.value, EncodeError) or depth < 1_000
