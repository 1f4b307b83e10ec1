"""How fast are concurrent gets of small values?

1, 10, 100 and 1,000 tasks each get one 300-byte JSON record after the other, decoded and checked. Then a lone
get, alternating call by call with redis.asyncio in one process.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Final

from benchmarks.errors import WrongAnswerError
from benchmarks.harness import Answer, Figures, Goal, Metric, Question, Rounds, header, interleave, progress
from benchmarks.peers import Peer
from benchmarks.plan import Plan
from benchmarks.processes import Client, client
from benchmarks.server import BenchServer, running_server

VALUE_BYTES: Final = 300
KEYS: Final = 2000
OPERATIONS: Final = {1: (4_000, 500), 10: (20_000, 3_000), 100: (40_000, 8_000), 1000: (40_000, 8_000)}
ALTERNATING: Final = "1 task, taking turns call by call"

DEFAULT_POOL: Final = Peer(
    "redis.asyncio", "benchmarks.peers.redis_py:RedisPy", packages=("redis", "hiredis", "msgspec")
)
BLOCKING_POOL: Final = Peer("BlockingConnectionPool(50)", "benchmarks.peers.redis_py:RedisPy", {"pool": 50})
OURS: Final = Peer("aioinfra", "benchmarks.peers.aioinfra_cache:Cache", packages=("aioinfra",))
PEERS: Final = (DEFAULT_POOL, BLOCKING_POOL, OURS)

METRICS: Final = (
    Metric("rate", "gets/s", more_is_better=True),
    Metric("p50_ms", "p50 ms", 3),
    Metric("p99_ms", "p99 ms", 3),
    Metric("cpu_us", "CPU us/get", 1),
    Metric("server_us", "server CPU us/get", 1),
    Metric("commands", "commands/get", 2),
)
QUESTION: Final = Question(
    name="cache_get",
    title=f"get of {VALUE_BYTES}-byte values, decoded",
    metrics=METRICS,
    ratio_of="rate",
    baseline=(DEFAULT_POOL.name, BLOCKING_POOL.name),
    goals=(
        Goal("100 tasks", OURS.name, "ratio", at_least=5),
        Goal("1000 tasks", OURS.name, "ratio", at_least=5),
        Goal(ALTERNATING, OURS.name, "ratio", at_least=1 / 1.2),
    ),
)


async def run(plan: Plan) -> Answer:
    """Measure all points; all contestants share one server."""
    peers, rounds = plan.chosen(PEERS), plan.rounds_or(5, 3)
    with running_server(plan.server) as server:
        async with AsyncExitStack() as stack:
            clients: dict[str, Client] = {}
            versions: dict[str, str] = {}
            for peer in peers:
                clients[peer.name] = await stack.enter_async_context(client(peer, server, "cache"))
                versions |= await clients[peer.name].call("versions", packages=peer.packages)
                await clients[peer.name].call("store", count=KEYS, size=VALUE_BYTES)
            top = header(server.version(), plan.server.transport, versions, rounds=rounds, keys=KEYS)
            answer = Answer(QUESTION, top)
            for tasks, sizes in OPERATIONS.items():
                operations = plan.size_or(*sizes)
                point = f"{tasks} task{'s' if tasks > 1 else ''}"

                async def measure(peer: Peer, tasks: int = tasks, operations: int = operations) -> Figures:
                    return await concurrent(clients[peer.name], server, tasks, operations)

                answer.points[point] = await interleave(peers, rounds, measure, point)
            if OURS.name in clients:
                operations = plan.size_or(4_000, 1_000)
                answer.points[ALTERNATING] = await alternating(clients[OURS.name], rounds, operations)
    return answer


async def concurrent(contestant: Client, server: BenchServer, tasks: int, operations: int) -> Figures:
    """One round of one contestant, after a few gets that open its connections.

    Raises:
        WrongAnswerError: the server was asked for fewer keys than there were gets.
    """
    await contestant.call("get", tasks=tasks, operations=max(tasks, operations // 20))
    before = server.usage()
    figures: dict[str, float] = await contestant.call("get", tasks=tasks, operations=operations)
    after = server.usage()
    done = figures["operations"]
    if after.lookups - before.lookups < done:
        raise WrongAnswerError("some gets were answered without asking the server")
    server_us = (after.cpu - before.cpu) / done * 1e6
    return {**figures, "server_us": server_us, "commands": (after.commands - before.commands) / done}


async def alternating(ours: Client, rounds: int, operations: int) -> Rounds:
    """A lone get of ours and of redis.asyncio within one process: medians, and the rates they amount to."""
    options = json.dumps({"prefix": "other:"})
    found: Rounds = {DEFAULT_POOL.name: [], OURS.name: []}
    for turn in range(rounds):
        progress(f"{ALTERNATING}: round {turn + 1}/{rounds}")
        mine, other = await ours.call(
            "alternate", factory=DEFAULT_POOL.factory, options=options, operations=operations
        )
        found[OURS.name].append({"p50_ms": mine / 1e3, "rate": 1e6 / mine})
        found[DEFAULT_POOL.name].append({"p50_ms": other / 1e3, "rate": 1e6 / other})
    return found
