"""Code around every enqueue and every run of a service's tasks, as onion layers.

The first middleware of a list is the outermost: it sees a request first and its handle last, a run first and its
result last.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

from aioinfra.errors import InvalidArgument
from aioinfra.jobs.context import JobContext
from aioinfra.jobs.handle import JobHandle
from aioinfra.jobs.job import JobRequest

EnqueueNext = Callable[[JobRequest[Any]], Awaitable[JobHandle[Any]]]
"""The rest of an enqueue: the middlewares further in, then the store."""

RunNext = Callable[[], Awaitable[object]]
"""The rest of a run: the middlewares further in, then the task under its limits."""


class JobMiddleware(Protocol):
    """One layer. Inherit from it to write one of the two methods alone; the other then costs nothing.

    Example::

        class Tenant(JobMiddleware):
            async def enqueue(self, request, call_next):
                headers = {**request.headers, "tenant": tenant.get()}
                return await call_next(dataclasses.replace(request, headers=headers))

            async def run(self, job, call_next):
                tenant.set(job.headers["tenant"])
                return await call_next()
    """

    async def enqueue(self, request: JobRequest[Any], call_next: EnqueueNext) -> JobHandle[Any]:
        """Around an enqueue, in the producer. What it raises is raised to whoever enqueues.

        Without ``call_next`` nothing is stored, and the handle that it returns is the caller's.
        """
        return await call_next(request)

    async def run(self, job: JobContext, call_next: RunNext) -> object:  # noqa: ARG002 - for those who override it
        """Around a run, in the worker. What it returns is the job's result.

        What it raises is the job's error, for the task's own retry policy, and `Retry` works as in a task. An
        error that it keeps to itself is a success. Without ``call_next`` the task does not run, and the job has
        succeeded.

        The task's limits hold for the task alone: a middleware that waits keeps its slot. Abort and shutdown cancel
        it, and one that swallows the cancellation is treated as a task that does.
        """
        return await call_next()


def check_middleware(argument: str, middleware: object) -> None:
    """Raise InvalidArgument unless it is a list of middlewares."""
    if isinstance(middleware, str) or not isinstance(middleware, Sequence):
        raise InvalidArgument(argument, "must be a list of JobMiddleware")
    for layer in middleware:
        if isinstance(layer, type):
            raise InvalidArgument(argument, f"{layer.__name__} is a class: give an instance")
        if not all(inspect.iscoroutinefunction(getattr(layer, name, None)) for name in ("enqueue", "run")):
            raise InvalidArgument(
                argument, f"{type(layer).__name__} lacks async enqueue and run; JobMiddleware has both"
            )


def around_enqueue(middleware: Sequence[JobMiddleware], store: EnqueueNext) -> EnqueueNext:
    """``store`` with the layers around it; itself when there are none."""
    for layer in reversed(middleware):
        store = _layer(layer, store)
    return store


def _layer(layer: JobMiddleware, call_next: EnqueueNext) -> EnqueueNext:
    def enqueue(request: JobRequest[Any]) -> Coroutine[Any, Any, JobHandle[Any]]:
        return layer.enqueue(request, call_next)

    return enqueue


def layers_with(method: str, middleware: Sequence[JobMiddleware]) -> tuple[JobMiddleware, ...]:
    """The layers that have ``enqueue`` or ``run`` of their own, not the one that passes everything on."""
    inherited = getattr(JobMiddleware, method)
    return tuple(layer for layer in middleware if getattr(type(layer), method, None) is not inherited)


StoreMany = Callable[[Sequence[JobRequest[Any]]], Awaitable[list[JobHandle[Any]]]]


async def enqueue_many(
    middleware: Sequence[JobMiddleware], requests: Sequence[JobRequest[Any]], store: StoreMany
) -> list[JobHandle[Any]]:
    """Lead many requests through the layers, and store what comes through at once.

    One task a request; none for outer layers with ``only_stamps``, whose ``stamp`` gives the changed request. What
    a layer raises before its ``call_next`` is raised before anything is stored; of several errors the first
    request's is raised.
    """
    while middleware and getattr(middleware[0], "only_stamps", False) is True:
        layer: Any = middleware[0]
        requests, middleware = [layer.stamp(request) for request in requests], middleware[1:]
    if not middleware:
        return await store(requests)
    gate = _Gate(len(requests), store)
    ways = [
        around_enqueue(middleware, partial(gate.pass_through, number))(request)
        for number, request in enumerate(requests)
    ]
    tasks = [asyncio.create_task(gate.watched(number, way)) for number, way in enumerate(ways)]
    try:
        await gate.all_came.wait()
        for task in tasks:
            if task.done():
                task.result()
        await gate.open()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [_raised(answer) for answer in answers]


def _raised(answer: JobHandle[Any] | BaseException) -> JobHandle[Any]:
    if isinstance(answer, BaseException):
        raise answer
    return answer


class _Gate:
    """Where the requests of a bulk wait for each other, in front of the store.

    Args:
        count: requests that come here or end before; each is known by its number.
        store: stores those that came, in the order in which they came.
    """

    def __init__(self, count: int, store: StoreMany) -> None:
        self._store = store
        self._on_the_way = set(range(count))
        self._waiting: list[tuple[JobRequest[Any], asyncio.Future[JobHandle[Any]]]] = []
        self._opened = False
        self.all_came = asyncio.Event()
        if not count:
            self.all_came.set()

    async def watched(self, number: int, way: Awaitable[JobHandle[Any]]) -> JobHandle[Any]:
        """Await a request's way: one that ends before the gate is not waited for."""
        try:
            return await way
        finally:
            self._arrived(number)

    async def pass_through(self, number: int, request: JobRequest[Any]) -> JobHandle[Any]:
        """Wait for the others and be stored with them; alone when they have gone ahead."""
        if self._opened:
            [handle] = await self._store([request])
            return handle
        future: asyncio.Future[JobHandle[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._arrived(number)
        return await future

    def _arrived(self, number: int) -> None:
        self._on_the_way.discard(number)
        if not self._on_the_way:
            self.all_came.set()

    async def open(self) -> None:
        """Store those that still wait; an error is told to each of them."""
        self._opened = True
        waiting = [(request, future) for request, future in self._waiting if not future.done()]
        try:
            handles = await self._store([request for request, _ in waiting])
        except Exception as error:  # noqa: BLE001 - raised where they wait
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), handle in zip(waiting, handles, strict=True):
            if not future.done():
                future.set_result(handle)
