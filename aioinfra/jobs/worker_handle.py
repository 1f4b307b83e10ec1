"""A worker process as its supervisor sees it: spawned, heard, told to leave, reaped."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Sequence

from aioinfra.jobs.spawned import SpawnedProcess
from aioinfra.jobs.supervised import VARIABLE, Orders

logger = logging.getLogger("aioinfra.supervisor")


class WorkerHandle:
    """One worker process, from its start to its reaped end.

    Args:
        command, orders: what it runs, and what it is told; the socket is added here.
        hear: takes its lines.
    """

    def __init__(
        self, command: Sequence[str], orders: Orders, hear: Callable[[WorkerHandle, str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._hear = hear
        self._grace = orders.grace
        self._began = self._loop.time()
        self._deadline: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()
        self._heard = b""
        self.status = 0
        """Its exit status, once ``end`` is done."""
        self.leaving = False
        self.ready = asyncio.Event()
        self.over = asyncio.Event()
        """Set when its place is free: it has ended, or is told to leave."""
        self._socket, theirs = socket.socketpair()
        with theirs:
            told = orders._replace(fd=theirs.fileno()).encoded()
            self.process = SpawnedProcess(command, theirs.fileno(), {VARIABLE: told})
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._read)
        self.end = asyncio.create_task(self._see_out(), name=f"aioinfra-worker-{self.process.pid}")

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return self._loop.time() - self._began

    def leave(self, reason: str) -> None:
        """Send it SIGTERM, once, and SIGKILL when its grace is over."""
        if self.leaving or self.end.done():
            return
        self.leaving = True
        self.over.set()
        logger.info("worker %d is to leave: %s", self.process.pid, reason)
        self.process.send(signal.SIGTERM)
        self._deadline = self._loop.call_later(self._grace, self._lose_patience)

    def _lose_patience(self) -> None:
        logger.error("worker %d does not leave: it is killed, and its jobs run elsewhere", self.process.pid)
        self.process.kill()

    async def is_ready(self, timeout: float) -> bool:
        """Wait until it begins to work; False when it ends, leaves, or is not ready in time."""
        waiting = [asyncio.create_task(self.ready.wait()), asyncio.create_task(self.over.wait())]
        try:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return self.ready.is_set() and not self.over.is_set()

    def _read(self) -> None:
        try:
            data = self._socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket)
            self._closed.set()
            return
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            self._hear(self, line.decode("utf-8", "replace"))

    async def _see_out(self) -> None:
        try:
            await self._closed.wait()
            self.status = await self.process.reap()
        finally:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            if self._deadline is not None:
                self._deadline.cancel()
            self.over.set()
