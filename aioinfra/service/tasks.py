"""The tasks of a service: those given to it, and those of its modules, which are imported when it opens."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType
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
            places = f"in {known.__module__!r} and in {task.__module__!r}"
            raise InvalidArgument("task", f"two tasks are named {task.name!r}, {places}")

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
            Exception: whatever an import raises, with a note that names the module.
        """
        for name in modules:
            self._add_all(_import(name, f"include=[{name!r}]"))

    def discover(self, packages: Iterable[str]) -> None:
        """As `include`, with all submodules, in the order of their names."""
        for package in packages:
            asked = f"autodiscover({package!r})"
            for module in _with_submodules(_import(package, asked), asked):
                self._add_all(module)

    def _add_all(self, module: ModuleType) -> None:
        for task in tasks_of(module):
            self.add(task)


def _import(name: str, asked: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{asked}: there is no module {error.name!r}") from None
        error.add_note(
            f"while importing {name!r} for {asked}"
        )  # it is there, and imports something that is not
        raise
    except Exception as error:
        error.add_note(f"while importing {name!r} for {asked}")
        raise


def _with_submodules(module: ModuleType, asked: str) -> Iterator[ModuleType]:
    """A module and, if it is a package, all below it. Nothing is imported that is not asked for."""
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{module.__name__}."):
        if not found.name.endswith(".__main__"):
            yield from _with_submodules(_import(found.name, asked), asked)
