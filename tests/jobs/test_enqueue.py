"""What a producer is told after each sequence of answers. The store here is a script of answers; the real one's
faults are in test_outage.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from aioinfra.connection.translate import ReplyError
from aioinfra.errors import (
    DeadlineExceeded,
    EnqueueUncertain,
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


def enqueuer(store: Answers) -> Enqueuer:
    return Enqueuer(
        cast("JobStore", store),
        JsonCodec(),
        ClientOptions(timeout=0.3),
        observer=SilentObserver(),
        channel="c",
    )


@pytest.mark.parametrize(
    ("answers", "created", "repeated"),
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
    answers: list[Added | Exception], created: bool, repeated: list[bool]
) -> None:
    store = Answers(*answers)
    _, new = await enqueuer(store).one(JobRequest[Any]("t", job_id="chosen"))
    assert (new, store.repeated) == (created, repeated)


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
    assert type(caught.value) is error
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
        await enqueuer(Mixed(Added.STORED)).many(requests)
    assert caught.value.job_ids == ("u1", "u2")
    with pytest.raises(WrongType):
        await enqueuer(Mixed(Added.STORED)).many(requests[:1])


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
