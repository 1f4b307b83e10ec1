"""The fault kit: rehearse on your own service what networks, servers and schedulers do to it.

    RedisServer, SentinelSetup, ...          servers of your own: crash them, freeze them, bring them back
    WorkerProcess                            a worker that can be killed at a named step of a job's life
    FaultProxy, Latency, Bandwidth, ...      the network: slow, cut, partitioned, losing one reply
    FakeRedis, LOADING, OOM, Truncated, ...  chosen answers, alone or in front of a real server
    cancel_at_each_suspension                a coroutine cancelled at each of its awaits in turn
    VirtualClock                             hours of timers in the time that their work takes
    aioinfra.testing.pytest_plugin           seeds for fault tests, and the command that replays one

Names are loaded when they are first used. Nothing here is imported by the rest of aioinfra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioinfra.testing.answers import (
        BUSY,
        CLUSTERDOWN,
        JUNK,
        LOADING,
        MASTERDOWN,
        MAX_CLIENTS,
        MISCONF,
        NOAUTH,
        NOPERM,
        NOREPLICAS,
        NOSCRIPT,
        OK,
        OOM,
        READONLY,
        TRYAGAIN,
        WRONGPASS,
        WRONGTYPE,
        Answer,
        Delayed,
        ErrorReply,
        LostReply,
        OversizeBulk,
        Raw,
        Silence,
        ThenClose,
        Truncated,
        Value,
    )
    from aioinfra.testing.cancellation import (
        CancellationReport,
        CancelledRun,
        CancelOutcome,
        Moment,
        cancel_at_each_suspension,
    )
    from aioinfra.testing.cluster import ClusterOptions, ClusterSetup
    from aioinfra.testing.fake_server import FakeRedis, Rule
    from aioinfra.testing.proxy import ActiveToxic, FaultProxy, ProxyFigures
    from aioinfra.testing.proxy_connection import Direction, LostReplies
    from aioinfra.testing.sentinel import SentinelOptions, SentinelSetup
    from aioinfra.testing.servers import RedisServer, ServerOptions
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
    from aioinfra.testing.virtual_clock import NeverCameTrueError, VirtualClock
    from aioinfra.testing.worker_process import Standing, WorkerProcess, WorkerProcessOptions
    from aioinfra.testing.worker_steps import Step

_HOMES = {
    "ClusterOptions": "aioinfra.testing.cluster",
    "ClusterSetup": "aioinfra.testing.cluster",
    "NeverCameTrueError": "aioinfra.testing.virtual_clock",
    "RedisServer": "aioinfra.testing.servers",
    "SentinelOptions": "aioinfra.testing.sentinel",
    "SentinelSetup": "aioinfra.testing.sentinel",
    "ServerOptions": "aioinfra.testing.servers",
    "Standing": "aioinfra.testing.worker_process",
    "Step": "aioinfra.testing.worker_steps",
    "VirtualClock": "aioinfra.testing.virtual_clock",
    "WorkerProcess": "aioinfra.testing.worker_process",
    "WorkerProcessOptions": "aioinfra.testing.worker_process",
    "CancelOutcome": "aioinfra.testing.cancellation",
    "CancellationReport": "aioinfra.testing.cancellation",
    "CancelledRun": "aioinfra.testing.cancellation",
    "Moment": "aioinfra.testing.cancellation",
    "cancel_at_each_suspension": "aioinfra.testing.cancellation",
    "BUSY": "aioinfra.testing.answers",
    "CLUSTERDOWN": "aioinfra.testing.answers",
    "JUNK": "aioinfra.testing.answers",
    "LOADING": "aioinfra.testing.answers",
    "MASTERDOWN": "aioinfra.testing.answers",
    "MAX_CLIENTS": "aioinfra.testing.answers",
    "MISCONF": "aioinfra.testing.answers",
    "NOAUTH": "aioinfra.testing.answers",
    "NOPERM": "aioinfra.testing.answers",
    "NOREPLICAS": "aioinfra.testing.answers",
    "NOSCRIPT": "aioinfra.testing.answers",
    "OK": "aioinfra.testing.answers",
    "OOM": "aioinfra.testing.answers",
    "READONLY": "aioinfra.testing.answers",
    "TRYAGAIN": "aioinfra.testing.answers",
    "WRONGPASS": "aioinfra.testing.answers",
    "WRONGTYPE": "aioinfra.testing.answers",
    "Answer": "aioinfra.testing.answers",
    "Delayed": "aioinfra.testing.answers",
    "ErrorReply": "aioinfra.testing.answers",
    "LostReply": "aioinfra.testing.answers",
    "OversizeBulk": "aioinfra.testing.answers",
    "Raw": "aioinfra.testing.answers",
    "Silence": "aioinfra.testing.answers",
    "ThenClose": "aioinfra.testing.answers",
    "Truncated": "aioinfra.testing.answers",
    "Value": "aioinfra.testing.answers",
    "FakeRedis": "aioinfra.testing.fake_server",
    "Rule": "aioinfra.testing.fake_server",
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
    "BUSY",
    "CLUSTERDOWN",
    "JUNK",
    "LOADING",
    "MASTERDOWN",
    "MAX_CLIENTS",
    "MISCONF",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "NOSCRIPT",
    "OK",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "WRONGPASS",
    "WRONGTYPE",
    "ActiveToxic",
    "Answer",
    "Bandwidth",
    "CancelOutcome",
    "CancellationReport",
    "CancelledRun",
    "ClusterOptions",
    "ClusterSetup",
    "Delayed",
    "Direction",
    "ErrorReply",
    "FakeRedis",
    "FaultProxy",
    "Latency",
    "LimitData",
    "LostReplies",
    "LostReply",
    "Moment",
    "NeverCameTrueError",
    "OversizeBulk",
    "ProxyFigures",
    "Raw",
    "RedisServer",
    "ResetPeer",
    "Rule",
    "SentinelOptions",
    "SentinelSetup",
    "ServerOptions",
    "Silence",
    "Slicer",
    "SlowClose",
    "Standing",
    "Step",
    "ThenClose",
    "Timeout",
    "Toxic",
    "Truncated",
    "Value",
    "VirtualClock",
    "WorkerProcess",
    "WorkerProcessOptions",
    "cancel_at_each_suspension",
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
