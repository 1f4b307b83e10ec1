"""Which queue a worker serves next: weights, strict order, limits."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from aioinfra import task
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.claim import QueueOptions, WeightedShares
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest
from tests.jobs.kit import Recorder, engine, run_burst, until, working

WEIGHTS = {"email": 3, "reports": 5, "analytics": 2, "cleanup": 1}


@task(name="tests.idle")
async def idle() -> None:
    """A job that does nothing."""


def requests(queue: str, count: int) -> list[JobRequest[None]]:
    return [JobRequest(idle.name, queue=queue) for _ in range(count)]


@pytest.mark.parametrize("free", [1, 3, 10, 100])
def test_shares_meet_the_weights_exactly_over_whole_rounds(free: int) -> None:
    shares = WeightedShares(QueueOptions(WEIGHTS))
    total: Counter[str] = Counter()
    for _ in range(110):
        turn = shares.of(free, {})
        assert [share.queue for share in turn] == ["reports", "email", "analytics", "cleanup"]
        assert sum(share.share for share in turn) == free
        total.update({share.queue: share.share for share in turn})
    assert total == {queue: weight * free * 10 for queue, weight in WEIGHTS.items()}


def test_limits_bound_a_queue_by_what_runs_of_it() -> None:
    shares = WeightedShares(QueueOptions(WEIGHTS, limits={"reports": 4}))
    [reports, email, *_] = shares.of(100, {"reports": 3, "email": 50})
    assert (reports.share, reports.limit) == (1, 1)
    assert email.limit == 100
    [reports, *_] = shares.of(100, {"reports": 7})
    assert reports.limit == 0


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"weights": {}}, "weights"),
        ({"weights": {"": 1}}, "weights"),
        ({"weights": {"\ud800": 1}}, "weights"),
        ({"weights": {"a": 0}}, "weights"),
        ({"weights": {"a": True}}, "weights"),
        ({"weights": {"a": 1}, "limits": {"b": 1}}, "limits"),
        ({"weights": {"a": 1}, "limits": {"a": 0}}, "limits"),
    ],
)
def test_wrong_options_are_named(options: dict[str, dict[str, int]], argument: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        QueueOptions(**options)  # type: ignore[arg-type]  # that is the test
    assert caught.value.argument == argument


@pytest.mark.parametrize("concurrency", [1, 7, 100])
async def test_under_backlog_1100_starts_follow_the_weights(
    valkey_url: str, valkey_client: JobClient, prefix: str, concurrency: int
) -> None:
    seen = Recorder()
    weights = {f"{prefix}{queue}": weight for queue, weight in WEIGHTS.items()}
    for queue in weights:
        await valkey_client.enqueue_many(requests(queue, 700))
    options = engine(queues=QueueOptions(weights), observer=seen)
    async with working(valkey_url, idle, options=options, concurrency=concurrency):
        await until(lambda: len(seen.starts) >= 1_100, timeout=20)
        starts = Counter(seen.starts[:1_100])
    for queue, weight in weights.items():
        assert starts[queue] == pytest.approx(weight * 100, rel=0.1)


async def test_strict_order_serves_a_queue_only_when_more_urgent_ones_are_empty(
    redis_url: str, client: JobClient, prefix: str
) -> None:
    seen = Recorder()
    weights = {f"{prefix}low": 1, f"{prefix}high": 2}
    for queue in weights:
        await client.enqueue_many(requests(queue, 150))
    await run_burst(
        redis_url, idle, concurrency=10,
        options=engine(queues=QueueOptions(weights, strict=True), observer=seen),
    )  # fmt: skip
    assert seen.starts == [f"{prefix}high"] * 150 + [f"{prefix}low"] * 150


async def test_an_empty_queues_share_goes_to_the_others(
    redis_url: str, client: JobClient, prefix: str
) -> None:
    seen = Recorder()
    weights = {f"{prefix}busy": 1, f"{prefix}empty": 99}
    await client.enqueue_many(requests(f"{prefix}busy", 200))
    await run_burst(
        redis_url, idle, concurrency=10, options=engine(queues=QueueOptions(weights), observer=seen)
    )
    assert len(seen.starts) == 200


async def test_a_queue_never_exceeds_its_limit_while_others_go_on(
    redis_url: str, client: JobClient, prefix: str
) -> None:
    narrow, wide = f"{prefix}narrow", f"{prefix}wide"
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()

    @task
    async def work(queue: str) -> None:
        now[queue] += 1
        most[queue] = max(most[queue], now[queue])
        await asyncio.sleep(0.01)
        now[queue] -= 1

    for queue in (narrow, wide):
        await client.enqueue_many([JobRequest(work.name, (queue,), queue=queue) for _ in range(40)])
    queues = QueueOptions({narrow: 5, wide: 1}, limits={narrow: 2})
    await run_burst(redis_url, work, concurrency=12, options=engine(queues=queues))
    assert most[narrow] == 2
    assert most[wide] >= 10


async def test_jobs_of_one_queue_and_due_time_run_in_the_order_of_their_enqueue(
    redis_url: str, client: JobClient, queue: str
) -> None:
    order: list[int] = []

    @task(queue=queue)
    async def note(number: int) -> None:
        order.append(number)

    for number in range(20):
        await note.delay(number)
        await asyncio.sleep(0.002)  # the due time's resolution is a millisecond
    await run_burst(redis_url, note, concurrency=3)
    assert order == list(range(20))
