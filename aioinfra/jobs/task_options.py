"""How a task runs unless an enqueue says otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from aioinfra.codec.bounds import check_number
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.checks import check_name, check_priority
from aioinfra.jobs.retry import RetryPolicy

Place = Literal["thread", "process"]
"""Where a sync task may run."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How a task runs unless an enqueue says otherwise.

    Attributes:
        queue: name of the queue, or None: the client's routes decide, else its default queue.
        retry: the retry policy.
        hard_limit: seconds after which a run is ended, or None. A coroutine is cancelled, a process is killed;
            a thread cannot be stopped, and keeps its slot until it returns.
        keep_result: seconds for which the result is kept; 0 not at all, None for ever.
        priority: 0 to 100.
        soft_limit: seconds after which `SoftTimeLimit` is raised inside the task, or None. Not in a thread,
            where nothing can be raised from outside.
        run_in: where a sync function runs, ``thread`` or ``process``; a coroutine runs on the worker's loop.
    """

    queue: str | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    hard_limit: float | None = 300.0
    keep_result: float | None = 3600.0
    priority: int = 0
    soft_limit: float | None = None
    run_in: Place = "thread"

    def __post_init__(self) -> None:
        check_name("queue", self.queue)
        for name in ("hard_limit", "keep_result"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
                raise InvalidArgument(name, "must be seconds, at least 0, or None")
        if self.hard_limit == 0:
            raise InvalidArgument("hard_limit", "must be positive, or None for no limit")
        check_priority(self.priority)
        self._check_soft_limit()
        if self.run_in not in get_args(Place):
            raise InvalidArgument("run_in", "must be thread or process")

    def _check_soft_limit(self) -> None:
        if self.soft_limit is None:
            return
        check_number("soft_limit", self.soft_limit, 0.001, 1e9)
        if self.hard_limit is not None and self.soft_limit >= self.hard_limit:
            raise InvalidArgument("soft_limit", "must be less than hard_limit")

    def check_function(self, function: Callable[..., Any]) -> None:
        """Refuse a function that cannot run as these options say.

        Raises:
            InvalidArgument: names the option.
        """
        is_async = inspect.iscoroutinefunction(function)
        if self.run_in == "process":
            if is_async:
                raise InvalidArgument(
                    "run_in", "a coroutine runs on the worker's loop; make the function sync"
                )
            if "<" in function.__qualname__:
                raise InvalidArgument("run_in", "a process cannot find a function that is inside another one")
        elif self.soft_limit is not None and not is_async:
            raise InvalidArgument(
                "soft_limit", "nothing can be raised in a thread: make the task async, or run_in='process'"
            )
