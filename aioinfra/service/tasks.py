"""The tasks of a service: those given to it, and those of its modules, which are imported when it opens."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from aioinfra.errors import ConfigError, InvalidArgument
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.task import Task, tasks_of


class TaskCollection:
    """A service's tasks by name.

    Attributes:
        by_name: all of them.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Task[..., Any]] = {}
        self._own: list[Task[..., Any]] = []
        self._client: JobClient | None = None

    def add(self, task: Task[..., Any]) -> None:
        """Raises InvalidArgument when another task has its name."""
        known = self.by_name.setdefault(task.name, task)
        if known is not task:
            raise InvalidArgument("task", f"two tasks are named {task.name!r}")

    def adopt(self, task: Task[..., Any]) -> None:
        """Add a task that enqueues with the service's client, not with the process default."""
        self.add(task)
        self._own.append(task)
        task.client = self._client

    def bind(self, client: JobClient | None) -> None:
        """What adopted tasks enqueue with from now on; None while the service is closed."""
        self._client = client
        for task in self._own:
            task.client = client

    def include(self, modules: Iterable[str]) -> None:
        """Import modules and add their tasks.

        Raises:
            ConfigError: there is no such module.
            Exception: whatever an import raises.
        """
        for name in modules:
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                    raise  # the module is there, and imports something that is not
                raise ConfigError(f"include: there is no module {error.name!r}") from None
            for task in tasks_of(module):
                self.add(task)
