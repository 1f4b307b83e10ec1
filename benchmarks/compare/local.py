"""Caches within the process: nanoseconds a lookup, a store into a full cache, a hit of a decorated function."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from benchmarks.compare.comparison import OURS, Comparison, Field, Request, alternate
from benchmarks.errors import BenchmarkError
from benchmarks.harness import Answer, Figures, Metric, Question, header
from benchmarks.peers import Peer
from benchmarks.peers.catalogue import Row
from benchmarks.processes import At, Client, client

ROUND_TIMEOUT: Final = 120.0

NANOSECONDS: Final = (Metric("ns", "ns"),)
LOOKUP: Final = Question(
    "lookup", "How long does the lookup of a key that is there take?", NANOSECONDS, "ns", (OURS,)
)
STORE: Final = Question("store", "How long does a store into a full cache take?", NANOSECONDS, "ns", (OURS,))
DECORATED: Final = Question(
    "decorated", "How long does a hit of a decorated async function take?", NANOSECONDS, "ns", (OURS,)
)
COMMANDS: Final = (("lookups", LOOKUP), ("stores", STORE), ("decorated", DECORATED))


async def run(request: Request, rows: tuple[Row, ...], found: Field) -> Comparison:
    """Measure all contestants, each in a process of its own; no server."""
    rounds, passes = request.rounds_or(7, 3), request.size_or(200, 10)
    answers = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        async with AsyncExitStack() as stack:
            clients = await opened(found, At("", Path(name)), stack)
            for command, question in COMMANDS:

                async def measure(peer: Peer, command: str = command) -> Figures:
                    async with asyncio.timeout(ROUND_TIMEOUT):
                        ns = await clients[peer.name].call(command, passes=passes)
                    return {} if ns is None else {"ns": ns}

                answers.append(Answer(question, {}, {"": await alternate(found, rounds, measure, command)}))
    top = header("", "", {}, rounds=rounds, calls=1000 * passes)
    return Comparison(request, {**top, "server": "no server"}, rows, found, answers)


async def opened(found: Field, place: At, stack: AsyncExitStack) -> dict[str, Client]:
    """A process of every contestant."""
    clients: dict[str, Client] = {}
    for peer in list(found.peers):
        try:
            one = await stack.enter_async_context(client(peer, place, "local"))
            found.versions[peer.name] = await one.call("versions", packages=peer.packages)
        except BenchmarkError as error:
            found.drop(peer, error)
        else:
            clients[peer.name] = one
    return clients
