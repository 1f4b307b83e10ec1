"""The timed loops of caches within the process: nanoseconds a call, the loop around it included."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from benchmarks.errors import WrongAnswerError
from benchmarks.peers.protocol import LocalPeer

KEYS: Final = 1000


def expect(key: str, found: Any, value: Any) -> None:
    """Some libraries answer with the value and whether there is one.

    Raises:
        WrongAnswerError: it is neither form of the right answer.
    """
    if found not in (value, (value, True)):
        raise WrongAnswerError(f"{key} is not what was stored")


def lookups(peer: LocalPeer, values: Mapping[str, Any], passes: int) -> float:
    """Every key is there; the cache has room for twice as many."""
    lookup = peer.lookup(values, 2 * len(values))
    for key, value in values.items():
        expect(key, lookup(key), value)
    keys = list(values) * passes
    begun = time.perf_counter_ns()
    for key in keys:
        lookup(key)
    return (time.perf_counter_ns() - begun) / len(keys)


def stores(peer: LocalPeer, passes: int) -> float:
    """Every key is new and, but for the first ones, the cache full."""
    store = peer.store(KEYS)
    for index in range(KEYS):
        store(f"old:{index}", index)
    keys = [f"new:{index}" for index in range(KEYS * passes)]
    begun = time.perf_counter_ns()
    for key in keys:
        store(key, key)
    return (time.perf_counter_ns() - begun) / len(keys)


async def decorated(peer: LocalPeer, values: Mapping[str, Any], passes: int) -> float:
    """Calls of a decorated async function, all of them hits.

    Raises:
        WrongAnswerError: a hit ran the function again.
    """
    calls = 0

    async def load(key: str) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        value: dict[str, Any] = values[key]
        return value

    function = await peer.decorate(load, 2 * len(values))
    for _ in range(2):
        for key, value in values.items():
            found = await function(key)
            if calls:  # the plain coroutine is the floor: it neither loads nor keeps
                expect(key, found, value)
    keys = list(values) * passes
    begun = time.perf_counter_ns()
    for key in keys:
        await function(key)
    ended = time.perf_counter_ns()
    if calls not in (0, len(values)):
        raise WrongAnswerError("a hit ran the function again")
    return (ended - begun) / len(keys)
