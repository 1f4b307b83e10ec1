"""A worker process's side of its supervisor: what it reports, and how it ends when the supervisor is gone.

The supervisor hands down one end of a socket. On it the worker says ``ready`` when it begins to work, and ``leave``
with a reason when it should be replaced; the supervisor then sends SIGTERM. One of them decides: a worker that sent
itself a SIGTERM, and got another one from its supervisor, would cut its own jobs' grace short.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

logger = logging.getLogger("aioinfra.jobs")

VARIABLE = "AIOINFRA_SUPERVISED"
LOOK_EVERY = 0.02
"""Seconds between two looks at the worker's memory and jobs: a leak of 1 MB a job is many MB a second."""
_FULL = 0.9
"""Part of the memory limit at which a worker asks to leave: what still runs then may need some."""
_STATM = Path("/proc/self/statm")


class Orders(NamedTuple):
    """What the supervisor hands down in the environment.

    Attributes:
        fd: the socket.
        max_jobs: jobs after which the worker should be replaced, or None.
        max_rss: bytes of resident memory above which it should be, or None.
        grace: seconds from SIGTERM to SIGKILL when the supervisor is gone.
        place: the worker's number, from 0; whoever replaces it has it again.
    """

    fd: int
    max_jobs: int | None
    max_rss: int | None
    grace: float
    place: int = 0

    def encoded(self) -> str:
        return msgspec.json.encode(self).decode()


class Supervised:
    """The supervisor, as seen from one of its workers. Make one with `from_environment`."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._socket = socket.socket(fileno=orders.fd)
        self._socket.set_inheritable(False)
        self._left = threading.Lock()  # taken by the first reason to leave
        self._thread: threading.Thread | None = None

    @classmethod
    def from_environment(cls) -> Self | None:
        """The supervisor of this process, or None; asked once, since it is not this process' children's, too."""
        orders = os.environ.pop(VARIABLE, None)
        return None if orders is None else cls(msgspec.json.decode(orders, type=Orders))

    @property
    def index(self) -> int:
        """Which of the supervisor's places this worker has, from 0."""
        return self._orders.place

    def ready(self) -> None:
        """Say that the worker begins to work. Any thread."""
        self._say("ready")

    def leave(self, reason: str) -> None:
        """Ask to be replaced; the first reason counts. Any thread."""
        if self._left.acquire(blocking=False):
            self._say(f"leave {' '.join(reason.split())[:500]}")

    def watch(self, jobs: Callable[[], int]) -> None:
        """Look after the limits, and for the supervisor's end, in a thread: also while a job blocks the loop.

        Args:
            jobs: how many jobs this worker has run; called in that thread.
        """
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._watch, args=(jobs,), name="aioinfra-supervised", daemon=True
            )
            self._thread.start()

    def _say(self, line: str) -> None:
        try:
            self._socket.sendall(line.encode() + b"\n")
        except OSError:  # the supervisor is gone: the thread sees to that
            logger.debug("the supervisor does not listen", exc_info=True)

    def _watch(self, jobs: Callable[[], int]) -> None:
        orders = self._orders
        limit = None if orders.max_rss is None else orders.max_rss * _FULL
        pause = None if orders.max_jobs is None and orders.max_rss is None else LOOK_EVERY
        while True:
            readable, _, _ = select.select([self._socket], [], [], pause)
            if readable:  # it never writes: this is its end
                self._end()
                return
            if orders.max_jobs is not None and jobs() >= orders.max_jobs:
                self.leave(f"it has run {jobs()} jobs")
            elif limit is not None and (rss := resident_bytes()) > limit and jobs():
                # Not before its first job: where the limit is too low, each worker still gets something done.
                self.leave(f"it has {rss >> 20} MiB of memory")

    def _end(self) -> None:
        logger.error("the supervisor is gone: this worker ends")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._orders.grace)
        os.kill(os.getpid(), signal.SIGKILL)


def resident_bytes() -> int:
    """Resident memory of this process. A few microseconds on Linux."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGESIZE")
    except FileNotFoundError:  # another system than Linux
        import psutil

        return int(psutil.Process().memory_info().rss)
