"""Cancelling at each suspension: every await is met at both moments, and what goes wrong is told."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from contextlib import suppress

import pytest

from aioinfra.errors import InvalidArgument
from aioinfra.testing import CancelledRun, CancelOutcome, Moment, cancel_at_each_suspension


async def turns(count: int) -> str:
    for _ in range(count):
        await asyncio.sleep(0)
    return "through"


async def ready_soon() -> str:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()
    timer = loop.call_later(0, future.set_result, "value")
    try:
        return await future
    finally:
        timer.cancel()


async def test_each_suspension_is_met_once_and_the_last_run_gets_through() -> None:
    report = await cancel_at_each_suspension(lambda: turns(4))
    assert [run.suspension for run in report.runs] == [1, 2, 3, 4]
    assert (report.suspensions, report.result, report.findings) == (4, "through", ())


async def test_a_coroutine_without_suspensions_is_run_once() -> None:
    report = await cancel_at_each_suspension(lambda: turns(0))
    assert (report.runs, report.suspensions, report.result) == ((), 0, "through")


async def test_nested_awaits_count_and_say_where_they_are() -> None:
    async def inner() -> None:
        await ready_soon()
        await asyncio.sleep(0)

    async def outer() -> None:
        await inner()
        await asyncio.gather(ready_soon())

    report = await cancel_at_each_suspension(outer)
    assert [(run.suspension, run.moment) for run in report.runs] == [
        (1, Moment.WAITING),
        (1, Moment.READY),
        (2, Moment.WAITING),  # a sleep(0) waits for nothing: it has one moment
        (3, Moment.WAITING),
        (3, Moment.READY),
    ]
    assert not report.findings
    stack = report.runs[0].stack
    assert [line.rpartition(".")[2].rpartition(" ")[2] for line in stack] == ["outer", "inner", "ready_soon"]
    assert all(line.startswith("test_cancellation.py:") for line in stack)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="mended in Python 3.12")
async def test_the_wait_for_of_python_3_11_is_found_out() -> None:
    """It returns the value of what had just finished and forgets that it was cancelled."""
    report = await cancel_at_each_suspension(lambda: asyncio.wait_for(ready_soon(), 5))
    assert [(run.moment, run.outcome) for run in report.findings] == [(Moment.READY, CancelOutcome.SWALLOWED)]


class NaiveLock:
    """Hands itself over to a waiter, who may have been cancelled meanwhile: the bug of many a lock."""

    def __init__(self) -> None:
        self.locked = False
        self.waiters: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        if self.locked:
            waiter = asyncio.get_running_loop().create_future()
            self.waiters.append(waiter)
            await waiter
        self.locked = True

    def release(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return  # still locked, now by the waiter
        self.locked = False


async def _lock_rehearsal(moments: tuple[Moment, ...]) -> None:
    lock = NaiveLock()

    async def use() -> None:
        lock.locked = True
        asyncio.get_running_loop().call_soon(lock.release)
        await lock.acquire()
        lock.release()

    def check(run: CancelledRun) -> None:
        assert not lock.locked, "leaked"

    async def settled(run: CancelledRun) -> None:
        await asyncio.sleep(0)
        check(run)

    await cancel_at_each_suspension(use, settled, moments=moments)


async def test_a_lock_that_leaks_only_when_it_was_just_handed_over_is_found() -> None:
    await _lock_rehearsal((Moment.WAITING,))  # not found at this moment
    with pytest.raises(AssertionError, match="leaked") as caught:
        await _lock_rehearsal((Moment.WAITING, Moment.READY))
    [note] = caught.value.__notes__
    assert note.startswith("after suspension 1 (ready) at test_cancellation.py:")
    assert "NaiveLock.acquire: cancelled" in note


async def test_asyncio_s_own_lock_does_not_leak() -> None:
    lock = asyncio.Lock()

    async def use() -> None:
        await lock.acquire()
        asyncio.get_running_loop().call_soon(lock.release)
        async with lock:
            await asyncio.sleep(0)

    async def check(run: CancelledRun) -> None:
        await asyncio.sleep(0)
        assert not lock.locked()

    report = await cancel_at_each_suspension(use, check)
    assert report.suspensions == 2
    assert not report.findings


async def test_a_swallowed_cancellation_is_a_finding() -> None:
    async def deaf() -> str:
        with suppress(asyncio.CancelledError):
            await ready_soon()
        await asyncio.sleep(0)
        return "as if nothing had happened"

    report = await cancel_at_each_suspension(deaf)
    assert [(run.suspension, run.moment, run.outcome) for run in report.findings] == [
        (1, Moment.WAITING, CancelOutcome.SWALLOWED),
        (1, Moment.READY, CancelOutcome.SWALLOWED),
    ]


async def test_a_cancellation_turned_into_an_error_is_a_finding() -> None:
    async def translates() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise ConnectionError("lost") from None

    report = await cancel_at_each_suspension(translates)
    [finding] = report.findings
    assert finding.outcome is CancelOutcome.RAISED
    assert isinstance(finding.error, ConnectionError)


async def test_a_run_that_goes_on_for_ever_is_a_finding_and_is_ended() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await asyncio.sleep(3600)

    report = await cancel_at_each_suspension(stubborn, timeout=0.05)
    assert [run.outcome for run in report.findings] == [CancelOutcome.HUNG]


async def test_a_run_that_cannot_be_ended_is_an_error() -> None:
    over = asyncio.Event()

    async def undead() -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    with pytest.raises(TimeoutError, match="suspension 1"):
        await cancel_at_each_suspension(undead, timeout=0.05)
    over.set()
    await asyncio.sleep(0)


async def test_shielded_work_goes_on_and_is_named() -> None:
    finished: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        finished.append(1)

    async def shielded() -> None:
        await asyncio.shield(asyncio.create_task(work(), name="release"))

    async def check(run: CancelledRun) -> None:
        if run.moment is Moment.WAITING:
            assert run.tasks_left == ("release",)
            await asyncio.sleep(0.03)
        else:
            assert run.tasks_left == ()
        assert len(finished) == run.suspension + (run.moment is Moment.READY)

    report = await cancel_at_each_suspension(shielded, check)
    assert report.suspensions == 1
    assert not report.findings


async def test_a_timeout_scope_takes_the_cancellation_for_what_it_is() -> None:
    async def bounded() -> None:
        async with asyncio.timeout(5):
            await ready_soon()

    assert not (await cancel_at_each_suspension(bounded)).findings


async def test_failures_that_are_no_cancellation_are_raised() -> None:
    async def broken() -> None:
        raise ValueError("by itself")

    with pytest.raises(ValueError, match="by itself"):
        await cancel_at_each_suspension(broken)


async def test_the_number_of_runs_is_bounded() -> None:
    with pytest.raises(InvalidArgument, match="max_suspensions"):
        await cancel_at_each_suspension(lambda: turns(100), max_suspensions=5)
    with pytest.raises(InvalidArgument, match="moments"):
        await cancel_at_each_suspension(lambda: turns(1), moments=())


async def test_whoever_rehearses_may_be_cancelled_and_leaves_nothing() -> None:
    ended: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append("cleanly")

    before = asyncio.all_tasks()
    rehearsal = asyncio.create_task(cancel_at_each_suspension(stubborn))
    await asyncio.sleep(0.01)
    rehearsal.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rehearsal
    assert asyncio.all_tasks() <= before
    assert ended == ["cleanly"]
