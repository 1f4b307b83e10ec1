"""What do a log line, a disabled one, a count and a scrape cost the service that makes them?

No server and no other process: contestants take turns in this one, and the CPU time of the calling thread is
compared. A scrape is judged by how long it keeps the event loop from other tasks.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import pkgutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.harness import Answer, Figures, Goal, Metric, Question, Rounds, header, interleave
from benchmarks.in_process import Contestant, Pages
from benchmarks.peers import Peer
from benchmarks.peers.measure import quantile
from benchmarks.plan import Plan

TICK: Final = 0.001  # seconds between two looks at the clock while pages are made


def peer(name: str, factory: str, *packages: str) -> Peer:
    return Peer(name, f"benchmarks.in_process:{factory}", packages=packages)


@dataclass(frozen=True, slots=True)
class Calls:
    """One thing that contestants do, and how often in a full and in a quick round."""

    point: str
    peers: tuple[Peer, ...]
    full: int
    quick: int


STRUCTLOG: Final = peer("structlog + orjson", "StructlogLines", "structlog", "orjson")
STDLIB: Final = peer("logging", "StdlibDisabled")
FLOOR: Final = peer("an entry of a dict", "DictCount")
STOCK: Final = peer("aioprometheus", "StockCount", "aioprometheus")
IDLE: Final = peer("idle loop", "Pages")

LINE: Final = Calls(
    "a JSON line", (STRUCTLOG, peer("aioinfra, redacted", "OurLines", "aioinfra")), 5_000, 1_000
)
DISABLED: Final = Calls("a disabled call", (STDLIB, peer("aioinfra", "OurDisabled")), 100_000, 20_000)
COUNT: Final = Calls(
    "a count",
    (FLOOR, peer("aioinfra inc", "OurCount"), peer("aioinfra observe", "OurObservation")),
    200_000,
    50_000,
)
LABELLED: Final = Calls(
    "a count beside aioprometheus'", (STOCK, peer("aioinfra inc", "OurCount")), 20_000, 5_000
)
SCRAPE: Final = Calls(
    "a page of 10,000 series",
    (IDLE, peer("aioprometheus' page", "StockPages"), peer("aioinfra", "OurPages")),
    100,
    10,
)
CALLS: Final = (LINE, DISABLED, COUNT, LABELLED)
PEERS: Final = tuple(peer for calls in (*CALLS, SCRAPE) for peer in calls.peers)

QUESTION: Final = Question(
    name="hot_path",
    title="Cost",
    metrics=(
        Metric("cpu_us", "CPU us/call", 3),
        Metric("process_us", "with other threads us", 3),
        Metric("gap_ms", "loop gap p99.9 ms", 2),
        Metric("added_ms", "added to the idle loop's ms", 2),
    ),
    ratio_of="cpu_us",
    baseline=(STRUCTLOG.name, STDLIB.name, FLOOR.name, STOCK.name),
    goals=(
        Goal(LINE.point, "aioinfra, redacted", "ratio", at_least=1 / 0.6),
        Goal(DISABLED.point, "aioinfra", "ratio", at_least=1 / 3),
        Goal(COUNT.point, "aioinfra inc", "ratio", at_least=1 / 2),
        Goal(COUNT.point, "aioinfra observe", "ratio", at_least=1 / 4),
        Goal(LABELLED.point, "aioinfra inc", "ratio", at_least=20),
        Goal(SCRAPE.point, "aioinfra", "added_ms", at_most=5),
    ),
)


async def run(plan: Plan) -> Answer:
    """Measure all points in this process."""
    chosen, rounds = plan.chosen(PEERS), plan.rounds_or(9, 5)
    versions = {name: importlib.metadata.version(name) for peer in PEERS for name in peer.packages}
    top = header("", "", versions, rounds=rounds)
    answer = Answer(QUESTION, top | {"server": "no server"})
    for calls in (*CALLS, SCRAPE):
        peers = [peer for peer in calls.peers if peer in chosen]
        if peers:
            measured = scrapes if calls is SCRAPE else costs
            size = plan.size_or(calls.full, calls.quick)
            answer.points[calls.point] = await measured(peers, rounds, size, calls.point)
    return answer


def built(peer: Peer) -> Any:
    """The contestant itself, in this process."""
    return pkgutil.resolve_name(peer.factory)()


async def costs(peers: Sequence[Peer], rounds: int, count: int, point: str) -> Rounds:
    """CPU time of every contestant's calls; what they did is checked in the end."""
    with ExitStack() as stack:
        made: Mapping[str, Contestant] = {
            peer.name: stack.enter_context(closing(built(peer))) for peer in peers
        }
        for contestant in made.values():
            cpu(contestant, count)  # warms up

        async def measure(peer: Peer) -> Figures:
            return cpu(made[peer.name], count)

        found = await interleave(peers, rounds, measure, point)
        for contestant in made.values():
            contestant.check(count * (rounds + 1))
    return found


def cpu(contestant: Contestant, count: int) -> Figures:
    """One round: CPU time of the calling thread, and of the process until its other threads are done."""
    everything, mine = time.process_time_ns(), time.thread_time_ns()
    contestant.calls(count)
    mine = time.thread_time_ns() - mine
    contestant.settle()
    everything = time.process_time_ns() - everything
    return {"cpu_us": mine / count / 1e3, "process_us": everything / count / 1e3}


async def scrapes(peers: Sequence[Peer], rounds: int, count: int, point: str) -> Rounds:
    """Loop gaps beside every contestant, and what they add to those of the idle loop in the same round."""
    made: Mapping[str, Pages] = {peer.name: built(peer) for peer in peers}

    async def measure(peer: Peer) -> Figures:
        return {"gap_ms": quantile(await gaps(made[peer.name], count), 0.999) * 1e3}

    found = await interleave(peers, rounds, measure, point)
    if IDLE.name not in found:
        return found
    idle = [figures["gap_ms"] for figures in found[IDLE.name]]
    return {
        name: [
            {**figures, "added_ms": figures["gap_ms"] - base}
            for figures, base in zip(of_one, idle, strict=True)
        ]
        for name, of_one in found.items()
    }


async def gaps(contestant: Pages, count: int) -> list[float]:
    """Seconds between a ticking task's turns, ascending, while one page after the other is made."""
    found: list[float] = []

    async def make() -> bytes:
        for _ in range(count):
            page = await contestant.page()
            await asyncio.sleep(0)  # a page that is made in one go awaits nothing
        return page

    work = asyncio.create_task(make())
    try:
        last = time.perf_counter()
        while not work.done():
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            found.append(now - last)
            last = now
    finally:
        work.cancel()
    contestant.check(await work)
    return sorted(found)
