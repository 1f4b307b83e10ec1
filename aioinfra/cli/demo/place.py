"""Where a run of the demo keeps its files, and the environment that its processes get."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import Final

from aioinfra.errors import ConfigError

USUAL_PORT: Final = 8000
OUTDATED: Final = 40 * 24 * 3600.0  # seconds; older than any report that the catalogue keeps

# What the toolkit reads from the environment: a demo that picked it up would work on somebody's real Redis.
_FOREIGN: Final = (
    "REDIS_",
    "JOBS_",
    "CACHE_",
    "CELERY_",
    "AIOINFRA_",
    "CATALOGUE_",
    "LOG_",
    "LOGFIRE_",
    "OTEL_",
)
_FOREIGN_NAMES: Final = frozenset({"ENVIRONMENT", "SERVICE_NAME", "PROMETHEUS_ENABLED", "PROMETHEUS_PORT"})


@dataclass(frozen=True, slots=True)
class Place:
    """One run's directory. The catalogue's own files lie in it as they would in production."""

    directory: Path

    @classmethod
    def create(cls, parent: Path) -> Place:
        """A new directory below ``parent``, named after the time and this process.

        Raises:
            OSError: it cannot be made.
        """
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}"
        place = cls((parent / name).absolute())
        _make_private(place.directory.parent)
        ignore = place.directory.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="ascii")
        place.logs.mkdir(parents=True)
        place.reports.mkdir()
        return place

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def reports(self) -> Path:
        return self.directory / "reports"

    @property
    def maildir(self) -> Path:
        return self.directory / "maildir"

    @property
    def outdated_report(self) -> Path:
        return self.reports / "outdated.html"

    def plant_outdated_report(self) -> None:
        """Leave a report as if it had been written long ago: the cleanup has something to find."""
        self.outdated_report.write_text("<!DOCTYPE html><html><body>An old report.</body></html>", "utf-8")
        long_ago = datetime.now(UTC).timestamp() - OUTDATED
        os.utime(self.outdated_report, (long_ago, long_ago))

    def environment(self, inherited: Mapping[str, str], redis_url: str | None) -> dict[str, str]:
        """The children's environment: what this process has, without what would lead out of this place."""
        kept = {
            name: value
            for name, value in inherited.items()
            if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES
        }
        before = [path for path in (str(example_directory().parent), inherited.get("PYTHONPATH")) if path]
        own = {
            "PYTHONPATH": os.pathsep.join(before),
            "CATALOGUE_HOME": str(self.directory),
            "AIOINFRA_STATE_DIR": str(self.directory / "redis"),
            "ENVIRONMENT": "development",
            "SERVICE_NAME": "catalogue",
            "LOG_FORMAT": "json",
        }
        return kept | own | ({"REDIS_URL": redis_url} if redis_url else {})


def _make_private(directory: Path) -> None:
    """Make what is missing of a path, for this user alone: it may hold the state of an embedded server later."""
    for missing in reversed([path for path in (directory, *directory.parents) if not path.exists()]):
        missing.mkdir(mode=0o700)


def example_directory() -> Path:
    """Where the catalogue's code is: beside the package when installed, under docs/ in a checkout.

    Raises:
        ConfigError: neither is there.
    """
    package = Path(__file__).resolve().parents[2]
    for directory in (package / "examples" / "catalogue", package.parent / "docs" / "examples" / "catalogue"):
        if (directory / "app.py").is_file():
            return directory
    raise ConfigError(
        "the example behind the demo (docs/examples/catalogue) is not part of this installation"
    )


def missing_packages() -> list[str]:
    """What the demo imports and is not installed; all of it comes with ``aioinfra[web]``."""
    return [name for name in ("starlette", "uvicorn", "jinja2", "h11") if util.find_spec(name) is None]


def free_port(wanted: int = 0) -> int:
    """``wanted``, or when that is 0 the usual port if nobody has it, else any free one of 127.0.0.1.

    Raises:
        OSError: ``wanted`` is taken.
    """
    try:
        return _bindable(wanted or USUAL_PORT)
    except OSError:
        if wanted:
            raise
        return _bindable(0)


def free_ports(count: int) -> list[int]:
    """Different free ports of 127.0.0.1."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _bindable(port: int) -> int:
    with socket.create_server(("127.0.0.1", port)) as probe:
        found: int = probe.getsockname()[1]
        return found
