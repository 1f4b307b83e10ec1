"""The files of a log directory: everything in app.log, and errors, api.* and model.* also in files of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aioinfra.errors import InvalidArgument
from aioinfra.logs.rotation import Calendar, DailyFile
from aioinfra.logs.sink import Sink, SinkFigures, SinkOptions

_PARTS: Final = ("api", "model")


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How the files of a log directory are kept.

    Raises InvalidArgument for what is no number of days; names it.

    Attributes:
        keep_days: past days whose files are kept.
        calendar: the day of a moment (seconds since the epoch); None: as the timestamps of the lines have it.
        sink: bounds of each file's ring.
    """

    keep_days: int = 30
    calendar: Calendar | None = None
    sink: SinkOptions = field(default_factory=SinkOptions)

    def __post_init__(self) -> None:
        days = self.keep_days
        if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= 100_000:
            raise InvalidArgument("keep_days", "must be 1 to 100,000 days")
        if self.calendar is not None and not callable(self.calendar):
            raise InvalidArgument("calendar", "must be callable")
        if not isinstance(self.sink, SinkOptions):
            raise InvalidArgument("sink", "must be SinkOptions")


class LogFiles:
    """One sink a file, so that what fails or stalls keeps nothing from the others.

    ``notice`` is the one of `Sink`; ``trouble`` is told, on a writer thread, of a file that cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        options: FileOptions,
        calendar: Calendar,
        *,
        notice: Callable[[int, float], bytes],
        trouble: Callable[[str, BaseException], None],
    ) -> None:
        def sink(name: str) -> Sink:
            path = directory / f"{name}.log"
            target = self._targets[name] = DailyFile(path, calendar, options.keep_days)
            return Sink(target, options.sink, notice=notice, trouble=lambda error: trouble(str(path), error))

        self._targets: dict[str, DailyFile] = {}
        self._app = sink("app")
        self._error = sink("error")
        self._parts = {name: sink(name) for name in _PARTS}

    def put(self, line: bytes, level: int, name: str) -> None:
        """Take a logger's line to its files. O(1), never blocks, never raises."""
        self._app.put(line, level)
        if level >= logging.ERROR:
            self._error.put(line, level)
        part = self._parts.get(name.partition(".")[0])
        if part is not None:
            part.put(line, level)

    def sinks(self) -> Iterator[Sink]:
        """The sink of every file."""
        yield self._app
        yield self._error
        yield from self._parts.values()

    def figures(self) -> Mapping[str, SinkFigures]:
        """Lines written, dropped and waiting, by the file's name."""
        names = ("app", "error", *_PARTS)
        return {f"{name}.log": sink.figures() for name, sink in zip(names, self.sinks(), strict=True)}

    def close_files(self) -> None:
        """Close the descriptors of the sinks that are closed."""
        for target, sink in zip(self._targets.values(), self.sinks(), strict=True):
            if not sink.is_running:
                target.close()
