"""How soon does an idle worker start a job, how soon is the result in hand, and what does idling cost?

One job at a time at random intervals. Pick-up: from just before the enqueue to the first line of the job, on
the machine's monotonic clock. Result: from just before the enqueue until the caller has the answer.
"""

from __future__ import annotations

import asyncio
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

SERVICE: Final = jobs.service()
DROP_IN: Final = jobs.drop_in()
BEST: Final = jobs.arq_best()
PEERS: Final = (jobs.arq_default(), BEST, SERVICE, DROP_IN)

METRICS: Final = (
    Metric("pickup_p50", "pick-up p50 ms", 2),
    Metric("pickup_p95", "p95", 2),
    Metric("pickup_p99", "p99", 2),
    Metric("enqueue_p50", "enqueue p50 ms", 2),
    Metric("result_p50", "result p50 ms", 2),
    Metric("result_p99", "p99", 2),
    Metric("idle_commands", "idle commands/s", 1),
)
QUESTION: Final = Question(
    name="jobs_pickup",
    title="one job at a time on an idle worker",
    metrics=METRICS,
    ratio_of="pickup_p50",
    baseline=(BEST.name,),
    goals=(
        Goal("", SERVICE.name, "pickup_p99", at_most=10),
        Goal("", DROP_IN.name, "pickup_p99", at_most=10),
        Goal("", SERVICE.name, "idle_commands", at_most=10),
    ),
)


async def run(plan: Plan) -> Answer:
    """Measure all contestants, each alone on the server."""
    peers, rounds = plan.chosen(PEERS), plan.rounds_or(5, 2)
    count, idle = plan.size_or(100, 20), 0.5 if plan.quick else 5.0
    with running_server(plan.server) as server, Reports(server.directory) as reports:
        versions: dict[str, str] = {}

        async def measure(peer: Peer) -> Figures:
            return await pick_up(peer, count, idle, server, reports, versions)

        found = await interleave(peers, rounds, measure, QUESTION.name)
        top = header(server.version(), plan.server.transport, versions, rounds=rounds, jobs=count)
    return Answer(QUESTION, top, {"": found})


async def pick_up(
    peer: Peer, count: int, idle: float, server: BenchServer, reports: Reports, versions: dict[str, str]
) -> Figures:
    """One round of one contestant: warm up, watch it idle, then the jobs."""
    server.clear()
    reports.clear()
    async with client(peer, server, "jobs") as producer, worker(peer, server, reports):
        versions |= await producer.call("versions", packages=peer.packages)
        await producer.call("one_at_a_time", first=WARM_UP, count=2, gap=GAP, seed=0)
        await asyncio.sleep(0.5)
        before = server.usage()
        await asyncio.sleep(idle)
        commands = server.usage().commands - before.commands
        reports.clear()
        return {**await latencies(producer, reports, count), "idle_commands": commands / idle}


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
        if report.index < 0:
            continue  # another process of the same worker has started its first job
        if report.index in started:
            raise WrongAnswerError(f"job {report.index} was started twice")
        started[report.index] = report.ns
    found: dict[str, float] = {}
    for name, times in (
        ("pickup", [started[stamp["index"]] - stamp["begun"] for stamp in stamps]),
        ("enqueue", [stamp["enqueued"] - stamp["begun"] for stamp in stamps]),
        ("result", [stamp["ended"] - stamp["begun"] for stamp in stamps]),
    ):
        times.sort()
        found |= {f"{name}_p{round(100 * q)}": quantile(times, q) / 1e6 for q in (0.5, 0.95, 0.99)}
    return found
