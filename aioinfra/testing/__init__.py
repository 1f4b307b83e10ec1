"""The fault kit: rehearse on your own service what networks, servers and schedulers do to it.

    FaultProxy, Latency, Bandwidth, ...      the network: slow, cut, partitioned, losing one reply
    FakeRedis, LOADING, OOM, Truncated, ...  chosen answers, alone or in front of a real server
    cancel_at_each_suspension                a coroutine cancelled at each of its awaits in turn
    aioinfra.testing.pytest_plugin           seeds for fault tests, and the command that replays one

Names are loaded when they are first used. Nothing here is imported by the rest of aioinfra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioinfra.testing.proxy import ActiveToxic, FaultProxy, ProxyFigures
    from aioinfra.testing.proxy_connection import Direction, LostReplies
    from aioinfra.testing.toxics import (
        Bandwidth,
        Latency,
        LimitData,
        ResetPeer,
        Slicer,
        SlowClose,
        Timeout,
        Toxic,
    )

_HOMES = {
    "ActiveToxic": "aioinfra.testing.proxy",
    "Bandwidth": "aioinfra.testing.toxics",
    "Direction": "aioinfra.testing.proxy_connection",
    "FaultProxy": "aioinfra.testing.proxy",
    "Latency": "aioinfra.testing.toxics",
    "LimitData": "aioinfra.testing.toxics",
    "LostReplies": "aioinfra.testing.proxy_connection",
    "ProxyFigures": "aioinfra.testing.proxy",
    "ResetPeer": "aioinfra.testing.toxics",
    "Slicer": "aioinfra.testing.toxics",
    "SlowClose": "aioinfra.testing.toxics",
    "Timeout": "aioinfra.testing.toxics",
    "Toxic": "aioinfra.testing.toxics",
}

__all__ = [
    "ActiveToxic",
    "Bandwidth",
    "Direction",
    "FaultProxy",
    "Latency",
    "LimitData",
    "LostReplies",
    "ProxyFigures",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "Timeout",
    "Toxic",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
