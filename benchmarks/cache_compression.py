"""What does a trained dictionary save on small values, and what does compressing cost a set?

Records of about 300 bytes are sealed and opened by the cache's own envelope: with zstd alone at any size, and
with a dictionary trained on other records. Then sets of 10 KB of JSON take turns, call by call, with their floor
in the same process: compressing the text with a reused compressor, and one SET of what came out. The text is set
as bytes, and as the value that it encodes: the difference is the codec, which reads back what it wrote. Without
L1 the process does not hear of its own writes either.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import zstandard

from aioinfra.cache.manager import CacheManager
from aioinfra.codec.dictionaries import train
from aioinfra.codec.envelope import Envelope, EnvelopeOptions
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.layout import SIZE, Stamp
from aioinfra.connection.pool import RedisClient
from benchmarks.errors import WrongAnswerError
from benchmarks.harness import Answer, Figures, Goal, Metric, Question, Rounds, header, interleave, progress
from benchmarks.peers import Peer
from benchmarks.plan import Plan
from benchmarks.server import running_server

SMALL: Final = "records of 300 bytes"
LARGE: Final = "a set of 10 KB"
PLAIN: Final = Peer("zstd alone", "", packages=("zstandard", "msgspec"))
TRAINED: Final = Peer("aioinfra, trained", "", packages=("aioinfra",))
FLOOR: Final = "zstd alone, then SET"
OURS: Final = "aioinfra set, of the text"
ENCODED: Final = "aioinfra set, of the value"
UNTRACKED: Final = "aioinfra set, of the text, no L1"
ROWS: Final = 34  # of 300 bytes
STAMP: Final = Stamp(1_700_000_000.0, 1_700_000_300.0)

QUESTION: Final = Question(
    name="cache_compression",
    title="compression of JSON values",
    metrics=(
        Metric("saves", "bytes before/after", 2, more_is_better=True),
        Metric("with_header", "bytes before/after, headers included", 2, more_is_better=True),
        Metric("seal_us", "encode, seal: CPU us", 1),
        Metric("open_us", "open, decode: CPU us", 1),
        Metric("set_us", "p50 us/set", 1),
        Metric("times_floor", "times the floor", 2),
    ),
    ratio_of="saves",
    baseline=(PLAIN.name,),
    goals=(
        Goal(SMALL, TRAINED.name, "ratio", at_least=2.5),
        Goal(LARGE, OURS, "times_floor", at_most=1.3),
    ),
)

_FIRST: Final = (
    "Ada",
    "Grace",
    "Alan",
    "Edsger",
    "Barbara",
    "Donald",
    "Frances",
    "John",
    "Margaret",
    "Radia",
)
_LAST: Final = (
    "Lovelace",
    "Hopper",
    "Turing",
    "Liskov",
    "Knuth",
    "Allen",
    "Hamilton",
    "Perlman",
    "Goldwasser",
)
_CITIES: Final = (
    "London",
    "Berlin",
    "Lisbon",
    "Oslo",
    "Zagreb",
    "Vienna",
    "Toronto",
    "Osaka",
    "Nairobi",
    "Lima",
)


def customer(draw: random.Random, number: int) -> dict[str, Any]:
    """A record as an API would cache it: fixed names, chosen words, and numbers that nothing predicts."""
    first, last = draw.choice(_FIRST), draw.choice(_LAST)
    moment = f"2025-{draw.randrange(1, 13):02d}-{draw.randrange(1, 29):02d}T{draw.randrange(24):02d}"
    return {
        "id": 100_000 + number,
        "email": f"{first}.{last}{draw.randrange(1000)}@example.com".lower(),
        "name": f"{first} {last}",
        "active": draw.random() < 0.9,
        "plan": draw.choice(("free", "pro", "team", "enterprise")),
        "created_at": f"{moment}:{draw.randrange(60):02d}:{draw.randrange(60):02d}Z",
        "address": {
            "city": draw.choice(_CITIES),
            "country": draw.choice(("GB", "DE", "PT", "NO", "HR")),
            "postcode": f"{draw.randrange(10_000, 99_999)}",
        },
        "preferences": {
            "language": draw.choice(("en", "de", "pt")),
            "newsletter": draw.random() < 0.5,
            "theme": draw.choice(("dark", "light")),
        },
        "orders": draw.randrange(200),
        "balance": draw.randrange(100_000) / 100,
    }


def customers(count: int, seed: int = 1) -> list[bytes]:
    """So many records in compact JSON, some 300 bytes each; others for another seed."""
    draw = random.Random(seed)
    return [json.dumps(customer(draw, at), separators=(",", ":")).encode() for at in range(count)]


async def run(plan: Plan) -> Answer:
    """Measure both points."""
    peers, rounds = plan.chosen((PLAIN, TRAINED)), plan.rounds_or(9, 3)
    names = [name for peer in (PLAIN, TRAINED) for name in peer.packages]
    versions = {name: importlib.metadata.version(name) for name in names}
    samples = customers(4000)
    trained = train(samples)
    values = [json.loads(record) for record in customers(plan.size_or(2000, 200), seed=2)]

    async def measure(peer: Peer) -> Figures:
        envelope = Envelope(JsonCodec(), EnvelopeOptions(threshold=64))
        if peer is TRAINED:
            envelope.dictionaries.use(trained)
        return small(envelope, values)

    with running_server(plan.server) as server:
        top = header(server.version(), plan.server.transport, versions, rounds=rounds, samples=len(samples))
        answer = Answer(QUESTION, top)
        answer.points[SMALL] = await interleave(peers, rounds, measure, SMALL)
        sets: Rounds = {FLOOR: [], OURS: [], UNTRACKED: [], ENCODED: []}
        for turn in range(rounds):
            progress(f"{LARGE}: round {turn + 1}/{rounds}")
            medians = await alternating(server.url, plan.size_or(1000, 100))
            for name, median in medians.items():
                sets[name].append({"set_us": median, "times_floor": median / medians[FLOOR]})
        answer.points[LARGE] = sets
    return answer


def small(envelope: Envelope, values: Sequence[Any]) -> Figures:
    """One round: every value sealed, then opened.

    Raises:
        WrongAnswerError: another value came out.
    """
    plain = sum(len(envelope.codec.encode(value)) for value in values)
    sealed = [envelope.seal(value, STAMP) for value in values]
    if [envelope.open(data) for data in sealed] != values:
        raise WrongAnswerError("another value was opened than sealed")
    started = time.thread_time_ns()
    for value in values:
        envelope.seal(value, STAMP)
    between = time.thread_time_ns()
    for data in sealed:
        envelope.open(data)
    ended = time.thread_time_ns()
    stored = sum(map(len, sealed))
    headers = SIZE * len(values)
    return {
        "saves": plain / (stored - headers),
        "with_header": (plain + headers) / stored,
        "seal_us": (between - started) / len(values) / 1e3,
        "open_us": (ended - between) / len(values) / 1e3,
    }


async def alternating(url: str, count: int) -> dict[str, float]:
    """Medians in microseconds: of the floor, and of our sets.

    Raises:
        WrongAnswerError: another value is stored than was set.
    """
    value = [json.loads(record) for record in customers(ROWS, seed=5)]
    payload = JsonCodec().encode(value)
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    async with (
        RedisClient(url) as client,
        CacheManager(url) as cache,
        CacheManager(url, memory_cache_size=0, namespace="untracked:") as untracked,
    ):
        sets: dict[str, Callable[[], Awaitable[object]]] = {
            FLOOR: lambda: client.execute("SET", "floor", compressor.compress(payload), "PX", 300_000),
            OURS: lambda: cache.set("text", payload),
            UNTRACKED: lambda: untracked.set("text", payload),
            ENCODED: lambda: cache.set("value", value),
        }
        took: dict[str, list[float]] = {name: [] for name in sets}
        for _ in range(count):
            for name, one in sets.items():
                started = time.perf_counter()
                await one()
                took[name].append(time.perf_counter() - started)
        if await cache.get("value") != value or await cache.get("text") != payload:
            raise WrongAnswerError("another value is stored than was set")
    return {name: statistics.median(seconds) * 1e6 for name, seconds in took.items()}
