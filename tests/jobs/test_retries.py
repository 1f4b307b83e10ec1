"""When a failed job runs again, and what is kept of it when it does not."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from aioinfra import task
from aioinfra.backoff import Backoff
from aioinfra.errors import InvalidArgument, JobFailed
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.context import JobContext
from aioinfra.jobs.job import Claim, Failed, Released, Retried, Run
from aioinfra.jobs.payload import JsonCodec
from aioinfra.jobs.retry import LONGEST_RETRY, Retry, RetryPolicy
from aioinfra.jobs.settle import settle
from tests.jobs.kit import Recorder, engine, working


class TransientError(Exception):
    pass


class FatalError(TransientError):
    pass


def test_bounds_grow_by_the_factor_up_to_the_cap() -> None:
    backoff = Backoff(tries=9, base=0.5, factor=3, cap=10)
    assert [backoff.bound(attempt) for attempt in range(1, 6)] == [0.5, 1.5, 4.5, 10, 10]
    assert Backoff(base=1, factor=10, cap=300).bound(100_000) == 300  # no overflow
    assert (
        Backoff(base=10**300, factor=10**300, cap=300).bound(1_000_000) == 300
    )  # nor hours of multiplication


def test_full_jitter_fills_the_whole_range_and_nothing_beyond() -> None:
    backoff = Backoff(base=2, factor=2, cap=100)
    draw = random.Random(7).random
    for attempt in range(1, 8):
        delays = sorted(backoff.delay(attempt, draw=draw) for _ in range(2_000))
        bound = backoff.bound(attempt)
        assert 0 <= delays[0] < 0.01 * bound
        assert 0.99 * bound < delays[-1] < bound
        assert 0.45 * bound < delays[1_000] < 0.55 * bound


def test_without_jitter_the_delay_is_the_bound() -> None:
    assert Backoff(base=2, jitter=False).delay(3) == 8


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Backoff(tries=0), "tries"),
        (lambda: Backoff(tries=True), "tries"),
        (lambda: Backoff(base=-1), "base"),
        (lambda: Backoff(factor=0.5), "factor"),
        (lambda: Backoff(cap=float("nan")), "cap"),
        (lambda: Backoff(base=10**400), "base"),
        (lambda: Backoff(factor=10**400), "factor"),
        (lambda: Backoff(cap=10**400), "cap"),
        (lambda: Retry(-1), "delay"),
        (lambda: Retry(float("inf")), "delay"),
        (lambda: RetryPolicy(retry_on=ValueError), "retry_on"),  # type: ignore[arg-type]  # that is the test
        (lambda: RetryPolicy(dont_retry_on=("x",)), "dont_retry_on"),  # type: ignore[arg-type]  # that is the test
    ],
)
def test_wrong_options_are_named(make: Callable[[], object], argument: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make()
    assert caught.value.argument == argument


class TestJudge:
    policy = RetryPolicy(Backoff(tries=3, base=4, jitter=False), (TransientError,), (FatalError,))

    def test_a_covered_error_is_tried_again_while_there_are_tries(self) -> None:
        error = TransientError()
        assert self.policy.judge(error, 1) == Retried(4, error)
        assert self.policy.judge(error, 2) == Retried(8, error)
        assert self.policy.judge(error, 3) == Failed(error, reason="exhausted")

    @pytest.mark.parametrize("error", [FatalError(), ValueError(), KeyboardInterrupt()])
    def test_other_errors_and_exceptions_to_the_rule_are_final(self, error: BaseException) -> None:
        assert self.policy.judge(error, 1) == Failed(error, reason="failed")
        assert self.policy.judge(error, 3) == Failed(error, reason="failed")

    def test_a_raised_retry_is_granted_with_its_own_delay_or_the_policys(self) -> None:
        assert self.policy.judge(Retry(60), 1) == Retried(60)
        assert self.policy.judge(Retry(), 2) == Retried(8)

    def test_without_tries_left_the_cause_of_the_retry_is_what_is_kept(self) -> None:
        cause, asked = ValueError("the real one"), Retry()
        asked.__cause__ = cause  # as `raise Retry() from error` does
        assert self.policy.judge(asked, 3) == Failed(cause, reason="exhausted")
        bare = Retry()
        assert self.policy.judge(bare, 3) == Failed(bare, reason="exhausted")


async def test_a_job_succeeds_at_a_later_try(redis_url: str, client: JobClient, queue: str) -> None:
    attempts: list[tuple[int, int, float]] = []
    seen = Recorder()

    @task(queue=queue, retry=Backoff(tries=5, base=0.1, jitter=False, cap=0.2), retry_on=(TransientError,))
    async def third_time(ctx: JobContext) -> int:
        attempts.append((ctx.attempt, ctx.stalls, time.monotonic()))
        if ctx.attempt < 3:
            raise TransientError
        return ctx.attempt

    async with working(redis_url, third_time, options=engine(observer=seen)):
        assert await (await third_time.delay()).result(timeout=5) == 3
    assert [attempt[:2] for attempt in attempts] == [(1, 0), (2, 0), (3, 0)]
    pauses = [later[2] - earlier[2] for earlier, later in itertools.pairwise(attempts)]
    for pause, bound in zip(pauses, (0.1, 0.2), strict=True):
        assert bound - 0.005 <= pause < bound + 0.15
    assert seen.outcomes == {"retried": 2, "succeeded": 1}


async def test_the_last_try_keeps_the_original_error_in_result_and_dead_letter(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue, retry=Backoff(tries=2, base=0))
    async def always(ctx: JobContext, secret: str) -> None:
        raise TransientError(f"attempt {ctx.attempt}")

    async with working(redis_url, always):
        job = await always.delay("hunter2")
        with pytest.raises(JobFailed, match="attempt 2") as caught:
            await job.result(timeout=5)
    assert caught.value.error_type.endswith("TransientError")
    [letter] = await client.dead_letters(queue)
    assert (letter.job_id, letter.task, letter.reason) == (job.id, always.name, "exhausted")
    assert (letter.attempt, letter.stalls) == (2, 0)
    assert letter.error.message == "attempt 2"
    file, line, function = letter.error.traceback[-1]
    assert (file, function) == (__file__, "always")
    assert line > 0
    assert b"hunter2" in letter.payload  # whole, so that it can be run again
    assert abs(letter.died_at - time.time()) < 10


async def test_errors_that_are_not_retried_end_the_job_at_once(
    redis_url: str, client: JobClient, queue: str
) -> None:
    ran: list[str] = []

    @task(queue=queue, retry=Backoff(tries=5, base=0), dont_retry_on=(FatalError,))
    async def refuses() -> None:
        ran.append("refuses")
        raise FatalError

    @task(queue=queue)
    async def no_policy() -> None:
        ran.append("no_policy")
        raise TransientError

    async with working(redis_url, refuses, no_policy):
        for failing in (refuses, no_policy):
            with pytest.raises(JobFailed):
                await (await failing.delay()).result(timeout=5)
    assert ran == ["refuses", "no_policy"]
    assert {letter.reason for letter in await client.dead_letters(queue)} == {"failed"}


async def test_a_raised_retry_waits_as_long_as_it_says(redis_url: str, client: JobClient, queue: str) -> None:
    started: list[float] = []

    @task(queue=queue)
    async def later(ctx: JobContext) -> int:
        started.append(time.time())
        if ctx.attempt == 1:
            raise Retry(0.3)
        return ctx.attempt

    async with working(redis_url, later, options=engine(safety_poll=30.0)):  # a timer wakes the worker
        assert await (await later.delay()).result(timeout=5) == 2
    assert 0.29 <= started[1] - started[0] < 2


async def test_a_policy_that_breaks_fails_the_job_instead_of_losing_it(
    redis_url: str, client: JobClient, queue: str
) -> None:
    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            raise RuntimeError("cannot tell")

    class Odd(Exception, metaclass=Meta):
        pass

    @task(queue=queue, retry=Backoff(base=0), retry_on=(Odd,))
    async def fails() -> None:
        raise TransientError

    async with working(redis_url, fails):
        with pytest.raises(JobFailed, match="RuntimeError: cannot tell"):
            await (await fails.delay()).result(timeout=5)


@pytest.mark.parametrize("delay", [1e300, 10**400, float("nan"), -1, "x", []])
async def test_a_delay_that_was_spoilt_after_the_retry_was_made_fails_the_job_and_says_why(
    redis_url: str, client: JobClient, queue: str, delay: Any
) -> None:
    @task(queue=queue, retry=Backoff(tries=3, base=0))
    async def spoil() -> None:
        retry = Retry(1)
        retry.delay = delay
        raise retry

    async with working(redis_url, spoil):
        with pytest.raises(JobFailed, match="InvalidArgument: delay"):
            await (await spoil.delay()).result(timeout=5)


@pytest.mark.parametrize("delay", [1e300, 10**400, float("nan"), -1, "x", []])
def test_no_policy_can_give_the_store_a_time_that_it_cannot_hold(delay: Any) -> None:
    claim = Claim("q", "j", 1, 1, 0, False, "t", b"", 1)
    for outcome in (Retried(delay), Released(delay)):
        finish, _ = settle(Run(claim), outcome, None, JsonCodec())
        assert 0 <= finish.number <= 1 + LONGEST_RETRY * 1000
