"""A process child as its worker sees it: spawned, asked, killed, reaped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from aioinfra.errors import JobError, PayloadTooLarge
from aioinfra.jobs.job import Progress
from aioinfra.jobs.process_messages import (
    LENGTH,
    Answer,
    Hello,
    Progressed,
    Raised,
    Ready,
    Returned,
    decode_answer,
    frame,
    length_of,
)
from aioinfra.jobs.spawned import SpawnedProcess, how_it_ended

logger = logging.getLogger("aioinfra.jobs")

_END_LIMIT = 1.0
_CODE = "import sys; sys.path.append({root!r}); from aioinfra.jobs.process_child import main; main({fd}, {parent})"

TellProgress = Callable[[Progress], Awaitable[None]]


class JobProcessDied(JobError):
    """The process that ran the job ended before the job did: a crash, or somebody killed it."""


class ProcessHandle:
    """One process and the socket to it. Owned by the pool, and by one run at a time."""

    def __init__(self) -> None:
        self.jobs = 0
        self._process: SpawnedProcess | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it can take a job, as far as is known."""
        return self._process is not None and self._process.status is None

    async def start(self, hello: Hello) -> None:
        """Spawn it, and wait until it is ready."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _spawn(theirs.fileno())
            except BaseException:
                ours.close()
                raise
        self._streams = await asyncio.open_connection(sock=ours)
        answer = await self._say(frame(hello))
        if not isinstance(answer, Ready):
            raise JobProcessDied("a process child does not say that it is ready")

    async def ask(self, message: bytes, tell: TellProgress) -> Returned | Raised:
        """Give it a job, and wait for the answer."""
        self.jobs += 1
        answer = await self._say(message)
        while isinstance(answer, Progressed):
            try:
                await tell(Progress(answer.done, answer.total, answer.message))
            except Exception:
                logger.exception("the progress of a job in a process was not recorded")
            answer = await self._hear()
        if isinstance(answer, Ready):
            raise JobProcessDied("a process child answers what nobody asked")
        return answer

    async def _say(self, message: bytes) -> Answer:
        assert self._streams is not None  # noqa: S101 - it has been started
        writer = self._streams[1]
        writer.write(message)
        with contextlib.suppress(
            ConnectionError
        ):  # what it said before it died, and how it died, is worth more
            await writer.drain()
        return await self._hear()

    async def _hear(self) -> Answer:
        assert self._streams is not None  # noqa: S101 - it has been started
        reader = self._streams[0]
        try:
            header = await reader.readexactly(LENGTH.size)
            return decode_answer(await reader.readexactly(length_of(header)))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise JobProcessDied(f"the job's process ended by itself: {await self._how_it_died()}") from None
        except (msgspec.MsgspecError, PayloadTooLarge) as error:
            raise JobProcessDied(
                f"the job's process says what it should not: {type(error).__name__}"
            ) from None

    async def _how_it_died(self) -> str:
        assert self._process is not None  # noqa: S101 - it has been started
        try:
            async with asyncio.timeout(_END_LIMIT):  # its socket closes a little before its end can be seen
                return how_it_ended(await self._process.ended())
        except TimeoutError:
            return "it closed its connection"

    def kill(self) -> None:
        """SIGKILL it and what it has started. Does not wait."""
        if self._streams is not None:
            self._streams[1].transport.abort()
        if self._process is not None:
            self._process.kill()

    async def reap(self) -> None:
        """Wait for the end of a child that was killed."""
        if self._process is not None:
            await self._process.reap()


def _spawn(fd: int) -> SpawnedProcess:
    root = str(Path(__file__).resolve().parent.parent.parent)
    # Linux kills the child with the *thread* that started it, which is of use in the main thread alone.
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
    code = _CODE.format(root=root, fd=fd, parent=parent)
    return SpawnedProcess([sys.executable, "-c", code], fd)
