"""What a service is made of, and how one of its workers works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from aioinfra.config import Settings
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.claim import QueueOptions


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What a service is made of.

    Attributes:
        include: names of the modules that hold its tasks, imported when the service opens.
        queues: weight of each queue that its workers serve; queues named by tasks alone have 1.
        settings: instead of the environment.
        redis_url: instead of what the settings say.
        configure_logging: whether opening the service sets up logging.
        cache_ttl: seconds that cached values live unless a call says otherwise.
        process_default: whether `cached`, `task` and the like use this service while it is open; of several
            services that are open at once in a process, one may.
    """

    include: Sequence[str] = ()
    queues: Mapping[str, int] = field(default_factory=dict)
    settings: Settings | None = None
    redis_url: str | None = field(default=None, repr=False)  # may hold a password
    configure_logging: bool = True
    cache_ttl: float = 300.0
    process_default: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.include, str):
            raise InvalidArgument("include", "must be a list of module names, not one string")
        if self.queues:
            QueueOptions(self.queues)


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """How one worker process of a service works.

    Attributes:
        queues: weights of the queues to serve, or None for all of the service.
        concurrency: jobs that run at once.
        lease: seconds after which a killed worker's jobs run elsewhere.
        grace: seconds that running jobs get on SIGTERM.
        burst: end when the queues are empty.
    """

    queues: Mapping[str, int] | None = None
    concurrency: int = 100
    lease: float = 15.0
    grace: float = 15.0
    burst: bool = False


DEFAULT_OPTIONS: Final = ServiceOptions()
DEFAULT_SETUP: Final = WorkerSetup()
