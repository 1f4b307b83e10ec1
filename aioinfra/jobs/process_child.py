"""A worker's process child: runs one job at a time, in its main thread, and ends with its worker.

A thread listens to the worker, also while a job computes: when the worker is gone, however it went, the child kills
itself and whatever its jobs have started. Signals that a terminal or a service manager sends to all processes at
once are left to the worker, which gives its jobs their grace.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import inspect
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType
from typing import Any, NoReturn

import msgspec

from aioinfra import context
from aioinfra.errors import EncodeError, InvalidArgument, UnknownTask
from aioinfra.jobs.context import JobContext
from aioinfra.jobs.job import Claim, Failed, Job, Progress, Retried, Run, Succeeded
from aioinfra.jobs.limits import SoftTimeLimit, soft_timeout
from aioinfra.jobs.payload import JsonCodec, check_result
from aioinfra.jobs.process_messages import (
    LENGTH,
    Answer,
    Call,
    ChildSetup,
    Hello,
    Progressed,
    Raised,
    Ready,
    Request,
    Returned,
    decode_request,
    frame,
    length_of,
)
from aioinfra.jobs.records import error_record
from aioinfra.jobs.soft_alarm import SoftAlarm
from aioinfra.jobs.task import Task
from aioinfra.jobs.task_options import TaskOptions
from aioinfra.jobs.threads import TaskExitError

logger = logging.getLogger("aioinfra.jobs")

_PR_SET_PDEATHSIG = 1


def main(fd: int, parent: int) -> NoReturn:
    """Serve the worker at the other end of the socket ``fd`` until it is gone.

    Args:
        fd: the socket.
        parent: pid of the worker when its main thread started this process, else 0.
    """
    os.set_inheritable(fd, False)
    _end_with(parent)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A handler, where SIG_IGN would be inherited by whatever a job starts.
        signal.signal(number, _leave_it_to_the_worker)
    faulthandler.enable()
    connection = socket.socket(fileno=fd)
    requests: SimpleQueue[Request] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, requests), name="aioinfra-listen", daemon=True).start()
    child = Child(connection)
    while True:
        request = requests.get()
        child.send(child.prepare(request) if isinstance(request, Hello) else child.run(request))


def _end_with(parent: int) -> None:
    """Linux: be killed with the worker, even while a job holds the interpreter and no thread can listen.

    Only when the worker's main thread is the parent: the kernel means the thread.
    """
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            _die()


def _nothing() -> None: ...


def _leave_it_to_the_worker(_number: int, _frame: FrameType | None) -> None: ...


def _listen(connection: socket.socket, requests: SimpleQueue[Request]) -> None:
    try:
        while True:
            requests.put(decode_request(_exactly(connection, length_of(_exactly(connection, LENGTH.size)))))
    except BaseException:  # noqa: BLE001 - the worker is gone, or says what nobody understands
        _die()


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = connection.recv(min(count - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _die() -> NoReturn:
    """Kill this process and what it started; it leads a process group of its own."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    os._exit(1)


class Child:
    """What a child does with what it is told.

    Args:
        connection: to the worker; written by the main thread alone.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._codec = JsonCodec()
        self._tasks: dict[str, Task[..., Any]] = {}
        self._soft = SoftAlarm()
        self._flush: Callable[[], object] = _nothing

    def send(self, answer: Answer) -> None:
        """Write a message; a worker that is gone is the listening thread's to notice."""
        with self._soft.held(), contextlib.suppress(OSError):
            self._connection.sendall(frame(answer))

    def prepare(self, hello: Hello) -> Answer:
        """Find modules where the worker finds them, and import the tasks' before anybody waits for them."""
        sys.path[:] = hello.path
        if hello.setup is not None:
            self._set_up(hello.setup)
        for module in hello.modules:
            try:
                importlib.import_module(module)
            except Exception:  # said again by the job that needs it
                logger.debug("importing %s failed", module, exc_info=True)
        return Ready()

    def _set_up(self, setup: ChildSetup) -> None:
        try:
            made = _resolve(setup.target)(**setup.arguments)
        except Exception:
            logger.exception("the set-up of a process child failed: %s", setup.target)
            return
        flush = getattr(made, "flush", None)
        self._flush = flush if callable(flush) else _nothing

    def run(self, call: Call) -> Answer:
        """Run one job to its answer. Never raises."""
        token = context.open_scope(call.context)
        run = _run_of(call)
        try:
            return self._answer(call, run)
        finally:
            context.close_scope(token)
            for flush in (sys.stdout.flush, self._flush):  # nobody does at the end: the process is killed
                with contextlib.suppress(Exception):
                    flush()

    def _answer(self, call: Call, run: Run) -> Answer:
        task: Task[..., Any] | None = None
        try:
            task = self._find(call)
            value = self._call(task, call)
        except BaseException as error:  # noqa: BLE001 - whatever a user's task raises becomes an answer
            return _raised(task, error, call.attempt)
        if not call.wants_result:
            value = None
        try:
            check_result(value, task.returns)
        except EncodeError as error:
            return Raised(error_record(error), reason="unencodable-result")
        return Returned(self._codec.encode_result(run, Succeeded(value))[0])

    def _find(self, call: Call) -> Task[..., Any]:
        task = self._tasks.get(call.target)
        if task is None:
            task = self._tasks[call.target] = _find_task(call)
        return task

    def _call(self, task: Task[..., Any], call: Call) -> Any:
        args, kwargs = task.plan().restore(msgspec.json.decode(call.args), msgspec.json.decode(call.kwargs))
        run = task.function
        if task.context_parameter is not None:
            ctx = JobContext(
                call.job_id, call.queue, call.name, call.attempt, call.stalls, call.enqueued_ms / 1000,
                call.headers, self._tell_progress,
            )  # fmt: skip
            run = lambda *a, **k: task.call_with_context(task.function, ctx, a, k)  # noqa: E731 - one line says it
        try:
            with self._soft.after(call.soft):
                value = run(*args, **kwargs)
        except SoftTimeLimit as error:
            raise soft_timeout(call.soft or 0.0) from error
        except (SystemExit, KeyboardInterrupt) as error:
            raise TaskExitError(f"the task raised {type(error).__name__}") from error
        if inspect.isawaitable(value):
            raise InvalidArgument(call.name, "returned an awaitable; in a process a task must be synchronous")
        return value

    async def _tell_progress(self, job_id: str, progress: Progress) -> None:  # noqa: ARG002 - a ProgressSink; there is one job
        self.send(Progressed(progress.done, progress.total, progress.message))


def _find_task(call: Call) -> Task[..., Any]:
    """The task that stands under the function's name, or under its own in the same module; else the function alone.

    Raises:
        UnknownTask: the module has neither. What importing it raises is raised.
    """
    module = call.target.partition(":")[0]
    try:
        found = _resolve(call.target)
    except AttributeError:
        found = None
    if isinstance(found, Task):
        return found
    for value in vars(sys.modules[module]).values():
        if isinstance(value, Task) and value.name == call.name:
            return value
    if not callable(found):
        raise UnknownTask(f"a process child finds no task {call.name!r} in {module}")
    return _UnknownPolicy(found, call.name, TaskOptions())


class _UnknownPolicy(Task[..., Any]):
    """A function whose task is in a module that only the worker knows: errors are judged there."""


def _resolve(target: str) -> Any:
    """What ``package.module:name`` means. Raises AttributeError, or what importing the module raises."""
    module, _, path = target.partition(":")
    value: Any = importlib.import_module(module)
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _run_of(call: Call) -> Run:
    claim = Claim(call.queue, call.job_id, 0, call.attempt, call.stalls, False, "", None, 0)
    return Run(claim, Job(call.name, (), {}, call.enqueued_ms))


def _raised(task: Task[..., Any] | None, error: BaseException, attempt: int) -> Raised:
    """What the task's policy makes of an error: here, where the error is of its own class."""
    if task is None or isinstance(task, _UnknownPolicy):
        return Raised(error_record(error), judged=False)
    try:
        outcome = task.task_options.retry.judge(error, attempt)
    except Exception as broken:  # noqa: BLE001 - a user's policy may raise; the task's own error is its cause
        broken.__cause__ = error
        outcome = Failed(broken)
    if isinstance(outcome, Retried):
        cause = outcome.error
        return Raised(None if cause is None else error_record(cause), outcome.delay)
    assert isinstance(outcome, Failed)  # noqa: S101 - a policy answers one of the two
    return Raised(error_record(outcome.error), reason=outcome.reason)
