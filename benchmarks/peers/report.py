"""Stamps that a job sends to the benchmark on a datagram socket, past the queue under test.

CLOCK_MONOTONIC is one clock for all processes of a machine, so that a stamp taken in the worker can be
subtracted from one taken in the producer.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import time
from typing import Final

SOCKET_VARIABLE: Final = "BENCH_REPORT_SOCKET"
HOLD_VARIABLE: Final = "BENCH_HOLD_SECONDS"


class Channel:
    """One worker process's way to the benchmark. Without the socket in the environment it sends nothing."""

    def __init__(self, path: str | None) -> None:
        self._started = path is None
        self._socket: socket.socket | None = None
        if path is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.connect(path)

    def send(self, index: int, now: int, more: dict[str, int]) -> None:
        """Send one stamp; ``now`` in nanoseconds of CLOCK_MONOTONIC."""
        if self._socket is not None:
            self._socket.send(json.dumps({"index": index, "pid": os.getpid(), "ns": now, **more}).encode())

    def first(self) -> bool:
        """Send a stamp on the first call in this process; whether this was it."""
        if self._started:
            return False
        self._started = True
        self.send(-1, time.monotonic_ns(), {})
        return True


@functools.cache
def _channel() -> Channel:
    return Channel(os.environ.get(SOCKET_VARIABLE))


def first() -> bool:
    """The first line of ``noop``: tells the benchmark when this process started its first job, which is True."""
    return _channel().first()


def stamp(index: int, **more: int) -> None:
    """The first line of ``stamp``: tells the benchmark that the job has started, and what else it knows."""
    now = time.monotonic_ns()
    _channel().send(index, now, more)


def holding() -> float:
    """Seconds that ``stamp`` must wait before it returns; 0 except in the recovery benchmark."""
    return float(os.environ.get(HOLD_VARIABLE, "0"))
