"""Job queues: enqueueing, draining, pick-up and results, on one worker of each.

A round starts a contestant's client, has it enqueue jobs that do nothing, then starts its worker and watches
it drain them; when all results are checked, the same worker is left idle and then gets one job at a time.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from benchmarks.compare.comparison import OURS, Comparison, Field, Request, alternate, narrowed
from benchmarks.harness import Answer, Figures, Metric, Question, header
from benchmarks.jobs_pickup import WARM_UP, latencies
from benchmarks.peers import Peer
from benchmarks.peers.catalogue import Row
from benchmarks.processes import Client, Reports, client, cpu_seconds, worker
from benchmarks.server import BenchServer, ServerOptions, running_server

START_TIMEOUT: Final = 30.0
ROUND_TIMEOUT: Final = 300.0
GRACE: Final = 2.0  # seconds for a worker that has nothing left to do
GAP: Final = (0.02, 0.08)  # seconds between jobs

ENQUEUE: Final = Question(
    "enqueue",
    "How fast can one process enqueue jobs, the fastest way that its client has?",
    (Metric("enqueue_rate", "jobs/s", more_is_better=True), Metric("enqueue_p50", "a lone enqueue, ms", 2)),
    "enqueue_rate",
    (OURS,),
)
DRAIN: Final = Question(
    "drain",
    "How fast does one worker drain jobs that do nothing, results kept?",
    (
        Metric("rate", "jobs/s", more_is_better=True),
        Metric("worker_us", "worker CPU us/job"),
        Metric("server_us", "server CPU us/job"),
        Metric("commands", "commands/job", 1),
        Metric("jobs", "jobs"),
    ),
    "rate",
    (OURS,),
)
PICKUP: Final = Question(
    "pickup",
    "How soon does an idle worker start a job?",
    (
        Metric("pickup_p50", "p50 ms", 2),
        Metric("pickup_p95", "p95 ms", 2),
        Metric("idle_commands", "idle commands/s", 1),
    ),
    "pickup_p50",
    (OURS,),
)
RESULT: Final = Question(
    "result",
    "How soon does the caller have the result of a job on an idle worker?",
    (Metric("result_p50", "p50 ms", 2), Metric("result_p95", "p95 ms", 2)),
    "result_p50",
    (OURS,),
)
QUESTIONS: Final = (ENQUEUE, DRAIN, PICKUP, RESULT)


async def run(request: Request, rows: tuple[Row, ...], found: Field) -> Comparison:
    """Measure all contestants, each alone on the server."""
    rounds, count = request.rounds_or(5, 2), request.size_or(10_000, 1_000)
    single = 50 if not request.quick else min(8, count)
    with running_server(ServerOptions()) as server, Reports(server.directory) as reports:

        async def measure(peer: Peer) -> Figures:
            async with asyncio.timeout(ROUND_TIMEOUT):
                jobs = max(10, int(count * peer.share))
                return await one_round(peer, (jobs, single), server, reports, found)

        points = {"": await alternate(found, rounds, measure, request.family)}
        settings: dict[str, Any] = {"rounds": rounds, "jobs": count, "single jobs": single}
        top = header(server.version(), "tcp", {}, **settings)
    answers: list[Answer] = [narrowed(question, points) for question in QUESTIONS]
    return Comparison(request, top, rows, found, answers)


async def one_round(
    peer: Peer, sizes: tuple[int, int], server: BenchServer, reports: Reports, found: Field
) -> Figures:
    """One contestant: enqueue, drain, idle, one job at a time. ``sizes``: jobs to drain, single jobs."""
    count, single = sizes
    server.clear()
    async with client(peer, server, "jobs") as producer:
        found.versions[peer.name] = await producer.call("versions", packages=peer.packages)
        seconds = await producer.call("timed_fill", count=count)
        reports.clear()
        async with worker(peer, server, reports, grace=GRACE) as process:
            drained = await drain(producer, process.pid, count, server, reports)
            await producer.call("one_at_a_time", first=WARM_UP, count=2, gap=GAP, seed=0)
            idle = await idle_commands(server, 0.5 if single < 50 else 3.0)
            reports.clear()
            times = await latencies(producer, reports, single, GAP)
    return {"enqueue_rate": count / seconds, **drained, "idle_commands": idle, **times}


async def drain(
    producer: Client, pid: int, count: int, server: BenchServer, reports: Reports
) -> dict[str, float]:
    """From the first job's start until every result is recorded; then each of them is checked."""
    first = await reports.next(START_TIMEOUT)
    cpu, before = cpu_seconds(pid), server.usage()
    ended = await producer.call("drained")
    cpu, after = cpu_seconds(pid) - cpu, server.usage()
    await producer.call("verify", count=count)
    return {
        "rate": count / ((ended - first.ns) / 1e9),
        "worker_us": cpu / count * 1e6,
        "server_us": (after.cpu - before.cpu) / count * 1e6,
        "commands": (after.commands - before.commands) / count,
        "jobs": count,
    }


async def idle_commands(server: BenchServer, seconds: float) -> float:
    """Commands a second while nothing is to be done."""
    await asyncio.sleep(0.3)
    before = server.usage()
    await asyncio.sleep(seconds)
    return (server.usage().commands - before.commands) / seconds
