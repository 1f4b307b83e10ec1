"""What a producer is told after each sequence of answers. The store here is a script of answers; the real one's
faults are in test_outage.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import pytest

from aioinfra.connection.batch import DEFAULT_LIMITS, BatchLimits
from aioinfra.connection.translate import ReplyError
from aioinfra.errors import (
    DeadlineExceeded,
    EncodeError,
    EnqueueUncertain,
    InvalidArgument,
    Overloaded,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    WrongType,
)
from aioinfra.jobs.enqueue import ClientOptions, Enqueuer
from aioinfra.jobs.job import JobRequest, StoredRequest
from aioinfra.jobs.observer import SilentObserver
from aioinfra.jobs.payload import JsonCodec
from aioinfra.jobs.store import Added, JobStore
from tests.fair_time import fair_time

LOST = StoreUnavailable("the connection was lost")
REFUSED = StoreUnavailable("not connected", sent=False)


class Answers:
    """Gives one answer a call, and the last one for ever; remembers how it was asked."""

    def __init__(self, *answers: Added | Exception) -> None:
        self.answers = list(answers)
        self.repeated: list[bool] = []

    async def add(self, requests: Sequence[StoredRequest], *, repeated: bool, deadline: float) -> list[Added]:
        assert 0 < deadline <= 0.3
        self.repeated.append(repeated)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return [answer] * len(requests)


def enqueuer(store: Answers, batch: BatchLimits = DEFAULT_LIMITS) -> Enqueuer:
    return Enqueuer(
        cast("JobStore", store),
        JsonCodec(),
        ClientOptions(timeout=0.3, batch=batch),
        observer=SilentObserver(),
        channel="c",
    )


def created(_: JobRequest[Any], __: StoredRequest, new: bool) -> bool:
    """What a bulk is to make of each job."""
    return new


@pytest.mark.parametrize(
    ("answers", "new", "repeated"),
    [
        ([Added.STORED], True, [False]),
        ([Added.TAKEN], False, [False]),
        ([LOST, Added.FOUND], True, [False, True]),
        ([LOST, Added.STORED], True, [False, True]),
        ([LOST, Added.TAKEN], False, [False, True]),
        ([REFUSED, Added.STORED], True, [False, False]),
        ([REFUSED, LOST, REFUSED, Added.FOUND], True, [False, False, True, True]),
    ],
)
async def test_repeats_until_there_is_an_answer(
    answers: list[Added | Exception], new: bool, repeated: list[bool]
) -> None:
    store = Answers(*answers)
    _, answer = await enqueuer(store).one(JobRequest[Any]("t", job_id="chosen"))
    assert (answer, store.repeated) == (new, repeated)


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([REFUSED], StoreUnavailable),  # never sent: certainly not stored
        ([LOST], EnqueueUncertain),
        ([DeadlineExceeded("no answer", sent=True)], EnqueueUncertain),
        ([DeadlineExceeded("no connection", sent=False)], StoreUnavailable),
        ([LOST, REFUSED], EnqueueUncertain),
        ([StoreFull("OOM")], StoreFull),
        ([StoreDenied("NOPERM")], StoreDenied),
        ([REFUSED, StoreFull("OOM")], StoreFull),
        ([LOST, StoreFull("OOM")], EnqueueUncertain),  # the first attempt may have been stored
        ([LOST, StoreDenied("NOAUTH")], EnqueueUncertain),
        ([ReplyError("ERR")], EnqueueUncertain),  # a script that broke half-way
        ([StoreError("odd")], EnqueueUncertain),
        ([Added.WRONG_TYPE], WrongType),
        ([LOST, Added.UNKNOWN], EnqueueUncertain),
    ],
)
async def test_an_error_says_what_is_known(answers: list[Added | Exception], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        await enqueuer(Answers(*answers)).one(JobRequest[Any]("t", job_id="chosen"))
    assert type(caught.value) in (error, DeadlineExceeded if error is StoreUnavailable else error)
    if isinstance(caught.value, EnqueueUncertain):
        assert caught.value.job_id == "chosen"
    if isinstance(caught.value, StoreUnavailable):
        assert not caught.value.sent


async def test_a_bulk_tells_of_uncertain_jobs_before_refused_ones() -> None:
    class Mixed(Answers):
        async def add(
            self, requests: Sequence[StoredRequest], *, repeated: bool, deadline: float
        ) -> list[Added]:
            return [Added.UNKNOWN if entry.job_id.startswith("u") else Added.WRONG_TYPE for entry in requests]

    requests = [JobRequest[Any]("t", job_id=name) for name in ("a", "u1", "b", "u2")]
    with pytest.raises(EnqueueUncertain) as caught:
        await enqueuer(Mixed(Added.STORED)).many(requests, created)
    assert caught.value.job_ids == ("u1", "u2")
    with pytest.raises(WrongType):
        await enqueuer(Mixed(Added.STORED)).many(requests[:1], created)


async def test_a_cancelled_caller_takes_nobody_along() -> None:
    class Slow(Answers):
        async def add(
            self, requests: Sequence[StoredRequest], *, repeated: bool, deadline: float
        ) -> list[Added]:
            await asyncio.sleep(0.05)
            return [Added.STORED] * len(requests)

    jobs = enqueuer(Slow(Added.STORED))
    callers = [asyncio.create_task(jobs.one(JobRequest[Any]("t"))) for _ in range(3)]
    await asyncio.sleep(0.01)
    callers[1].cancel()
    ends = await asyncio.gather(*callers, return_exceptions=True)
    assert [isinstance(end, asyncio.CancelledError) for end in ends] == [False, True, False]
    await jobs.aclose()


class Hung(Answers):
    """Answers nothing until the caller's own deadline, as a server that hangs."""

    async def add(self, requests: Sequence[StoredRequest], *, repeated: bool, deadline: float) -> list[Added]:
        self.repeated.append(repeated)
        await asyncio.sleep(deadline)
        raise DeadlineExceeded("no answer")


async def test_whoever_waits_behind_a_hung_batch_is_told_in_its_own_time() -> None:
    jobs = enqueuer(Hung(Added.STORED), BatchLimits(max_items=10))
    started = fair_time()
    calls = [jobs.one(JobRequest[Any]("t", job_id=f"{number}")) for number in range(200)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert fair_time() - started < 0.6
    # What was in flight may be stored; what waited until its time was over is certainly not.
    assert [type(end) for end in ends[:10]] == [EnqueueUncertain] * 10
    assert sum(isinstance(end, StoreUnavailable) and not end.sent for end in ends) >= 100
    assert all(isinstance(end, StoreUnavailable | EnqueueUncertain) for end in ends)


async def test_a_job_that_is_said_not_to_be_stored_is_not_stored_later() -> None:
    class Back(Answers):
        """Refuses for longer than the first caller waits, then stores."""

        stored: ClassVar[list[str]] = []

        async def add(
            self, requests: Sequence[StoredRequest], *, repeated: bool, deadline: float
        ) -> list[Added]:
            if time.monotonic() < back:
                raise REFUSED
            Back.stored.extend([request.job_id for request in requests])
            return [Added.STORED] * len(requests)

    jobs = enqueuer(Back(Added.STORED))
    back = time.monotonic() + 0.35
    early = asyncio.create_task(jobs.one(JobRequest[Any]("t", job_id="early")))
    await asyncio.sleep(0.2)
    late = asyncio.create_task(jobs.one(JobRequest[Any]("t", job_id="late")))
    with pytest.raises(StoreUnavailable) as caught:
        await early
    assert not caught.value.sent
    assert (await late)[1]
    assert Back.stored == ["late"]


async def test_bulks_that_are_larger_than_the_room_wait_for_it_and_leave_some_to_others() -> None:
    class Slow(Answers):
        async def add(
            self, requests: Sequence[StoredRequest], *, repeated: bool, deadline: float
        ) -> list[Added]:
            await asyncio.sleep(0.001)
            return [Added.STORED] * len(requests)

    jobs = enqueuer(Slow(Added.STORED), BatchLimits(max_items=10, max_waiting=20))
    bulks = [asyncio.create_task(jobs.many([JobRequest[Any]("t")] * 100, created)) for _ in range(3)]
    await asyncio.sleep(0.005)
    singles = [asyncio.create_task(jobs.one(JobRequest[Any]("t"))) for _ in range(5)]
    assert [len(await bulk) for bulk in bulks] == [100] * 3
    assert all([(await single)[1] for single in singles])


async def test_a_bulk_that_fails_says_how_much_of_it_is_stored() -> None:
    class Full(Answers):
        async def add(
            self, requests: Sequence[StoredRequest], *, repeated: bool, deadline: float
        ) -> list[Added]:
            self.repeated.append(repeated)
            if len(self.repeated) > 3:
                raise StoreFull("OOM")
            return [Added.STORED] * len(requests)

    jobs = enqueuer(Full(Added.STORED), BatchLimits(max_items=10, max_waiting=20))
    with pytest.raises(
        StoreFull, match=r"OOM; 30 of 100 jobs are stored; the first that failed is requests\[30\]"
    ):
        await jobs.many([JobRequest[Any]("t")] * 100, created)


async def test_a_bulk_that_finds_no_room_in_time_says_how_much_of_it_is_stored() -> None:
    jobs = enqueuer(Hung(Added.STORED), BatchLimits(max_items=1, max_waiting=2))
    single = [asyncio.create_task(jobs.one(JobRequest[Any]("t"))) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises((Overloaded, StoreUnavailable, EnqueueUncertain), match="0 of 5 jobs are stored"):
        await jobs.many([JobRequest[Any]("t")] * 5, created)
    await asyncio.gather(*single, return_exceptions=True)


class SlowLink(Answers):
    """Takes its time for every byte; the batch must be answered within its deadline."""

    def __init__(self, bytes_a_second: float) -> None:
        super().__init__(Added.STORED)
        self.pace = bytes_a_second
        self.sent: list[int] = []

    async def add(self, requests: Sequence[StoredRequest], *, repeated: bool, deadline: float) -> list[Added]:
        self.sent.append(sum(len(request.payload) for request in requests))
        await asyncio.sleep(self.sent[-1] / self.pace)
        return await super().add(requests, repeated=repeated, deadline=deadline)


async def test_a_bulk_may_take_as_long_as_its_bytes_do() -> None:
    link = SlowLink(40e6)  # 4 MB take 0.1 s of a timeout of 0.3 s
    requests = [JobRequest[Any]("t", ("x" * 1_000_000,), queue="q") for _ in range(30)]
    bulk = enqueuer(link)
    began = time.monotonic()
    stored = await bulk.many(requests, created)
    assert stored == [True] * 30
    assert time.monotonic() - began > 2 * 0.3
    large = await bulk.many([JobRequest[Any]("t", ("x" * 5_000_000,), queue="q")], created)
    assert large == [True], "one that is larger than a part leaves alone"
    await bulk.aclose()


class Ordered(Answers):
    """Stores for a while, and remembers in which batches it was asked."""

    def __init__(self) -> None:
        super().__init__(Added.STORED)
        self.batches: list[list[str]] = []
        self.asked = asyncio.Event()

    async def add(self, requests: Sequence[StoredRequest], *, repeated: bool, deadline: float) -> list[Added]:
        self.batches.append([request.job_id for request in requests])
        self.asked.set()
        await asyncio.sleep(0.002)
        return [Added.STORED] * len(requests)


async def test_a_bulk_is_stored_in_order_and_a_batch_holds_no_more_jobs_than_it_may() -> None:
    store = Ordered()
    jobs = enqueuer(store, BatchLimits(max_items=10))
    names = [f"{number}" for number in range(95)]
    bulk = asyncio.create_task(jobs.many([JobRequest[Any]("t", job_id=name) for name in names], created))
    others = [asyncio.create_task(jobs.one(JobRequest[Any]("t", job_id=f"single-{at}"))) for at in range(25)]
    assert await bulk == [True] * 95
    await asyncio.gather(*others)
    assert max(map(len, store.batches)) == 10
    stored = [name for batch in store.batches for name in batch]
    assert [name for name in stored if not name.startswith("single")] == names
    assert len(stored) == 120


async def test_a_cancelled_bulk_sends_nothing_more() -> None:
    store = Ordered()
    jobs = enqueuer(store, BatchLimits(max_items=10))
    bulk = asyncio.create_task(jobs.many([JobRequest[Any]("t")] * 1_000, created))
    await store.asked.wait()
    bulk.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bulk
    await jobs.aclose()
    assert sum(map(len, store.batches)) <= 20


async def test_what_is_wrong_with_the_last_request_of_a_bulk_is_found_before_any_is_stored() -> None:
    store = Ordered()
    good = JobRequest[Any]("t", (1,))
    for wrong in (
        JobRequest[Any]("t", [1]),  # type: ignore[arg-type]  # that is the test
        JobRequest[Any]("t", (), {1: 1}),  # type: ignore[dict-item]  # that is the test
        JobRequest[Any]("t", priority=True),
        JobRequest[Any]("t", (object(),)),
        JobRequest[Any]("t", headers={"a": 1}),  # type: ignore[dict-item]  # that is the test
    ):
        with pytest.raises((InvalidArgument, EncodeError)):
            await enqueuer(store).many([good, good, wrong], created)
    assert store.batches == []


async def test_bulks_that_wait_for_room_take_turns() -> None:
    store = Ordered()
    jobs = enqueuer(store, BatchLimits(max_items=10, max_waiting=20))
    bulks = [
        asyncio.create_task(
            jobs.many([JobRequest[Any]("t", job_id=f"{name}-{at}") for at in range(50)], created)
        )
        for name in "abc"
    ]
    await asyncio.gather(*bulks)
    turns = [batch[0].partition("-")[0] for batch in store.batches]
    assert turns == ["a", "b", "c"] * 5
