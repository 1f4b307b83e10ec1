"""Caches on a server: get, set and mget of 300-byte records, encoded and decoded.

Every contestant keeps one client and one database of the same server throughout; one of them works at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from benchmarks.compare.comparison import OURS, Comparison, Field, Request, alternate
from benchmarks.errors import BenchmarkError, WrongAnswerError
from benchmarks.harness import Answer, Figures, Metric, Question, header
from benchmarks.peers import Peer
from benchmarks.peers.catalogue import Row
from benchmarks.processes import At, Client, client
from benchmarks.server import BenchServer, ServerOptions, running_server

ROUND_TIMEOUT: Final = 120.0
VALUE_BYTES: Final = 300
KEYS: Final = 2000
TASKS: Final = (1, 10, 100, 1000)
PUT_TASKS: Final = 100
MANY_TASKS: Final = 10
MANY_KEYS: Final = 100

CPU: Final = (
    Metric("cpu_us", "client CPU us each", 1),
    Metric("server_us", "server CPU us each", 1),
    Metric("commands", "commands each", 2),
)
GET: Final = Question(
    "get",
    "How many 300-byte values can concurrent tasks get, decoded?",
    (
        Metric("rate", "gets/s", more_is_better=True),
        Metric("p50_ms", "p50 ms", 3),
        Metric("p99_ms", "p99 ms", 3),
        *CPU,
    ),
    "rate",
    (OURS,),
)
SET: Final = Question(
    "set",
    "How many 300-byte values can concurrent tasks set?",
    (Metric("rate", "sets/s", more_is_better=True), *CPU),
    "rate",
    (OURS,),
)
MGET: Final = Question(
    "mget",
    "How many reads of 100 keys can concurrent tasks do, decoded?",
    (Metric("rate", "mgets/s", more_is_better=True), *CPU),
    "rate",
    (OURS,),
)


async def run(request: Request, rows: tuple[Row, ...], found: Field) -> Comparison:
    """Measure all points; all contestants share one server."""
    rounds, size = request.rounds_or(5, 2), request.size_or(20_000, 1_500)
    with running_server(ServerOptions()) as server:
        async with AsyncExitStack() as stack:
            clients = await opened(found, server, stack)
            contest = Contest(server, clients, found, rounds)
            gets = {
                f"{tasks} task{'s' if tasks > 1 else ''}": await contest.of(
                    "get", tasks, size if tasks > 1 else size // 5
                )
                for tasks in TASKS
            }
            sets = {f"{PUT_TASKS} tasks": await contest.of("put", PUT_TASKS, size)}
            many = {
                f"{MANY_TASKS} tasks, {MANY_KEYS} keys": await contest.of(
                    "get_many", MANY_TASKS, max(MANY_TASKS, size // 40), keys=MANY_KEYS
                )
            }
        top = header(server.version(), "tcp", {}, rounds=rounds, operations=size, keys=KEYS)
    answers = [Answer(GET, {}, gets), Answer(SET, {}, sets), Answer(MGET, {}, many)]
    return Comparison(request, top, rows, found, answers)


async def opened(found: Field, server: BenchServer, stack: AsyncExitStack) -> dict[str, Client]:
    """A client of every contestant, its values stored and read back once."""
    clients: dict[str, Client] = {}
    base = server.url.rpartition("/")[0]
    for database, peer in enumerate(list(found.peers)):
        place = At(f"{base}/{database}", server.directory)
        try:
            async with asyncio.timeout(ROUND_TIMEOUT):
                one = await stack.enter_async_context(client(peer, place, "cache"))
                found.versions[peer.name] = await one.call("versions", packages=peer.packages)
                await one.call("store", count=KEYS, size=VALUE_BYTES)
        except (BenchmarkError, TimeoutError) as error:
            found.drop(peer, error)
        else:
            clients[peer.name] = one
    return clients


class Contest:
    """Rounds of one command at a time."""

    def __init__(self, server: BenchServer, clients: Mapping[str, Client], found: Field, rounds: int) -> None:
        self._server, self._clients, self._field, self._rounds = server, clients, found, rounds

    async def of(self, command: str, tasks: int, operations: int, **more: Any) -> dict[str, list[Figures]]:
        """All rounds of a command at one point."""

        async def measure(peer: Peer) -> Figures:
            async with asyncio.timeout(ROUND_TIMEOUT):
                return await self._one(peer, command, tasks, operations, **more)

        return await alternate(self._field, self._rounds, measure, f"{command} at {tasks} tasks")

    async def _one(self, peer: Peer, command: str, tasks: int, operations: int, **more: Any) -> Figures:
        """One round, after a few operations that open connections.

        Raises:
            WrongAnswerError: the server was asked for fewer keys than there were gets.
        """
        contestant = self._clients[peer.name]
        warm = max(tasks, operations // 20)
        if await contestant.call(command, tasks=tasks, operations=warm, **more) is None:
            return {}
        before = self._server.usage()
        figures: dict[str, float] = await contestant.call(command, tasks=tasks, operations=operations, **more)
        after = self._server.usage()
        done = figures["operations"]
        if command == "get" and after.lookups - before.lookups < done:
            raise WrongAnswerError("some gets were answered without asking the server")
        return {
            **figures,
            "server_us": (after.cpu - before.cpu) / done * 1e6,
            "commands": (after.commands - before.commands) / done,
        }
