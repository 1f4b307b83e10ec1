"""Workers from an arq application's settings class, as arq's command line makes them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import arq.worker

from aioinfra.errors import InvalidArgument
from aioinfra.jobs.arq.settings import EngineOptions
from aioinfra.jobs.arq.worker import ArqWorker


def worker_from_settings(
    settings: Any, *, engine: EngineOptions | None = None, **overrides: Any
) -> ArqWorker:
    """An `ArqWorker` from an arq settings class, inherited attributes included, or from a dictionary.

    Args:
        settings: ``WorkerSettings``, or a mapping with the same names.
        engine: what arq has no setting for.
        overrides: win over the settings.

    Raises:
        InvalidArgument: ``settings`` has no functions and no cron jobs.
    """
    known = set(inspect.signature(arq.worker.Worker).parameters)
    if isinstance(settings, Mapping):
        found = {name: value for name, value in settings.items() if name in known}
    else:
        # Read from the class, so that a hook written as a plain function of its body stays one.
        found = {name: getattr(settings, name) for name in known if hasattr(settings, name)}
    found.update(overrides)
    if not found.get("functions") and not found.get("cron_jobs"):
        raise InvalidArgument("settings", "has neither functions nor cron_jobs")
    return ArqWorker(engine=engine, **found)
