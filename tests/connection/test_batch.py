"""Batching: what leaves together, who waits for whom, and how each caller's fate stays its own."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from aioinfra.connection.batch import Batcher, BatchLimits
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LifecycleError,
    Overloaded,
    StoreError,
    StoreUnavailable,
    WrongEventLoop,
)
from aioinfra.testing.virtual_clock import VirtualClock
from tests.conftest import OwnServerFactory


class Gate:
    """A `send` that doubles its items, and that a test can hold back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, items: list[int]) -> list[int | BaseException]:
        self.batches.append(list(items))
        await self.open.wait()
        return [item * 2 for item in items]


def mget(client: RedisClient) -> Callable[[list[str]], Awaitable[Sequence[bytes | BaseException | None]]]:
    async def send(keys: list[str]) -> Sequence[bytes | BaseException | None]:
        replies: list[bytes | BaseException | None] = await client.execute("MGET", *keys)
        return replies

    return send


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# What leaves together


async def test_the_gets_of_one_tick_are_one_command(own_server: OwnServerFactory) -> None:
    async with RedisClient(own_server().url) as client:
        await client.pipeline([("SET", f"k{n}", f"v{n}") for n in range(100)])
        await client.execute("CONFIG", "RESETSTAT")
        batcher = Batcher(mget(client))

        async def read(number: int) -> None:
            assert await batcher.submit(f"k{number}") == f"v{number}".encode()

        await asyncio.gather(*[read(number) for number in range(100)])
        stats = (await client.execute("INFO", "commandstats")).decode()
        assert "cmdstat_mget:calls=1," in stats
        await batcher.aclose()


async def test_what_arrives_in_flight_leaves_as_the_next_batch() -> None:
    gate = Gate()
    gate.open.clear()
    batcher = Batcher(gate.send)
    first = batcher.submit(1)
    await ticks(2)
    later = [batcher.submit(number) for number in (2, 3)]
    await ticks(2)
    later.append(batcher.submit(4))
    assert len(batcher) == 3
    gate.open.set()
    assert [await future for future in [first, *later]] == [2, 4, 6, 8]
    assert gate.batches == [[1], [2, 3, 4]]


async def test_batches_are_bounded_in_items() -> None:
    gate = Gate()
    batcher = Batcher(gate.send, BatchLimits(max_items=4))
    assert await asyncio.gather(*[batcher.submit(n) for n in range(10)]) == [n * 2 for n in range(10)]
    assert gate.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_batches_are_bounded_in_bytes_and_a_large_item_leaves_alone() -> None:
    gate = Gate()
    batcher = Batcher(gate.send, BatchLimits(max_bytes=10), size_of=lambda item: item)
    await asyncio.gather(*[batcher.submit(size) for size in (4, 6, 1, 99, 5, 5, 5)])
    assert gate.batches == [[4, 6], [1], [99], [5, 5], [5]]


async def test_the_queue_is_bounded() -> None:
    gate = Gate()
    gate.open.clear()
    batcher = Batcher(gate.send, BatchLimits(max_waiting=5))
    first = batcher.submit(0)
    await ticks(2)
    waiting = [batcher.submit(number) for number in range(5)]
    with pytest.raises(Overloaded, match="5 items"):
        batcher.submit(6)
    gate.open.set()
    await asyncio.gather(first, *waiting)
    assert await batcher.submit(7) == 14


# Each caller's fate


async def test_a_cancelled_caller_affects_nobody_and_is_not_sent() -> None:
    gate = Gate()
    batcher = Batcher(gate.send)
    futures = [batcher.submit(number) for number in range(5)]
    futures[2].cancel()
    assert await asyncio.gather(*futures, return_exceptions=True) != []
    assert [future.result() for future in futures if not future.cancelled()] == [0, 2, 6, 8]
    assert gate.batches == [[0, 1, 3, 4]]


async def test_cancelling_in_flight_leaves_the_batch_alone() -> None:
    gate = Gate()
    gate.open.clear()
    batcher = Batcher(gate.send)

    async def caller(number: int) -> int:
        return await batcher.submit(number)

    tasks = [asyncio.create_task(caller(number)) for number in range(5)]
    await ticks(3)
    for task in tasks[:4]:
        task.cancel()
    gate.open.set()
    assert await tasks[4] == 8
    assert gate.batches == [[0, 1, 2, 3, 4]]


async def test_when_everybody_has_gone_nothing_is_sent() -> None:
    gate = Gate()
    batcher = Batcher(gate.send)
    batcher.submit(1).cancel()
    await ticks(3)
    assert gate.batches == []
    assert await batcher.submit(2) == 4


async def test_an_error_in_a_place_is_that_callers_alone() -> None:
    async def send(items: list[int]) -> list[int | BaseException]:
        return [StoreError("odd") if item % 2 else item for item in items]

    batcher = Batcher(send)
    answers = await asyncio.gather(*[batcher.submit(n) for n in range(4)], return_exceptions=True)
    assert answers[::2] == [0, 2]
    assert all(isinstance(answer, StoreError) for answer in answers[1::2])


async def test_a_raised_error_reaches_every_caller_as_its_own() -> None:
    async def send(items: list[int]) -> list[int | BaseException]:
        raise StoreUnavailable("gone", sent=False)

    batcher = Batcher(send)
    answers = await asyncio.gather(*[batcher.submit(n) for n in range(3)], return_exceptions=True)
    assert [str(answer) for answer in answers] == ["gone"] * 3
    assert all(isinstance(answer, StoreUnavailable) and answer.sent is False for answer in answers)
    assert len({id(answer) for answer in answers}) == 3


async def test_a_missing_reply_fails_the_batch() -> None:
    async def send(items: list[int]) -> list[int | BaseException]:
        return [1]

    batcher = Batcher(send)
    for answer in await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True):
        assert isinstance(answer, StoreError)
        assert str(answer) == "1 replies to a batch of 2"


async def test_a_failing_size_leaves_nobody_waiting() -> None:
    def size_of(item: int) -> int:
        return 1 // item

    batcher = Batcher(Gate().send, size_of=size_of)
    with pytest.raises(ZeroDivisionError):
        await batcher.submit(0)
    assert await batcher.submit(1) == 2


async def test_errors_that_nobody_awaits_are_not_logged() -> None:
    async def send(items: list[int]) -> list[int | BaseException]:
        raise StoreError("late")

    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    batcher = Batcher(send)
    batcher.submit(1)
    batcher.submit(2)
    await ticks(4)
    await batcher.aclose()
    gc.collect()
    assert seen == []


async def test_a_batch_runs_in_nobodys_context() -> None:
    request: ContextVar[str] = ContextVar("request", default="none")

    async def send(items: list[int]) -> list[str | BaseException]:
        return [request.get() for _ in items]

    request.set("first caller")
    assert await Batcher(send).submit(1) == "none"


# Deadlines


async def test_a_hung_server_costs_each_caller_its_deadline_and_few_connections(
    own_server: OwnServerFactory,
) -> None:
    server = own_server()
    async with RedisClient(server.url, PoolOptions(socket_timeout=0.5)) as client:
        batcher = Batcher(mget(client), deadline=0.05)
        assert await batcher.submit("k") is None
        server.stop_process()

        async def read() -> float:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await batcher.submit("k")
            return time.monotonic() - started

        waits: list[float] = []
        for _ in range(4):  # later rounds meet a batch that is already late
            waits += await asyncio.gather(*[read() for _ in range(50)])
            assert len(batcher) == 0
        assert min(waits) > 0.045
        assert (
            sorted(waits)[int(len(waits) * 0.98)] < 0.4
        )  # 0.05 and a busy machine's share; the socket's own timeout is 0.5
        assert client.figures().size <= 4  # one that answered, one in flight, two late
        server.continue_process()
        async with asyncio.timeout(2):
            while True:
                try:
                    assert await batcher.submit("k") is None
                    break
                except StoreUnavailable:
                    continue
        await batcher.aclose()


async def test_a_silent_connection_does_not_hold_up_the_batches_behind_it() -> None:
    gates = [asyncio.Event() for _ in range(3)]
    sent: list[list[str]] = []

    async def send(items: list[str]) -> list[str]:
        sent.append(items)
        if len(sent) <= len(gates):
            await gates[len(sent) - 1].wait()
        return items

    batcher = Batcher(send, deadline=0.05)
    for late in range(2):
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(f"late {late}")
        assert len(sent) == late + 1
    with pytest.raises(DeadlineExceeded):
        await batcher.submit("third")
    behind = batcher.submit("behind")  # two are late already, so this one waits for the third
    gates[0].set()
    await asyncio.sleep(0)
    gates[2].set()
    assert await behind == "behind"
    gates[1].set()
    assert await batcher.submit("after") == "after"
    assert sent == [["late 0"], ["late 1"], ["third"], ["behind"], ["after"]]
    await batcher.aclose()


async def test_a_deadline_tells_whether_the_item_was_sent() -> None:
    gate = Gate()
    gate.open.clear()
    batcher = Batcher(gate.send, deadline=0.05)
    in_flight = batcher.submit(1)
    await ticks(2)
    waiting = batcher.submit(2)
    for future, sent in ((in_flight, True), (waiting, False)):
        with pytest.raises(DeadlineExceeded) as caught:
            await future
        assert caught.value.sent is sent
    gate.open.set()
    assert await batcher.submit(3) == 6
    assert gate.batches == [[1], [3]]


async def test_items_submitted_later_live_longer() -> None:
    gate = Gate()
    gate.open.clear()
    async with VirtualClock() as clock:
        batcher = Batcher(gate.send, deadline=0.2)
        early = batcher.submit(1)
        await clock.advance(0.1)
        late = batcher.submit(2)
        await clock.advance(0.15)
        with pytest.raises(DeadlineExceeded):
            await early
        assert not late.done()
        gate.open.set()
        assert await late == 4


async def test_waiting_behind_batches_that_end_in_time_is_no_fault_of_the_server() -> None:
    """30 batches of 20 ms with a deadline of 0.2 s: the last item waits for 0.6 s, and is answered."""

    async def send(items: list[int]) -> list[int | BaseException]:
        await asyncio.sleep(0.02)
        return [*items]

    batcher = Batcher(send, BatchLimits(max_items=1), deadline=0.2)
    assert await asyncio.gather(*[batcher.submit(number) for number in range(30)]) == list(range(30))


async def test_waiting_has_an_end_although_the_server_answers() -> None:
    gate = Gate()
    gate.open.clear()
    batcher = Batcher(gate.send, deadline=0.01, allowance=lambda: 60.0)
    in_flight = batcher.submit(1)
    await ticks(2)
    started = time.monotonic()
    with pytest.raises(Overloaded):
        await asyncio.wait_for(batcher.submit(2), 10)
    assert time.monotonic() - started > 0.39
    gate.open.set()
    assert await in_flight == 2
    assert await batcher.submit(5) == 10


async def test_an_allowance_lets_a_batch_take_longer() -> None:
    gate = Gate()
    gate.open.clear()
    allowed = [1.0]
    batcher = Batcher(gate.send, deadline=0.03, allowance=lambda: allowed[0])
    first, second = batcher.submit(1), None
    await asyncio.sleep(0.1)
    second = batcher.submit(2)
    await asyncio.sleep(0.1)
    assert not first.done()
    assert not second.done()
    allowed[0] = 0.0
    for future in (first, second):
        with pytest.raises(DeadlineExceeded):
            await future
    gate.open.set()
    await batcher.aclose()


async def test_a_blocked_loop_is_not_taken_for_a_dead_server(valkey_url: str, prefix: str) -> None:
    """The reply came in time; this process did not look. That is no outage."""
    async with RedisClient(valkey_url) as client:
        batcher = Batcher(mget(client), deadline=0.05)
        assert await batcher.submit(f"{prefix}k") is None
        for _ in range(5):
            reply = batcher.submit(f"{prefix}k")
            await ticks(2)
            time.sleep(0.1)  # noqa: ASYNC251 - the blocking call is what this test is about
            assert await reply is None
        await batcher.aclose()


# Bad input, loop and lifecycle


@pytest.mark.parametrize("name", ["max_items", "max_bytes", "max_waiting"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_bad_limits_name_the_argument(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=name):
        BatchLimits(**{name: value})


@pytest.mark.parametrize("deadline", [0, -1, True, float("nan"), float("inf")])
def test_bad_deadlines_are_refused(deadline: Any) -> None:
    with pytest.raises(InvalidArgument, match="deadline"):
        Batcher(Gate().send, deadline=deadline)


async def test_closing_waits_for_all_items_and_then_refuses() -> None:
    gate = Gate()
    gate.open.clear()
    batcher = Batcher(gate.send, BatchLimits(max_items=2))
    futures = [batcher.submit(number) for number in range(5)]
    await ticks(2)
    closing = asyncio.create_task(batcher.aclose())
    await ticks(2)
    with pytest.raises(LifecycleError, match="closed"):
        batcher.submit(9)
    gate.open.set()
    await closing
    assert [future.result() for future in futures] == [0, 2, 4, 6, 8]
    await batcher.aclose()


async def test_closing_is_bounded() -> None:
    gate = Gate()
    gate.open.clear()
    batcher = Batcher(gate.send)
    in_flight = batcher.submit(1)
    await ticks(2)
    waiting = batcher.submit(2)
    await batcher.aclose(timeout=0.05)
    for future, sent in ((in_flight, True), (waiting, False)):
        with pytest.raises(StoreUnavailable) as caught:
            await future
        assert caught.value.sent is sent


def test_a_second_event_loop_is_refused() -> None:
    async def send(items: list[int]) -> list[int | BaseException]:
        return [*items]

    batcher = Batcher(send)

    async def submit() -> int:
        return await batcher.submit(1)

    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert first.run(submit()) == 1
        with pytest.raises(WrongEventLoop, match="another event loop"):
            second.run(submit())
        first.run(batcher.aclose())


async def test_a_drain_cancelled_before_its_first_step_leaves_nobody_waiting() -> None:
    gate = Gate()
    batcher = Batcher(gate.send)
    stranded = batcher.submit(1)
    assert batcher._drain is not None
    batcher._drain.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailable) as caught:
            await stranded
        assert not caught.value.sent
        assert await batcher.submit(2) == 4


async def test_a_cancelled_drain_leaves_nobody_waiting_behind_its_batch() -> None:
    gate = Gate()
    gate.open.clear()
    batcher = Batcher(gate.send)
    in_flight = batcher.submit(1)
    await ticks(2)
    waiting = batcher.submit(2)
    assert batcher._drain is not None
    batcher._drain.cancel()
    async with asyncio.timeout(5):
        for future, sent in ((in_flight, True), (waiting, False)):
            with pytest.raises(StoreUnavailable) as caught:
                await future
            assert caught.value.sent is sent
        gate.open.set()
        assert await batcher.submit(3) == 6


def test_a_loop_that_was_closed_is_let_go_of_with_all_it_left_behind() -> None:
    gate = Gate()

    async def submit() -> int:
        return await asyncio.wait_for(batcher.submit(4), 5)

    batcher = Batcher(gate.send, deadline=1.0)
    assert asyncio.run(submit()) == 8
    torn = asyncio.new_event_loop()
    torn.call_soon(lambda: batcher.submit(1))  # its batch never leaves
    torn.call_soon(torn.stop)
    torn.run_forever()
    if batcher._drain is not None:
        batcher._drain.get_coro().close()
        batcher._drain._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's switch of its warning
    torn.close()
    assert asyncio.run(submit()) == 8


async def test_a_stray_use_from_another_loop_does_not_take_the_batcher_away(valkey_url: str) -> None:
    async with RedisClient(valkey_url) as client:
        assert await client.ping() > 0
        batcher = Batcher(mget(client))

        def stray() -> None:
            async def use() -> None:
                with pytest.raises(WrongEventLoop):
                    await batcher.submit("k")
                await asyncio.sleep(0.2)  # the other loop lives on

            asyncio.run(use())

        thread = asyncio.create_task(asyncio.to_thread(stray))
        await asyncio.sleep(0.1)
        assert await batcher.submit("k") is None
        await thread
        await batcher.aclose()
