"""How fast does one worker process drain a queue of jobs that do nothing?

Enqueued beforehand; timed from the start of the first job, by the worker's stamp, until the queue is seen
empty, which every contestant's queue is when the last result is recorded. Results are kept and checked. Round trips
are what the worker sends on its connections meanwhile (`benchmarks.peers.writes`): its leases, health record and
cron jobs too, not what the producer asks.
"""

from __future__ import annotations

from typing import Final

from benchmarks.errors import BenchmarkError
from benchmarks.harness import Answer, Figures, Goal, Metric, Question, header, interleave
from benchmarks.peers import Peer, jobs
from benchmarks.peers.writes import Writes, counting
from benchmarks.plan import Plan
from benchmarks.processes import Reports, client, cpu_seconds, worker
from benchmarks.server import BenchServer, running_server

START_TIMEOUT: Final = 30.0

BEST: Final = jobs.arq_best()
DEFAULT: Final = jobs.arq_default(
    share=0.2
)  # its rate is max(5 * max_jobs, 100) jobs a poll, however many wait
SERVICE: Final = jobs.service()
DROP_IN: Final = jobs.drop_in()
PEERS: Final = (BEST, DEFAULT, SERVICE, DROP_IN)

METRICS: Final = (
    Metric("rate", "jobs/s", more_is_better=True),
    Metric("worker_us", "worker CPU us/job"),
    Metric("server_us", "server CPU us/job"),
    Metric("commands", "commands/job", 2),
    Metric("trips", "round trips/100 jobs", 2),
    Metric("jobs", "jobs"),
)
QUESTION: Final = Question(
    name="jobs_drain",
    title="drain of no-op jobs, results kept",
    metrics=METRICS,
    ratio_of="rate",
    baseline=(BEST.name,),
    goals=(
        *(Goal("", contestant.name, "ratio", at_least=10) for contestant in (SERVICE, DROP_IN)),
        *(Goal("", contestant.name, "trips", at_most=3) for contestant in (SERVICE, DROP_IN)),
    ),
)


async def run(plan: Plan) -> Answer:
    """Measure all contestants, each alone on the server."""
    peers, rounds = plan.chosen(PEERS), plan.rounds_or(5, 3)
    count = plan.size_or(10_000, 2_000)
    with running_server(plan.server) as server, Reports(server.directory) as reports:
        versions: dict[str, str] = {}

        async def measure(peer: Peer) -> Figures:
            return await drain(peer, max(1, int(count * peer.share)), server, reports, versions)

        found = await interleave(peers, rounds, measure, QUESTION.name)
        top = header(server.version(), plan.server.transport, versions, rounds=rounds, log_level="WARNING")
    return Answer(QUESTION, top, {"": found})


async def drain(
    peer: Peer, count: int, server: BenchServer, reports: Reports, versions: dict[str, str]
) -> Figures:
    """One round of one contestant."""
    server.clear()
    async with client(peer, server, "jobs") as producer:
        versions |= await producer.call("versions", packages=peer.packages)
        if await producer.call("fill", count=count) != count:
            raise BenchmarkError(f"{peer.name}: not all jobs are in the queue")
        reports.clear()
        writes = Writes(server.directory / "writes")
        async with worker(counting(peer), server, reports, writes.environment) as process:
            first = await reports.next(START_TIMEOUT)
            cpu, usage, sent = cpu_seconds(process.pid), server.usage(), writes.count()
            ended = await producer.call("drained")
            cpu, after, sent = cpu_seconds(process.pid) - cpu, server.usage(), writes.count() - sent
        await producer.call("verify", count=count)
    return {
        "rate": count / ((ended - first.ns) / 1e9),
        "worker_us": cpu / count * 1e6,
        "server_us": (after.cpu - usage.cpu) / count * 1e6,
        "commands": (after.commands - usage.commands) / count,
        "trips": sent / count * 100,
        "jobs": count,
    }
