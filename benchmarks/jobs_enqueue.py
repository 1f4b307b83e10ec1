"""How fast does one process enqueue, and how much memory does a queued job take?

One after the other, 100 at a time, and in bulk where there is a call for it. No worker runs meanwhile. Memory is
the server's growth divided by the number of jobs; the Service's jobs carry headers (reply channel, in bulk also a
correlation id), arq's do not, and nor do those of aioinfra's client without replies. Compare memory at "100 at a
time", where everybody draws ids of the same length.
"""

from __future__ import annotations

from typing import Final

from benchmarks.harness import Answer, Figures, Goal, Metric, Question, header, interleave
from benchmarks.peers import Peer, jobs
from benchmarks.plan import Plan
from benchmarks.processes import client
from benchmarks.server import BenchServer, running_server

ARQ: Final = jobs.arq_best()
SERVICE: Final = jobs.service()
BARE: Final = Peer(
    "aioinfra client, no headers", "benchmarks.peers.aioinfra_bare:BareJobs", packages=("aioinfra",)
)
PEERS: Final = (ARQ, SERVICE, BARE)

SEQUENTIAL, GATHERED, BULK = "one after the other", "100 at a time", "bulk, else 100 at a time"

METRICS: Final = (
    Metric("rate", "jobs/s", more_is_better=True),
    Metric("server_us", "server CPU us/job"),
    Metric("commands", "commands/job", 2),
    Metric("bytes", "bytes/job"),
    Metric("jobs", "jobs"),
)
QUESTION: Final = Question(
    name="jobs_enqueue",
    title="enqueueing",
    metrics=METRICS,
    ratio_of="rate",
    baseline=(ARQ.name,),
    goals=(
        Goal(SEQUENTIAL, SERVICE.name, "ratio", at_least=1.4),
        Goal(GATHERED, SERVICE.name, "ratio", at_least=6),
        Goal(BULK, SERVICE.name, "rate", at_least=40_000),
    ),
)


async def run(plan: Plan) -> Answer:
    """Measure all contestants, each alone on the server."""
    peers, rounds = plan.chosen(PEERS), plan.rounds_or(5, 3)
    count = plan.size_or(10_000, 2_000)
    with running_server(plan.server) as server:
        versions: dict[str, str] = {}
        points = {}
        for point in (SEQUENTIAL, GATHERED, BULK):

            async def measure(peer: Peer, point: str = point) -> Figures:
                return await enqueue(peer, point, count, server, versions)

            points[point] = await interleave(peers, rounds, measure, f"{QUESTION.name} {point}")
        top = header(server.version(), plan.server.transport, versions, rounds=rounds, log_level="WARNING")
    return Answer(QUESTION, top, points)


async def enqueue(
    peer: Peer, point: str, count: int, server: BenchServer, versions: dict[str, str]
) -> Figures:
    """One round of one contestant at one point."""
    if point == SEQUENTIAL:
        count //= 4
    server.clear()
    async with client(peer, server, "jobs") as producer:
        versions |= await producer.call("versions", packages=peer.packages)
        await producer.call("enqueued", count=200, together=100)  # connections, scripts
        before = server.usage()
        if point == BULK:
            server.clear()
            before = server.usage()
            seconds = await producer.call("enqueued_in_bulk", count=count)
        else:
            together = 1 if point == SEQUENTIAL else 100
            seconds = await producer.call("enqueued", count=count, together=together)
        after = server.usage()
    return {
        "rate": count / seconds,
        "server_us": (after.cpu - before.cpu) / count * 1e6,
        "commands": (after.commands - before.commands) / count,
        "bytes": (after.memory - before.memory) / count,
        "jobs": count,
    }
