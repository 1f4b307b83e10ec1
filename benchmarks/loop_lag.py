"""What does watching the event loop for what blocks it cost each of the loop's turns?

No server and no other process: loops with and without `LoopLag` take turns, each in a thread of its own, and the
CPU time of the whole process is compared, the watchdog's included. The bare loop takes part twice: how far its
second turn is from its first, in the median, is the noise that the watched one is judged by.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import uvloop

from aioinfra.metrics.loop_lag import LoopLag
from aioinfra.metrics.registry import MetricsRegistry
from benchmarks.errors import WrongAnswerError
from benchmarks.harness import Answer, Figures, Goal, Metric, Question, Rounds, header, interleave
from benchmarks.peers import Peer
from benchmarks.plan import Plan

BARE: Final = Peer("bare loop", "")
AGAIN: Final = Peer("bare loop again", "")
WATCHED: Final = Peer("watched loop", "", packages=("aioinfra",))
DEBUG: Final = Peer("asyncio's debug mode", "")
IDLE: Final = Peer("watched, idle", "")
LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "a turn of asyncio": asyncio.new_event_loop,
    "a turn of uvloop": uvloop.new_event_loop,
}
PEERS: Final = (BARE, AGAIN, WATCHED, DEBUG)
IDLE_POINT: Final = "a second of an idle loop"
DEBUG_SHARE: Final = 10
"""Debug mode takes about ten times as long: it gets a tenth of the turns."""

QUESTION: Final = Question(
    name="loop_lag",
    title="Cost of watching",
    metrics=(
        Metric("process_us", "CPU us, all threads", 3),
        Metric("added_percent", "added to the bare loop's %", 2),
        Metric("beyond_noise_percent", "of it beyond the noise %", 2),
    ),
    ratio_of="process_us",
    baseline=(BARE.name,),
    goals=tuple(Goal(point, WATCHED.name, "beyond_noise_percent", at_most=0) for point in LOOPS),
)


async def run(plan: Plan) -> Answer:
    """Measure all points in this process."""
    chosen, rounds = plan.chosen((*PEERS, IDLE)), plan.rounds_or(31, 5)
    size = plan.size_or(100_000, 50_000)
    versions = {name: importlib.metadata.version(name) for name in ("aioinfra", "uvloop")}
    top = header("", "", versions, rounds=rounds, turns=size)
    answer = Answer(QUESTION, top | {"server": "no server"})
    for point, factory in LOOPS.items():
        peers = [peer for peer in PEERS if peer in chosen and (peer is not DEBUG or "uvloop" not in point)]
        if peers:
            answer.points[point] = await turns(peers, rounds, size, factory, point)
    if IDLE in chosen:
        answer.points[IDLE_POINT] = await interleave([IDLE], min(rounds, 5), idle, IDLE_POINT)
    return answer


async def turns(
    peers: Sequence[Peer],
    rounds: int,
    count: int,
    factory: Callable[[], asyncio.AbstractEventLoop],
    point: str,
) -> Rounds:
    """CPU time of each contestant's turns, and what they add to the bare loop's in the same round."""

    async def measure(peer: Peer) -> Figures:
        made = max(1, count // DEBUG_SHARE) if peer is DEBUG else count
        return await asyncio.to_thread(measured, peer, made, factory)

    for peer in peers:
        await measure(peer)  # warms up
    found = await interleave(peers, rounds, measure, point)
    return compared(found) if BARE.name in found else found


def compared(found: Rounds) -> Rounds:
    """With what every contestant adds, and how much of that the noise does not explain."""
    bare = [figures["process_us"] for figures in found[BARE.name]]
    added = {
        name: [(figures["process_us"] / base - 1) * 100 for figures, base in zip(of_one, bare, strict=True)]
        for name, of_one in found.items()
    }
    noise = statistics.median([abs(percent) for percent in added.get(AGAIN.name, [0.0])])
    return {
        name: [
            {
                **figures,
                "added_percent": percent,
                "beyond_noise_percent": max(0.0, statistics.median(added[name]) - noise),
            }
            for figures, percent in zip(of_one, added[name], strict=True)
        ]
        for name, of_one in found.items()
    }


def measured(peer: Peer, count: int, factory: Callable[[], asyncio.AbstractEventLoop]) -> Figures:
    """One round, in this thread."""
    with asyncio.Runner(loop_factory=factory, debug=peer is DEBUG) as runner:
        return runner.run(turned(peer, count))


async def turned(peer: Peer, count: int) -> Figures:
    """So many turns of the running loop, each of which runs one callback.

    Raises:
        WrongAnswerError: the loop was not watched.
    """
    registry = MetricsRegistry()
    asyncio.get_running_loop().slow_callback_duration = 3_600  # debug mode would write lines
    async with AsyncExitStack() as stack:
        if peer is WATCHED:
            await stack.enter_async_context(LoopLag(registry))
        before = time.process_time_ns()
        for _ in range(count):
            await asyncio.sleep(0)
        spent = time.process_time_ns() - before
    if peer is WATCHED:
        check(registry)
    return {"process_us": spent / count / 1e3}


async def idle(_: Peer) -> Figures:
    """What the watching itself costs in a second in which nothing else happens."""
    registry = MetricsRegistry()
    async with LoopLag(registry):
        before = time.process_time_ns()
        await asyncio.sleep(1)
        spent = time.process_time_ns() - before
    check(registry)
    return {"process_us": spent / 1e3}


def check(registry: MetricsRegistry) -> None:
    """Raises WrongAnswerError unless there were ticks."""
    if not sum(registry.histogram("aioinfra_loop_lag_seconds").labels().counts):
        raise WrongAnswerError("the loop was not watched")
