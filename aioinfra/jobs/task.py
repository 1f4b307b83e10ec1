"""Tasks: functions that can be called here, or enqueued to run in a worker.

`task` is a free function that knows no application: a module of tasks imports nothing of the service, and a
service collects the tasks of the modules that it includes.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from types import ModuleType
from typing import Any, Concatenate, Generic, ParamSpec, TypedDict, TypeVar, Unpack, overload

from aioinfra.backoff import Backoff
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.checks import check_name
from aioinfra.jobs.client import JobClient, default_client
from aioinfra.jobs.context import JobContext
from aioinfra.jobs.handle import JobHandle
from aioinfra.jobs.job import JobRequest
from aioinfra.jobs.retry import RetryPolicy
from aioinfra.jobs.signature import TaskSignature
from aioinfra.jobs.task_options import Place, TaskOptions
from aioinfra.qualified_name import qualified_name

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A function with a name under which workers find it. Make one with `task`.

    Calling it runs the function here and now. ``delay`` and ``options`` enqueue it.
    """

    def __init__(self, function: Callable[..., Any], name: str, options: TaskOptions) -> None:
        options.check_function(function)
        self.function = function
        self.name = name
        self.task_options = options
        self.client: JobClient | None = None
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", name)
        self.__module__ = function.__module__
        self.__wrapped__ = function
        self._signature = TaskSignature(function)
        if options.keep_result != 0:
            self._signature.check_returns()
        self.context_parameter = self._signature.context_parameter
        self.call_with_context = self._signature.call_with_context
        self.plan = self._signature.plan
        self._plain: JobRequest[R] | None = None  # without arguments; made at first use, as the plan

    def __repr__(self) -> str:
        queue = self.task_options.queue
        return f"<Task {self.name}>" if queue is None else f"<Task {self.name} on {queue}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, in this process."""
        return self.function(*args, **kwargs)

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function; others run in a thread or process of the worker."""
        return inspect.iscoroutinefunction(self.function)

    @property
    def target(self) -> str:
        """Where another process finds the function: ``package.module:name``."""
        path = self.function.__qualname__
        return f"{qualified_name(self.function).removesuffix(path)[:-1]}:{path}"

    def job(self, *args: P.args, **kwargs: P.kwargs) -> JobRequest[R]:
        """A request to run the task, for `JobClient.enqueue_many`.

        Raises:
            InvalidArgument: the arguments do not fit the function.
        """
        self._signature.check(self.name, args, kwargs)
        if self._plain is None:
            options, plan = self.task_options, self.plan()
            self._plain = JobRequest(
                self.name, queue=options.queue, priority=options.priority, returns=plan.returns, plan=plan
            )
        return self._plain.with_arguments(args, kwargs)

    async def delay(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Enqueue the task. One round trip, shared with whatever else is enqueued meanwhile.

        Raises:
            InvalidArgument: the arguments do not fit the function, or cannot be encoded (EncodeError).
            EnqueueUncertain: it is not known whether the job was stored.
            StoreUnavailable: it was not stored.
        """
        return await self._enqueue(self.job(*args, **kwargs))

    def options(
        self,
        *,
        queue: str | None = None,
        job_id: str | None = None,
        delay: float | None = None,
        at: float | None = None,
        priority: int | None = None,
        expires: float | None = None,
    ) -> Callable[P, Coroutine[Any, Any, JobHandle[R]]]:
        """Say where, when and as what the job runs; call the answer with the task's own arguments.

        Args:
            queue: another queue than the task's own; wins over routes, too.
            job_id: an id of your choice; a second job with it is not stored while the first one, or its
                result, exists.
            delay: seconds from now.
            at: unix seconds; not together with ``delay``.
            priority: 0 to 100; higher starts earlier among the jobs of its queue that were due at once. A job
                that is deferred or retried takes its place by its due time.
            expires: seconds after it is due within which it must start.

        Example: ``await send_email.options(delay=60)("ada@example.org")``
        """
        chosen = self.task_options.priority if priority is None else priority

        async def enqueue(*args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
            self._signature.check(self.name, args, kwargs)
            where, plan = self.task_options.queue if queue is None else queue, self.plan()
            request: JobRequest[R] = JobRequest(
                self.name, args, kwargs, where, job_id, delay, at, chosen, expires,
                returns=plan.returns, plan=plan,
            )  # fmt: skip
            return await self._enqueue(request)

        return enqueue

    async def _enqueue(self, request: JobRequest[R]) -> JobHandle[R]:
        client = self.client or default_client.require()
        return await client.enqueue(request)

    @property
    def returns(self) -> Any:
        """The return annotation, or Any when it cannot be resolved."""
        return self.plan().returns


class TaskDecorator:
    """What `task(...)` returns: wraps a function with the options given.

    Args:
        name, options: of the task.
        adopt: told of the task when it is made.
    """

    def __init__(
        self, name: str | None, options: TaskOptions, adopt: Callable[[Task[..., Any]], None] | None = None
    ) -> None:
        self.name = name
        self.options = options
        self._adopt = adopt

    @overload
    def __call__(self, function: Callable[Concatenate[JobContext, P], Awaitable[R]]) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]]) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[JobContext, P], R]) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R]) -> Task[P, R]: ...

    def __call__(self, function: Callable[..., Any]) -> Task[..., Any]:
        made = _make_task(function, self.name, self.options)
        if self._adopt is not None:
            self._adopt(made)
        return made


def _make_task(function: Callable[..., Any], name: str | None, options: TaskOptions) -> Task[..., Any]:
    if isinstance(function, Task):
        raise InvalidArgument("function", "is a task already")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidArgument("function", "a generator cannot be a task: it has no single result")
    if not callable(function) or not hasattr(function, "__qualname__"):
        raise InvalidArgument("function", "must be a function")
    check_name("name", name)
    return Task(function, name or qualified_name(function), options)


@overload
def task(function: Callable[Concatenate[JobContext, P], Awaitable[R]], /) -> Task[P, R]: ...


@overload
def task(function: Callable[P, Awaitable[R]], /) -> Task[P, R]: ...


@overload
def task(function: Callable[Concatenate[JobContext, P], R], /) -> Task[P, R]: ...


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(
    *,
    name: str | None = None,
    queue: str | None = None,
    retry: Backoff | None = None,
    retry_on: tuple[type[BaseException], ...] = (Exception,),
    dont_retry_on: tuple[type[BaseException], ...] = (),
    hard_limit: float | None = 300.0,
    keep_result: float | None = 3600.0,
    priority: int = 0,
    soft_limit: float | None = None,
    run_in: Place = "thread",
) -> TaskDecorator: ...


def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    retry: Backoff | None = None,
    retry_on: tuple[type[BaseException], ...] = (Exception,),
    dont_retry_on: tuple[type[BaseException], ...] = (),
    hard_limit: float | None = 300.0,
    keep_result: float | None = 3600.0,
    priority: int = 0,
    soft_limit: float | None = None,
    run_in: Place = "thread",
) -> Any:
    """Make a function a task. Works with and without parentheses, on async and sync functions.

    Args:
        name: under which workers find it; by default module and qualified name.
        queue: where it waits; None: where the client's routes send it, else on its default queue.
        retry: tries and their spacing; None: an error is final, a raised `Retry` still gets 5 tries.
        retry_on, dont_retry_on: errors that are retried, and exceptions to that.
        hard_limit: seconds a run may take, or None.
        keep_result: seconds the result is kept; 0 not at all, None for ever.
        priority: 0 to 100 within its queue.
        soft_limit: seconds after which `SoftTimeLimit` is raised inside the task, so that it can clean up before
            its hard limit; for coroutines and for processes.
        run_in: ``process`` runs a sync function in a process of the worker, where its hard limit can kill it;
            it must be found under its name in its module.

    A parameter annotated `JobContext` is filled in by the worker and is not an argument of the job.

    Raises:
        InvalidArgument: names the parameter that is wrong.
    """
    policy = _policy(retry, retry_on, dont_retry_on)
    options = TaskOptions(queue, policy, hard_limit, keep_result, priority, soft_limit, run_in)
    if function is None:
        return TaskDecorator(name, options)
    return _make_task(function, name, options)


class TaskSettings(TypedDict, total=False):
    """The keyword arguments of `task`; see there."""

    name: str | None
    queue: str | None
    retry: Backoff | None
    retry_on: tuple[type[BaseException], ...]
    dont_retry_on: tuple[type[BaseException], ...]
    hard_limit: float | None
    keep_result: float | None
    priority: int
    soft_limit: float | None
    run_in: Place


def adopted_task(adopt: Callable[[Task[..., Any]], None], **settings: Unpack[TaskSettings]) -> TaskDecorator:
    """As `task`, and ``adopt`` is told of the task: for decorators that belong to somebody."""
    plain = task(**settings)
    return TaskDecorator(plain.name, plain.options, adopt)


def _policy(
    retry: Backoff | None,
    retry_on: tuple[type[BaseException], ...],
    dont_retry_on: tuple[type[BaseException], ...],
) -> RetryPolicy:
    policy = RetryPolicy(Backoff() if retry is None else retry, retry_on, dont_retry_on)
    return replace(policy, retry_on=()) if retry is None else policy


def tasks_of(module: ModuleType) -> list[Task[..., Any]]:
    """The tasks that are attributes of a module, in the order of their definition."""
    return [value for value in vars(module).values() if isinstance(value, Task)]
