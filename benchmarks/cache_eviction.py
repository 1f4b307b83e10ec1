"""How often does a table of 1,000 entries hit, by its way to make room, and what do a hit and a put cost?

No server and no other process: contestants take turns in this one and replay the same requests. A request that
finds nothing puts its key. The requests are seeded, so that the hits are the same in every round; the cost is CPU
time of the calling thread. Peers that are not installed beside aioinfra are left out.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import pkgutil
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import cachetools

from aioinfra.cache.entries import Entries, Entry
from benchmarks.harness import Answer, Figures, Goal, Metric, Question, Rounds, header, interleave, progress
from benchmarks.peers import Peer
from benchmarks.plan import Plan

CAPACITY: Final = 1000  # entries
UNIVERSE: Final = 20 * CAPACITY  # different keys
LIFETIME: Final = 300.0  # seconds, for those that want one; longer than a run
HIT: Final = "a hit"
MISS: Final = "a miss and its put"


class Policy:
    """One way to make room."""

    def replay(self, keys: Sequence[str]) -> int:
        """Ask for every key and put what is missing; the number of hits."""
        raise NotImplementedError


class OrderedDictLru(Policy):
    """The least that an LRU can cost in CPython."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, str] = OrderedDict()

    def replay(self, keys: Sequence[str]) -> int:
        held, hits = self._held, 0
        for key in keys:
            if key in held:
                held.move_to_end(key)
                hits += 1
                continue
            held[key] = key
            if len(held) > CAPACITY:
                held.popitem(last=False)
        return hits


class Mapped(Policy):
    """Caches that are mappings: cachetools' and cachebox'."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def replay(self, keys: Sequence[str]) -> int:
        cache, hits = self._cache, 0
        for key in keys:
            try:
                cache[key]
            except KeyError:
                cache[key] = key
            else:
                hits += 1
        return hits


def cachetools_lru() -> Policy:
    return Mapped(cachetools.LRUCache(CAPACITY))


def cachetools_ttl() -> Policy:
    return Mapped(cachetools.TTLCache(CAPACITY, LIFETIME))


def cachebox_lru() -> Policy:
    return Mapped(pkgutil.resolve_name("cachebox:LRUCache")(CAPACITY))


class MokaPy(Policy):
    """TinyLFU."""

    def __init__(self) -> None:
        self._cache = pkgutil.resolve_name("moka_py:Moka")(CAPACITY)

    def replay(self, keys: Sequence[str]) -> int:
        get, put, hits = self._cache.get, self._cache.set, 0
        for key in keys:
            if get(key) is None:
                put(key, key)
            else:
                hits += 1
        return hits


class Theine(Policy):
    """W-TinyLFU; without its locks, which one thread does not need."""

    def __init__(self) -> None:
        self._cache = pkgutil.resolve_name("theine:Cache")(CAPACITY, nolock=True)

    def replay(self, keys: Sequence[str]) -> int:
        get, put, hits = self._cache.get, self._cache.set, 0
        for key in keys:
            if get(key)[1]:
                hits += 1
            else:
                put(key, key)
        return hits


class Ours(Policy):
    """aioinfra's table, used as the near-cache does."""

    def __init__(self) -> None:
        self._table = Entries(CAPACITY, 1 << 40)

    def replay(self, keys: Sequence[str]) -> int:
        get, put, hits = self._table.get, self._table.put, 0
        for key in keys:
            entry = get(key)
            if entry is None:
                put(Entry(key, key, 0))
            else:
                entry.hits += 1
                hits += 1
        return hits


class Sieve(Policy):
    """SIEVE (Zhang et al., NSDI 2024), for its hits only: a list stands for the queue, its hand costs O(n)."""

    def __init__(self) -> None:
        self._visited: dict[str, bool] = {}
        self._queue: list[str] = []  # oldest first
        self._hand = 0

    def replay(self, keys: Sequence[str]) -> int:
        visited, hits = self._visited, 0
        for key in keys:
            if key in visited:
                visited[key] = True
                hits += 1
                continue
            if len(visited) >= CAPACITY:
                self._evict()
            visited[key] = False
            self._queue.append(key)
        return hits

    def _evict(self) -> None:
        queue, visited = self._queue, self._visited
        while visited[queue[self._hand]]:
            visited[queue[self._hand]] = False
            self._hand = (self._hand + 1) % len(queue)
        del visited[queue.pop(self._hand)]
        self._hand %= len(queue)


class PlainS3Fifo(Policy):
    """S3-FIFO (Yang et al., SOSP 2023) without the duel, its frequencies up to 3; for its hits only."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._small: deque[str] = deque()
        self._main: deque[str] = deque()
        self._ghost: OrderedDict[str, None] = OrderedDict()

    def replay(self, keys: Sequence[str]) -> int:
        asked, ghost, hits = self._asked, self._ghost, 0
        for key in keys:
            if key in asked:
                asked[key] = min(asked[key] + 1, 3)
                hits += 1
                continue
            while len(asked) >= CAPACITY:
                self._make_room()
            asked[key] = 0
            if key in ghost:
                del ghost[key]
                self._main.append(key)
            else:
                self._small.append(key)
        return hits

    def _make_room(self) -> None:
        asked, small, main, ghost = self._asked, self._small, self._main, self._ghost
        if len(small) >= CAPACITY // 10 or not main:
            key = small.popleft()
            if asked[key]:
                asked[key] = 0
                main.append(key)
                return
            ghost[key] = None
            if len(ghost) > CAPACITY * 9 // 10:
                ghost.popitem(last=False)
        else:
            key = main.popleft()
            if asked[key]:
                asked[key] -= 1
                main.append(key)
                return
        del asked[key]


def peer(name: str, factory: str, *packages: str) -> Peer:
    return Peer(name, f"benchmarks.cache_eviction:{factory}", packages=packages)


LRU: Final = peer("OrderedDict LRU", "OrderedDictLru")
OURS: Final = peer("aioinfra", "Ours", "aioinfra")
COSTED: Final = (
    LRU,
    peer("cachetools LRU", "cachetools_lru", "cachetools"),
    peer("cachetools TTL", "cachetools_ttl", "cachetools"),
    peer("cachebox LRU", "cachebox_lru", "cachebox"),
    peer("moka-py", "MokaPy", "moka-py"),
    peer("theine", "Theine", "theine"),
    OURS,
)
# cachetools and cachebox hit as every LRU does; SIEVE and S3-FIFO are here for their hits alone
REPLAYED: Final = (
    LRU,
    peer("SIEVE", "Sieve"),
    peer("S3-FIFO", "PlainS3Fifo"),
    *(peer for peer in COSTED if peer.name in {"moka-py", "theine"}),
    OURS,
)
PEERS: Final = tuple({peer.name: peer for peer in (*COSTED, *REPLAYED)}.values())
MODULES: Final = {"cachebox": "cachebox", "moka-py": "moka_py", "theine": "theine"}


def zipf(exponent: float, count: int, chance: random.Random, universe: int = UNIVERSE) -> list[int]:
    """Ranks, the most popular 0."""
    weights = list(itertools.accumulate(1 / (rank + 1) ** exponent for rank in range(universe)))
    return chance.choices(range(universe), cum_weights=weights, k=count)


def scans(count: int) -> list[int]:
    """Zipf's, and after every 5 tables' worth of them 2 tables' worth of keys that are asked for once."""
    found: list[int] = []
    ranks = zipf(1.0, count, random.Random(12))
    fresh = itertools.count(UNIVERSE)
    for start in range(0, count, 5 * CAPACITY):
        found += ranks[start : start + 5 * CAPACITY]
        found += itertools.islice(fresh, 2 * CAPACITY)
    return found[:count]


def change(count: int) -> list[int]:
    """Zipf's, whose most popular keys are others in every twentieth part."""
    chance, part = random.Random(13), max(1, count // 20)
    return [
        rank + turn * 5 * CAPACITY // 2
        for turn in range(20)
        for rank in zipf(1.0, part, chance, 10 * CAPACITY)
    ]


def replaced(count: int) -> list[int]:
    """Loops through fewer keys than fit; after ten of them through others."""
    size = CAPACITY * 8 // 10
    return [index // (10 * size) * UNIVERSE + index % size for index in range(count)]


REQUESTS: Final[Mapping[str, Callable[[int], list[int]]]] = {
    "Zipf 0.8": lambda count: zipf(0.8, count, random.Random(11)),
    "Zipf 1.0": lambda count: zipf(1.0, count, random.Random(11)),
    "Zipf 1.2": lambda count: zipf(1.2, count, random.Random(11)),
    "Zipf 1.0 and scans": scans,
    "a loop of 1,100 keys": lambda count: [index % (CAPACITY * 11 // 10) for index in range(count)],
    "a loop of 1,500 keys": lambda count: [index % (CAPACITY * 3 // 2) for index in range(count)],
    "favourites that change": change,
    "a working set that is replaced": replaced,
}

QUESTION: Final = Question(
    name="cache_eviction",
    title="Making room",
    metrics=(
        Metric("hits", "hits %", 1, more_is_better=True),
        Metric("over_lru", "above LRU's", 1, more_is_better=True),
        Metric("cpu_ns", "CPU ns/request"),
    ),
    ratio_of="cpu_ns",
    baseline=(LRU.name,),
    goals=(
        *(Goal(point, OURS.name, "over_lru", at_least=2) for point in list(REQUESTS)[:4]),
        *(Goal(point, OURS.name, "over_lru", at_least=30) for point in list(REQUESTS)[4:6]),
        Goal(HIT, OURS.name, "ratio", at_least=1),
    ),
)


async def run(plan: Plan) -> Answer:
    """Measure all points in this process."""
    chosen = [peer for peer in plan.chosen(PEERS) if installed(peer)]
    rounds, count = plan.rounds_or(3, 1), plan.size_or(200_000, 20_000)
    versions = {name: importlib.metadata.version(name) for peer in chosen for name in peer.packages}
    top = header("", "", versions, rounds=rounds, requests=count, entries=CAPACITY)
    answer = Answer(QUESTION, top | {"server": "no server"})
    for point, made in REQUESTS.items():
        peers = [peer for peer in REPLAYED if peer in chosen]
        if peers:
            keys = [f"user:{number:08d}" for number in made(count)]
            answer.points[point] = above_lru(await replays(peers, rounds, [], keys, point))
    peers = [peer for peer in COSTED if peer in chosen]
    if peers:
        held = [f"user:{number:08d}" for number in range(CAPACITY // 2)]
        hot = (held * (count // len(held) + 1))[:count]
        answer.points[HIT] = await replays(peers, rounds, held, hot, HIT)
        fresh = [f"new:{number:08d}" for number in range(count)]
        answer.points[MISS] = await replays(peers, rounds, [], fresh, MISS)
    return answer


def installed(peer: Peer) -> bool:
    """Whether it can take part; says so if it cannot."""
    module = MODULES.get(peer.name.partition(" ")[0])
    if module is None or importlib.util.find_spec(module) is not None:
        return True
    progress(f"{peer.name} is not installed here: left out")
    return False


async def replays(
    peers: Sequence[Peer], rounds: int, before: Sequence[str], keys: Sequence[str], point: str
) -> Rounds:
    """Every contestant's hits and cost, each time with a new table that was asked for ``before``."""

    async def measure(peer: Peer) -> Figures:
        policy: Policy = pkgutil.resolve_name(peer.factory)()
        policy.replay(before)
        begun = time.thread_time_ns()
        hits = policy.replay(keys)
        return {"hits": 100 * hits / len(keys), "cpu_ns": (time.thread_time_ns() - begun) / len(keys)}

    return await interleave(peers, rounds, measure, point)


def above_lru(found: Rounds) -> Rounds:
    """With the difference to LRU's hits, in percentage points."""
    if LRU.name not in found:
        return found
    base = found[LRU.name][0]["hits"]
    return {
        name: [{**figures, "over_lru": figures["hits"] - base} for figures in of_one]
        for name, of_one in found.items()
    }
