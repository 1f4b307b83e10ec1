"""What does a trained dictionary save on small values, and what does compressing cost a set?

Records of about 300 bytes are sealed and opened by the cache's own envelope: with zstd alone at any size, and
with a dictionary trained on other records. Then sets of a 10 KB value take turns, call by call, with their floor
in the same process: compressing the encoded value with a reused compressor, and one SET of what came out.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

import zstandard

from aioinfra.cache.manager import CacheManager
from aioinfra.codec.dictionaries import train
from aioinfra.codec.envelope import Envelope, EnvelopeOptions
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.layout import SIZE, Stamp
from aioinfra.connection.pool import RedisClient
from benchmarks.errors import WrongAnswerError
from benchmarks.harness import Answer, Figures, Goal, Metric, Question, header, interleave, progress
from benchmarks.peers import Peer
from benchmarks.plan import Plan
from benchmarks.server import running_server

SMALL: Final = "records of 300 bytes"
LARGE: Final = "a set of 10 KB"
PLAIN: Final = Peer("zstd alone", "", packages=("zstandard", "msgspec"))
TRAINED: Final = Peer("aioinfra, trained", "", packages=("aioinfra",))
FLOOR: Final = "zstd alone, then SET"
OURS: Final = "aioinfra set"
ROWS: Final = 34  # of 300 bytes
STAMP: Final = Stamp(1_700_000_000.0, 1_700_000_300.0)

QUESTION: Final = Question(
    name="cache_compression",
    title="compression of JSON values",
    metrics=(
        Metric("saves", "bytes before/after", 2, more_is_better=True),
        Metric("with_header", "bytes before/after, headers included", 2, more_is_better=True),
        Metric("seal_us", "encode, seal us", 1),
        Metric("open_us", "open, decode us", 1),
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
        answer.points[LARGE] = {FLOOR: [], OURS: []}
        for turn in range(rounds):
            progress(f"{LARGE}: round {turn + 1}/{rounds}")
            floor, ours = await alternating(server.url, plan.size_or(1000, 100))
            answer.points[LARGE][FLOOR].append({"set_us": floor, "times_floor": 1.0})
            answer.points[LARGE][OURS].append({"set_us": ours, "times_floor": ours / floor})
    return answer


def small(envelope: Envelope, values: Sequence[Any]) -> Figures:
    """One round: every value sealed, then opened.

    Raises:
        WrongAnswerError: another value came out.
    """
    plain = sum(len(envelope.codec.encode(value)) for value in values)
    envelope.open(envelope.seal(values[0], STAMP))  # reads the dictionary
    started = time.perf_counter()
    sealed = [envelope.seal(value, STAMP) for value in values]
    seal = time.perf_counter() - started
    started = time.perf_counter()
    opened = [envelope.open(data) for data in sealed]
    taken = time.perf_counter() - started
    if opened != values:
        raise WrongAnswerError("another value was opened than sealed")
    stored = sum(map(len, sealed))
    headers = SIZE * len(values)
    return {
        "saves": plain / (stored - headers),
        "with_header": (plain + headers) / stored,
        "seal_us": seal / len(values) * 1e6,
        "open_us": taken / len(values) * 1e6,
    }


async def alternating(url: str, count: int) -> tuple[float, float]:
    """Medians of the floor and of our sets, in microseconds.

    Raises:
        WrongAnswerError: another value is stored than was set.
    """
    value = [json.loads(record) for record in customers(ROWS, seed=5)]
    payload = JsonCodec().encode(value)
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    floors, ours = [], []
    async with RedisClient(url) as client, CacheManager(url) as cache:
        for _ in range(count):
            started = time.perf_counter()
            await client.execute("SET", "floor", compressor.compress(payload), "PX", 300_000)
            between = time.perf_counter()
            await cache.set("ours", value)
            floors.append(between - started)
            ours.append(time.perf_counter() - between)
        if await cache.get("ours") != value:
            raise WrongAnswerError("another value is stored than was set")
    return statistics.median(floors) * 1e6, statistics.median(ours) * 1e6
