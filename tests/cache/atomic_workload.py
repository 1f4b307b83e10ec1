"""What several processes do with the atomic verbs and locks at the same time, and a cache to do it with.

As a program it prints ``ready``, and for each line that names some work what its tasks saw, as one line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from aioinfra.cache.atomic import Atomic, AtomicVerbs
from aioinfra.cache.atomic_memory import MemoryAtomic
from aioinfra.cache.atomic_redis import RedisAtomic
from aioinfra.cache.keys import full_key
from aioinfra.cache.local import LocalCache
from aioinfra.cache.lock_store import MemoryLockStore, RedisLockStore
from aioinfra.cache.locks import Locks
from aioinfra.cache.script_lane import ScriptLane
from aioinfra.cache.store import MISS, Ttl
from aioinfra.cache.ttl import check_ttl
from aioinfra.cache.wakes import Wakes
from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.codec.codec import Codec
from aioinfra.codec.envelope import Envelope, Generation
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.layout import Stamp, Tags
from aioinfra.connection.batch import BatchLimits
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.connection.tracking import TrackingListener, TrackingOptions, TrackingState
from aioinfra.errors import DecodeError

ROOT = Path(__file__).resolve().parent.parent.parent
TASKS = 100
KEYS = 10
HOLD = 2.0  # seconds of the lease of a holder that is killed


class ServerCurrency:
    """The generation is asked of the server in doubt alone; tags stand while they are in ``standing``."""

    def __init__(self, client: RedisClient, key: str, generation: Generation) -> None:
        self._client = client
        self._key = key
        self._generation = generation
        self.standing: set[tuple[str, bytes]] = set()
        self.doubts = 0

    async def current(self) -> bytes:
        return self._generation.value

    async def is_current(self, generation: bytes, tags: Tags) -> bool:
        self.doubts += 1
        found = await self._client.execute("GET", self._key)
        self._generation.value = found or bytes(8)
        return generation == self._generation.value and self.standing.issuperset(tags)


class VerbCache(AtomicVerbs):
    """The atomic verbs, and a plain get and set, over a store of either kind."""

    def __init__(self, namespace: str, codec: Codec | None = None, default_ttl: float = 60.0) -> None:
        self.namespace = namespace
        self.generation = Generation()
        self.envelope = Envelope(codec or JsonCodec(), generation=self.generation)
        self.changes: list[str] = []
        self.default_ttl = default_ttl
        self.atomic: Atomic
        self.currency: ServerCurrency

    def _atomic(self) -> Atomic:
        return self.atomic

    def _full(self, key: str) -> str:
        return full_key(self.namespace, key)

    def lifetime(self, ttl: Ttl) -> float | None:
        return check_ttl(ttl, self.default_ttl)

    def seal(self, value: Any) -> bytes:
        return self.envelope.seal(value, Stamp(0.0))

    def opened(self, data: bytes) -> Any:
        try:
            return self.envelope.open(data)
        except DecodeError:
            return MISS

    async def get(self, key: str) -> Any:
        """What a reader of the layout sees."""
        data = await self.atomic.store.read(self._full(key))
        return MISS if data is None else self.opened(data)


async def nothing_to_provide(_data: bytes) -> None: ...


def assemble(cache: VerbCache, store: Any, locks: Locks) -> VerbCache:
    """A cache whose parts are chosen."""
    prefix = f"{cache.namespace}meta:lock:"
    cache.atomic = Atomic(
        store,
        locks,
        prefix,
        cache.lifetime,
        cache.seal,
        cache.opened,
        cache.changes.append,
        nothing_to_provide,
    )
    return cache


def memory_cache(namespace: str = "m:", clock: Clock = SYSTEM_CLOCK, entries: int = 1000) -> VerbCache:
    """In this process alone."""
    cache = VerbCache(namespace)
    local = LocalCache[bytes](entries, 1 << 20, clock)
    store = MemoryAtomic(local, cache.generation, cache.opened, clock=clock)
    return assemble(cache, store, Locks(MemoryLockStore(clock), Wakes(lambda: True), clock))


@contextlib.asynccontextmanager
async def server_cache(
    url: str, namespace: str, *, push: bool = True, budget: float = 2.0, codec: Codec | None = None
) -> AsyncIterator[VerbCache]:
    """On a server; with ``push`` waiters of locks hear of changes."""
    async with RedisClient(url, PoolOptions(max_connections=4)) as client:
        cache = VerbCache(namespace, codec)
        cache.currency = ServerCurrency(client, f"{namespace}meta:generation", cache.generation)
        lane = ScriptLane(client, budget, BatchLimits())
        listener: TrackingListener | None = None
        wakes = Wakes(lambda: listener is not None and listener.state is TrackingState.UP)
        assemble(cache, RedisAtomic(lane, cache.currency), Locks(RedisLockStore(lane), wakes))

        def heard(keys: Sequence[bytes] | None) -> None:
            if keys is None:
                wakes.wake_all()
            for key in keys or ():
                wakes.wake(key.decode())

        listening: asyncio.Task[None] | None = None
        if push:
            listener = TrackingListener(client, [namespace], heard, TrackingOptions())
            listening = asyncio.create_task(listener.run())
            await listener.wait_up(5.0)
        try:
            yield cache
        finally:
            await cache.atomic.aclose()
            if listening is not None:
                listening.cancel()
                await asyncio.wait([listening])


async def until(condition: Callable[[], Any], timeout: float = 5.0) -> None:
    """Return when the condition, a plain or async function, holds; TimeoutError after ``timeout`` seconds."""
    async with asyncio.timeout(timeout):
        while True:
            answer = condition()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.005)


def tell(line: str) -> None:
    """Write a line to whoever started this process."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# What the processes do


async def _incr(cache: VerbCache, me: int) -> Any:
    sums = [await cache.incr("counter", by) for by in (1, 2, -1, 5)]
    return [*sums, await cache.decr("down", 3, initial=1000)]


async def _add(cache: VerbCache, me: int) -> Any:
    return [number for number in range(KEYS) if await cache.add(f"add{number}", me)]


async def _get_or_set(cache: VerbCache, me: int) -> Any:
    async def late() -> int:
        await asyncio.sleep(0)
        return me

    defaults = (me, lambda: me, late)
    return [await cache.get_or_set(f"one{number}", defaults[number % 3]) for number in range(KEYS)]


async def _expire(cache: VerbCache, me: int) -> Any:
    await cache.add(f"live{me % KEYS}", me % KEYS)
    found = await cache.expire(f"live{me % KEYS}", 100 + me % 97)
    touched = await cache.touch(f"live{me % KEYS}", "never", ttl=200 + me % 97)
    left = await cache.ttl(f"live{me % KEYS}")
    return [found, touched, left]


async def _lock(cache: VerbCache, me: int) -> Any:
    """A read and a write that only a lock can keep together, on another lane than the lock's."""
    raw = cache.currency._client
    key = f"{cache.namespace}plain"
    async with cache.lock("turn", lease=5.0, wait=50.0) as lock:
        seen = int(await raw.execute("GET", key) or 0)
        await asyncio.sleep(0)
        await raw.execute("SET", key, seen + 1)
        await raw.execute("RPUSH", f"{cache.namespace}fences", lock.fence)
    return lock.fence


async def _hold(cache: VerbCache, me: int) -> Any:
    """The first task takes the lock, tells, and never lets go."""
    if me % 1_000 == 0:
        await cache.lock("held", lease=HOLD).acquire()
        tell("held")
    await asyncio.Event().wait()


WORK: dict[str, Callable[[VerbCache, int], Awaitable[Any]]] = {
    "incr": _incr,
    "add": _add,
    "get_or_set": _get_or_set,
    "expire": _expire,
    "lock": _lock,
    "hold": _hold,
}


async def main(url: str, namespace: str, number: int, push: bool) -> None:
    loop = asyncio.get_running_loop()
    async with server_cache(url, namespace, push=push, budget=5.0) as cache:
        tell("ready")
        while work := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            saw = [WORK[work](cache, number * 1_000 + task) for task in range(TASKS)]
            tell(json.dumps(await asyncio.gather(*saw)))


class Fleet:
    """Two of these processes. Ended with the block."""

    def __init__(self, url: str, namespace: str, *, push: bool = True, size: int = 2) -> None:
        command = [sys.executable, "-m", "tests.cache.atomic_workload", url, namespace]
        self._commands = [[*command, str(number), str(int(push))] for number in range(size)]
        self.processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Fleet:
        for command in self._commands:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 24
            )
            self.processes.append(process)
        for number in range(len(self.processes)):
            assert await self.line(number) == "ready"
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    async def go(self, work: str) -> None:
        """Let them all begin."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{work}\n".encode())

    async def line(self, number: int) -> str:
        """The next line of one process."""
        stream = self.processes[number].stdout
        assert stream is not None
        return (await asyncio.wait_for(stream.readline(), 40)).decode().strip()

    async def saw(self, work: str) -> list[Any]:
        """What all tasks of all processes saw."""
        await self.go(work)
        return [item for number in range(len(self.processes)) for item in json.loads(await self.line(number))]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"))
