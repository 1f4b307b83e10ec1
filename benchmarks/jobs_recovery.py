"""How soon are the jobs of a killed worker running again?

Worker A holds 20 jobs, worker B is idle; A gets SIGKILL at a random moment of its lease. Timed from the kill
to the first line of the last job's second run.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from typing import Final

from benchmarks.errors import BenchmarkError, WrongAnswerError
from benchmarks.harness import Answer, Figures, Goal, Metric, Question, header, interleave
from benchmarks.peers import Peer, jobs
from benchmarks.peers.report import HOLD_VARIABLE
from benchmarks.plan import Plan
from benchmarks.processes import Client, Report, Reports, client, worker
from benchmarks.server import BenchServer, running_server

START_TIMEOUT: Final = 30.0
RECOVERY_TIMEOUT: Final = 60.0
LEASE: Final = 5.0
HELD: Final = 20
PROBE: Final = 1_000_000

SERVICE: Final = jobs.service(concurrency=HELD, lease=LEASE)
# arq has no lease: a job is free again 10 s after its timeout, counted from its start.
ARQ: Final = jobs.arq_best(max_jobs=HELD, job_timeout=10)

QUESTION: Final = Question(
    name="jobs_recovery",
    title=f"{HELD} jobs of a killed worker, lease {LEASE:g} s (arq: job_timeout 10 s)",
    metrics=(
        Metric("all", "all restarted after s", 2),
        Metric("first", "first after s", 2),
        Metric("jobs", "jobs"),
    ),
    ratio_of="all",
    baseline=(ARQ.name,),
    goals=(Goal("", SERVICE.name, "all", at_most=7),),
)


async def run(plan: Plan) -> Answer:
    """Measure all contestants; a quick run leaves arq out, which takes 20 s a round."""
    peers = plan.chosen((SERVICE,) if plan.quick else (ARQ, SERVICE))
    rounds = plan.rounds_or(5, 1)
    with running_server(plan.server) as server, Reports(server.directory) as reports:
        versions: dict[str, str] = {}

        async def measure(peer: Peer) -> Figures:
            return await recover(peer, server, reports, versions)

        found = await interleave(peers, rounds, measure, QUESTION.name)
        top = header(server.version(), plan.server.transport, versions, rounds=rounds)
    return Answer(QUESTION, top, {"": found})


async def recover(peer: Peer, server: BenchServer, reports: Reports, versions: dict[str, str]) -> Figures:
    """One round of one contestant.

    Raises:
        WrongAnswerError: a second run counts the first one as a try, or not as a stall.
    """
    server.clear()
    reports.clear()
    hold = {HOLD_VARIABLE: "120"}
    async with client(peer, server, "jobs") as producer:
        versions |= await producer.call("versions", packages=peer.packages)
        async with worker(peer, server, reports, hold) as victim:
            await producer.call(
                "enqueue_all", first=0, count=HELD
            )  # fills the victim: the probe goes to the heir
            await collect(reports, HELD)
            async with worker(peer, server, reports):
                await probe(producer, reports, victim.pid)
                await asyncio.sleep(random.uniform(0, LEASE / 2))
                killed = time.monotonic_ns()
                os.kill(victim.pid, signal.SIGKILL)
                restarted = await collect(reports, HELD)
    for report in restarted.values():
        if report.more.get("attempt", 1) != 1 or report.more.get("stalls", 1) != 1:
            raise WrongAnswerError(f"job {report.index} runs again as {dict(report.more)}")
    times = sorted((report.ns - killed) / 1e9 for report in restarted.values())
    return {"all": times[-1], "first": times[0], "jobs": len(times)}


async def probe(producer: Client, reports: Reports, victim: int) -> None:
    """Wait until the other worker has run a job, that is, is ready.

    Raises:
        BenchmarkError: the victim ran it.
    """
    await producer.call("enqueue_all", first=PROBE, count=1)
    report = await reports.next(START_TIMEOUT)
    if report.pid == victim or report.index != PROBE:
        raise BenchmarkError("the full worker took another job")


async def collect(reports: Reports, count: int) -> dict[int, Report]:
    """The first stamps of ``count`` different jobs."""
    found: dict[int, Report] = {}
    while len(found) < count:
        report = await reports.next(RECOVERY_TIMEOUT)
        found.setdefault(report.index, report)
    return found
