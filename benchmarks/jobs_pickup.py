"""How soon does an idle worker start a job, how soon is the result in hand, and what does idling cost?

One job at a time at random intervals. Pick-up: from just before the enqueue to the first line of the job, on
the machine's monotonic clock. Result: from just before the enqueue until the caller has the answer. ArqWorker is
fed by arq's own client.

Idle, and beside a busy neighbour: a second worker on the same queue, and a second producer that has some hundred
jobs a second run there, so that either worker hears of the other's claims and finishes all the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.errors import WrongAnswerError
from benchmarks.harness import Answer, Figures, Goal, Metric, Question, header, interleave
from benchmarks.peers import Peer, jobs
from benchmarks.peers.measure import quantile
from benchmarks.plan import Plan
from benchmarks.processes import Client, Reports, client, worker
from benchmarks.server import BenchServer, running_server

START_TIMEOUT: Final = 30.0
GAP: Final = (0.05, 0.15)  # seconds between jobs
WARM_UP: Final = 1_000_000  # indexes of the jobs before the measured ones
NEIGHBOUR: Final = 2_000_000  # indexes of the neighbour's jobs
NEIGHBOUR_GAP: Final = (0.001, 0.005)
AT_A_TIME: Final = 10  # of the neighbour's jobs, between looks whether it is over

IDLE, BUSY = "idle", "beside a busy neighbour"

SERVICE: Final = jobs.service()
DROP_IN: Final = jobs.drop_in()
BEST: Final = jobs.arq_best()
PEERS: Final = {IDLE: (jobs.arq_default(), BEST, SERVICE, DROP_IN), BUSY: (BEST, SERVICE, DROP_IN)}

METRICS: Final = (
    Metric("pickup_p50", "pick-up p50 ms", 2),
    Metric("pickup_p95", "p95", 2),
    Metric("pickup_p99", "p99", 2),
    Metric("enqueue_p50", "enqueue p50 ms", 2),
    Metric("result_p50", "result p50 ms", 2),
    Metric("result_p99", "p99", 2),
    Metric("await_p50", "of it after the enqueue p50 ms", 2),
    Metric("await_p99", "p99", 2),
    Metric("idle_commands", "idle commands/s", 1),
)
QUESTION: Final = Question(
    name="jobs_pickup",
    title="one job at a time",
    metrics=METRICS,
    ratio_of="pickup_p50",
    baseline=(BEST.name,),
    goals=(
        *(
            Goal(point, peer.name, "pickup_p99", at_most=10)
            for point in (IDLE, BUSY)
            for peer in (SERVICE, DROP_IN)
        ),
        Goal(IDLE, SERVICE.name, "await_p50", at_most=3),
        Goal(IDLE, SERVICE.name, "await_p99", at_most=10),
        Goal(IDLE, SERVICE.name, "idle_commands", at_most=10),
    ),
)


async def run(plan: Plan) -> Answer:
    """Measure all contestants, each alone on the server."""
    rounds, count, idle = plan.rounds_or(5, 2), plan.size_or(100, 20), 0.5 if plan.quick else 5.0
    with running_server(plan.server) as server, Reports(server.directory) as reports:
        versions: dict[str, str] = {}
        points = {}
        for point, peers in PEERS.items():

            async def measure(peer: Peer, point: str = point) -> Figures:
                if point == IDLE:
                    return await pick_up(peer, count, idle, server, reports, versions)
                return await beside_a_neighbour(peer, count, server, reports, versions)

            chosen = plan.chosen(peers)
            points[point] = await interleave(chosen, rounds, measure, f"{QUESTION.name} {point}")
        top = header(server.version(), plan.server.transport, versions, rounds=rounds, jobs=count)
    return Answer(QUESTION, top, points)


async def pick_up(
    peer: Peer, count: int, idle: float, server: BenchServer, reports: Reports, versions: dict[str, str]
) -> Figures:
    """One round of one contestant: warm up, watch it idle, then the jobs."""
    server.clear()
    reports.clear()
    async with client(peer, server, "jobs") as producer, worker(peer, server, reports):
        await warm_up(peer, producer, versions)
        before = server.usage()
        await asyncio.sleep(idle)
        commands = server.usage().commands - before.commands
        reports.clear()
        return {**await latencies(producer, reports, count), "idle_commands": commands / idle}


async def beside_a_neighbour(
    peer: Peer, count: int, server: BenchServer, reports: Reports, versions: dict[str, str]
) -> Figures:
    """One round of one contestant with two workers, of which either may start a measured job."""
    server.clear()
    async with client(peer, server, "jobs") as producer, worker(peer, server, reports):
        await warm_up(peer, producer, versions)
        async with busy_neighbour(peer, server, reports):
            reports.clear()
            return await latencies(producer, reports, count)


async def warm_up(peer: Peer, producer: Client, versions: dict[str, str]) -> None:
    """Connections, scripts, and the first jobs of a process."""
    versions |= await producer.call("versions", packages=peer.packages)
    await producer.call("one_at_a_time", first=WARM_UP, count=2, gap=GAP, seed=0)
    await asyncio.sleep(0.5)


@asynccontextmanager
async def busy_neighbour(peer: Peer, server: BenchServer, reports: Reports) -> AsyncIterator[None]:
    """A second worker, and jobs that come one after the other, for the time of a ``with`` block."""
    over = False

    async def keep_busy(producer: Client) -> None:
        first = NEIGHBOUR
        while not over:
            await producer.call("one_at_a_time", first=first, count=AT_A_TIME, gap=NEIGHBOUR_GAP, seed=first)
            first += AT_A_TIME

    async with worker(peer, server, reports), client(peer, server, "jobs") as producer:
        await producer.call("one_at_a_time", first=WARM_UP + 2, count=2, gap=GAP, seed=0)
        busy = asyncio.create_task(keep_busy(producer))
        try:
            yield
        finally:
            over = True
            await busy


async def latencies(
    producer: Client, reports: Reports, count: int, gap: tuple[float, float] = GAP
) -> dict[str, float]:
    """Milliseconds from just before the enqueue, by quantile.

    Raises:
        WrongAnswerError: a job ran twice.
    """
    stamps = await producer.call("one_at_a_time", first=0, count=count, gap=gap, seed=count)
    started: dict[int, int] = {}
    while len(started) < count:
        report = await reports.next(START_TIMEOUT)
        if not 0 <= report.index < count:
            continue  # the first job of another process of the same worker, or a neighbour's
        if report.index in started:
            raise WrongAnswerError(f"job {report.index} was started twice")
        started[report.index] = report.ns
    found: dict[str, float] = {}
    for name, times in (
        ("pickup", [started[stamp["index"]] - stamp["begun"] for stamp in stamps]),
        ("enqueue", [stamp["enqueued"] - stamp["begun"] for stamp in stamps]),
        ("result", [stamp["ended"] - stamp["begun"] for stamp in stamps]),
        ("await", [stamp["ended"] - stamp["enqueued"] for stamp in stamps]),
    ):
        times.sort()
        found |= {f"{name}_p{round(100 * q)}": quantile(times, q) / 1e6 for q in (0.5, 0.95, 0.99)}
    return found
