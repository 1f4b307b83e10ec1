"""A worker in a process of its own, to be killed or stopped at a named step of a job's life."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from aioinfra.errors import InvalidArgument, LifecycleError
from aioinfra.testing.child_process import ChildOptions, ChildProcess
from aioinfra.testing.worker_steps import ARMED, READY, Step, step_of

_WAIT = 30.0
"""Seconds; importing an application on a busy machine takes some."""
_CHUNK = 65536
_TAIL = 2_000


@dataclass(frozen=True, slots=True)
class WorkerProcessOptions:
    """How a worker process is started.

    Attributes:
        arguments: of ``aioinfra worker``, such as ``("--lease", "2")``, or of the script.
        env: added to this process' environment.
        cwd: its working directory, from which its modules are importable; None for this process' own.
        stop_at: the step at which jobs stand still, or None.
        skip: how often the step is passed before.
        output_limit: bytes of output that are kept, the newest.
    """

    arguments: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # passwords live there
    cwd: Path | str | None = None
    stop_at: Step | str | None = None
    skip: int = 0
    output_limit: int = 65_536

    def __post_init__(self) -> None:
        if isinstance(self.arguments, str):
            raise InvalidArgument("arguments", "must be a list of words, not one string")
        step_of("stop_at", self.stop_at)
        _check_whole("skip", self.skip)
        _check_whole("output_limit", self.output_limit)


def _check_whole(argument: str, number: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise InvalidArgument(argument, "must be a whole number of at least 0")


class Standing(NamedTuple):
    """Where a worker stands, and the ids of the jobs that it holds there."""

    step: Step
    jobs: tuple[str, ...]


class WorkerProcess:
    """A worker process, from the beginning to the end of an ``async with`` block.

    It is a process group of its own, and ends with the process that started it, however that one ends.

    Args:
        target: as for ``aioinfra worker``: ``package.module:service`` or an arq settings class; or the path of
            a script (``.py``) that runs a worker.
        options: see `WorkerProcessOptions`.

    Raises:
        InvalidArgument: names what does not fit.

    Example::

        options = WorkerProcessOptions(("--lease", "2"), env={"REDIS_URL": server.url}, stop_at="started")
        async with WorkerProcess("shop.app:service", options) as worker:
            await send_email.delay("ada@example.org")
            await worker.reached()
            worker.kill()
    """

    def __init__(self, target: str, options: WorkerProcessOptions = WorkerProcessOptions()) -> None:
        if not target:
            raise InvalidArgument("target", "must be package.module:name or the path of a script")
        self._target = target
        self._options = options
        self._child: ChildProcess | None = None
        self._socket: socket.socket | None = None
        self._output: _Output | None = None
        self._heard = b""
        self._messages: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        """Its process id. Raises LifecycleError before the start."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process exists, stopped or not."""
        return self._child is not None and self._child.running

    @property
    def output(self) -> str:
        """The newest of what it wrote to its standard output and error."""
        return "" if self._output is None else self._output.text

    def _started(self) -> ChildProcess:
        if self._child is None:
            raise LifecycleError("the worker process has not been started")
        return self._child

    # Life

    def start(self) -> None:
        """Start the process, and return at once. Raises LifecycleError when it has been started before."""
        if self._child is not None:
            raise LifecycleError("a worker process starts once")
        options = self._options
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._socket = ours
        self._output = _Output(options.output_limit)
        step = step_of("stop_at", options.stop_at) or ""
        command = [sys.executable, "-m", "aioinfra.testing.worker_child"]
        command += [str(theirs.fileno()), step, str(options.skip), self._target, *options.arguments]
        try:
            self._child = ChildProcess(
                command,
                ChildOptions(
                    self._output.writer,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **options.env},
                    cwd=options.cwd,
                    pass_fds=(theirs.fileno(),),
                ),
            )
        finally:
            theirs.close()
            self._output.start()

    def close(self) -> None:
        """SIGKILL the process and whatever is left of its group. Blocks for milliseconds; may be repeated."""
        if self._child is not None:
            self._child.close()
        if self._output is not None:
            self._output.join()
        if self._socket is not None:
            self._socket.close()

    async def __aenter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Steps

    async def ready(self, timeout: float = _WAIT) -> None:
        """Wait until it has asked its server for jobs and was answered. Raises as `reached`."""
        await self._hear((READY,), timeout)

    async def reached(self, timeout: float = _WAIT) -> Standing:
        """Wait until jobs stand at the step; each call answers the next ones.

        Raises:
            LifecycleError: the process ended before; the message has its exit status and last output.
            TimeoutError: not within ``timeout`` seconds; the message has its last output.
        """
        message = await self._hear(tuple(Step), timeout)
        return Standing(Step(message["at"]), tuple(message["jobs"]))

    def release(self, stop_at: Step | str | None = None, *, skip: int = 0) -> None:
        """Let everybody who stands go on, and stop at another step if one is given."""
        step = step_of("stop_at", stop_at)
        _check_whole("skip", skip)
        self._started()
        if self._socket is not None:
            self._socket.sendall(json.dumps({"stop_at": step, "skip": skip}).encode() + b"\n")

    async def stop_at(self, step: Step | str | None, *, skip: int = 0, timeout: float = _WAIT) -> None:
        """Arm a step of a worker that is ready; returns when that is in force. Raises as `reached`."""
        self._messages = [message for message in self._messages if message["at"] != ARMED]
        self.release(step, skip=skip)
        await self._hear((ARMED,), timeout)

    async def _hear(self, kinds: Sequence[str], timeout: float) -> dict[str, Any]:
        """The first message of these kinds; others are kept for later."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for at, message in enumerate(self._messages):
                        if message["at"] in kinds:
                            return self._messages.pop(at)
                    await self._receive(kinds)
        except TimeoutError:
            where = " or ".join(kinds)
            raise TimeoutError(f"the worker was not at {where} in {timeout:g} s{self._tail()}") from None

    async def _receive(self, kinds: Sequence[str]) -> None:
        child, connection = self._started(), self._socket
        if connection is None:  # pragma: no cover - it came with the child
            return
        try:
            data = await asyncio.get_running_loop().sock_recv(connection, _CHUNK)
        except ConnectionResetError:
            data = b""
        if not data:
            code = await child.exited(_WAIT)
            raise LifecycleError(f"the worker ended with {code} before {' or '.join(kinds)}{self._tail()}")
        *lines, self._heard = (self._heard + data).split(b"\n")
        self._messages += [json.loads(line) for line in lines]

    def _tail(self) -> str:
        return f":\n{self.output[-_TAIL:]}" if self.output else ""

    # Signals

    def kill(self) -> None:
        """SIGKILL, and wait for the end, which takes milliseconds; nothing when it does not run."""
        if self.running:
            self._started().send(signal.SIGKILL)
            self._started().wait(_WAIT)

    def terminate(self) -> None:
        """SIGTERM: the worker stops claiming, gives running jobs their grace, and ends. See `exited`.

        A worker that stands at ``claim-sent`` or ``finish-sent`` waits for its server's answer: let it go on.
        """
        self._started().send(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP; returns when the whole process stands still."""
        self._started().freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self._started().thaw()

    async def exited(self, timeout: float = _WAIT) -> int:
        """Wait for its end; the exit status, or minus the number of the signal that killed it.

        Raises:
            TimeoutError: it still runs after ``timeout`` seconds.
        """
        return await self._started().exited(timeout)


class _Output:
    """Keeps the newest bytes of a pipe. A thread, so that a blocked or closed event loop never stops the child."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reader, self.writer = os.pipe()
        self._kept = bytearray()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._drain, name="aioinfra-worker-output", daemon=True)

    def start(self) -> None:
        """Read until the last writer is gone; the child has its copy of the writing end by now."""
        os.close(self.writer)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of what was written; a grandchild that left the group may hold the pipe for longer."""
        self._thread.join(2.0)

    @property
    def text(self) -> str:
        with self._lock:
            return self._kept.decode(errors="replace")

    def _drain(self) -> None:
        with os.fdopen(self._reader, "rb", buffering=0) as pipe:
            while data := pipe.read(_CHUNK):
                with self._lock:
                    self._kept += data
                    del self._kept[: -self._limit or None]
