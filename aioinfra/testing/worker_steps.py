"""Standing still at a named step of a job's life: what the worker process of the kit adds to a worker.

The engine knows nothing of it. In the kit's child process alone, the seams between the engine and its store are
wrapped so that they pass a gate; see worker_child.py. The parent and the gate exchange JSON lines over a socket:

    child -> parent   {"at": "ready"}   {"at": "armed"}   {"at": "<step>", "jobs": ["<id>", ...]}
    parent -> child   {"stop_at": "<step>" or null, "skip": n}     arms anew, and lets go whoever stands
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any

from aioinfra.errors import InvalidArgument
from aioinfra.jobs.arq.runnable import ArqRunnable
from aioinfra.jobs.execute import Runnable
from aioinfra.jobs.executors import TaskRunnable
from aioinfra.jobs.job import Action, ClaimReply, Finish, Outcome, Run
from aioinfra.jobs.redis_store import RedisJobStore
from aioinfra.jobs.run import JobRunner
from aioinfra.jobs.store import ClaimRequest, FinishStatus

READY = "ready"
ARMED = "armed"
_ENDS = (Action.DONE, Action.RETRY, Action.BURY)
_CHUNK = 65536


class Step(StrEnum):
    """Where a worker can be made to stand, in the order of a job's life."""

    CLAIM_SENT = "claim-sent"
    """The server has given the job to the worker, which has not read the answer."""
    CLAIMED = "claimed"
    """The worker has the job and keeps its lease. Nothing of it has been read."""
    STARTED = "started"
    """The run has begun, as the log and the metrics say; the task's function is called next."""
    ENDED = "ended"
    """The function has returned or raised. The server has not been told."""
    FINISH_SENT = "finish-sent"
    """The server has recorded the end, and the worker has not read the answer."""
    FINISHED = "finished"
    """The worker knows that the end is recorded. It has not asked for more jobs since."""


def step_of(argument: str, step: Step | str | None) -> Step | None:
    """The step of that name. Raises InvalidArgument for a name that is none."""
    try:
        return None if step is None else Step(step)
    except ValueError:
        raise InvalidArgument(argument, f"must be one of {', '.join(Step)}") from None


class StepGate:
    """The child's end: every job that comes to the armed step stands there until the parent lets go.

    Used on one event loop at a time. Standing holds one coroutine, not the process: leases are renewed, signals
    are handled, and other jobs go on as far as the same step.
    """

    def __init__(self, parent: socket.socket, stop_at: Step | None, skip: int) -> None:
        parent.setblocking(False)
        self._parent = parent
        self._armed = stop_at
        self._skip = skip
        self._go = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard = b""

    async def reach(self, step: Step, jobs: Sequence[str]) -> None:
        """Stand if this is the armed step. Cancellable."""
        self.attach()
        if step is not self._armed:
            return
        if self._skip:
            self._skip -= 1
            return
        self._tell({"at": step, "jobs": list(jobs)})
        await self._go.wait()

    def attach(self) -> None:
        """Listen to the parent on the running loop; on its first one the worker is ready."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is None:
            self._tell({"at": READY})
        self._loop = loop
        loop.add_reader(self._parent, self._read)

    def _tell(self, message: dict[str, Any]) -> None:
        # A line is small and the parent reads: it fits the socket's buffer.
        self._parent.sendall(json.dumps(message).encode() + b"\n")

    def _read(self) -> None:
        data = self._parent.recv(_CHUNK)
        if not data:  # the parent is gone, and the watchdog on its way
            if self._loop is not None:
                self._loop.remove_reader(self._parent)
            return
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            self._armed = step_of("stop_at", order["stop_at"])
            self._skip = order["skip"]
            go, self._go = self._go, asyncio.Event()
            go.set()
            self._tell({"at": ARMED})


def wrap_seams(gate: StepGate) -> None:
    """Lead this process' engine past the gate, for good: only for a process that is the kit's own."""
    _wrap_store(gate)
    _wrap_runner(gate)
    for kind in (TaskRunnable, ArqRunnable):
        _wrap_call(kind, gate)


def _replace(owner: type, name: str, method: Callable[..., Any]) -> None:
    setattr(owner, name, method)


def _wrap_store(gate: StepGate) -> None:
    claim, finish = RedisJobStore.claim, RedisJobStore.finish
    finished: list[str] = []

    async def claim_past_the_gate(self: RedisJobStore, request: ClaimRequest) -> ClaimReply:
        if finished:
            known = finished.copy()
            finished.clear()
            await gate.reach(Step.FINISHED, known)
        reply = await claim(self, request)
        gate.attach()
        if reply.claims:
            await gate.reach(Step.CLAIM_SENT, [found.job_id for found in reply.claims])
        return reply

    async def finish_past_the_gate(
        self: RedisJobStore, worker: str, nonce: str, finishes: Sequence[Finish]
    ) -> list[FinishStatus]:
        ended = [entry.claim.job_id for entry in finishes if entry.action in _ENDS]
        if ended:
            await gate.reach(Step.ENDED, ended)
        statuses = await finish(self, worker, nonce, finishes)
        if ended:
            await gate.reach(Step.FINISH_SENT, ended)
            finished.extend(ended)
        return statuses

    _replace(RedisJobStore, "claim", claim_past_the_gate)
    _replace(RedisJobStore, "finish", finish_past_the_gate)


def _wrap_runner(gate: StepGate) -> None:
    run_claim = JobRunner.run

    async def run_past_the_gate(self: JobRunner, run: Run) -> Outcome:
        try:
            await gate.reach(Step.CLAIMED, [run.claim.job_id])
        except asyncio.CancelledError:
            if run.cause is None:
                raise
            # The worker gives the job up: the engine's own code finds the cause and does so.
        return await run_claim(self, run)

    _replace(JobRunner, "run", run_past_the_gate)


def _wrap_call(kind: type[TaskRunnable] | type[ArqRunnable], gate: StepGate) -> None:
    call: Callable[[Any, Run], Awaitable[object]] = kind.call

    async def call_past_the_gate(self: Runnable, run: Run) -> object:
        await gate.reach(Step.STARTED, [run.claim.job_id])
        return await call(self, run)

    _replace(kind, "call", call_past_the_gate)
