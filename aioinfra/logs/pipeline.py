"""The one way that every log line goes: an event is composed, rendered to bytes, and given to the sinks.

All of it runs on the calling thread, because a value that is rendered later may have changed by then, and
rendering costs less than handing over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aioinfra.logs.event import Composer, Origin, Timestamps
from aioinfra.logs.failures import is_swallowed
from aioinfra.logs.files import LogFiles
from aioinfra.logs.render import ConsoleLine, JsonLine
from aioinfra.logs.sink import Sink
from aioinfra.redact import RedactOptions

ORIGIN: Final = "_origin"
"""A field under which a decorator gives the place of a line."""
EVENT: Final = "event"
"""structlog's name for the message."""


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """How lines look.

    Attributes:
        service: what each line carries as ``service``.
        json: JSON objects; else readable lines in local time.
        colours: colour readable lines.
        redact: the policy about secrets.
    """

    service: str = "app"
    json: bool = True
    colours: bool = False
    redact: RedactOptions = field(default_factory=RedactOptions)


class Pipeline:
    """The steps of a line in order, with the sink and the files behind them."""

    __slots__ = ("_composer", "_files", "_render", "_render_file", "clean", "sink")

    def __init__(self, options: PipelineOptions, sink: Sink, files: LogFiles | None = None) -> None:
        self.sink = sink
        self._files = files
        self._composer = Composer(options.service, Timestamps(utc=options.json), options.redact)
        self.clean = self._composer.text  # for texts that others wrote
        self._render = JsonLine() if options.json else ConsoleLine(colours=options.colours)
        self._render_file = ConsoleLine(colours=False) if options.colours and not options.json else None

    def run(self, origin: Origin, level: int, message: str, fields: Mapping[str, Any]) -> None:
        """Take a call to the sink. A line that cannot be made keeps its message, and says so.

        Raises what `is_swallowed` does not hold back, after the line.
        """
        try:
            self._put(self._composer.event(origin, message, fields), level)
        except BaseException as error:
            self._put_failure(origin, level, message, error)
            if not is_swallowed(error):
                raise

    def _put(self, event: dict[str, Any], level: int) -> None:
        line = self._render(event)
        self.sink.put(line, level)
        if self._files is not None:
            if self._render_file is not None:
                line = self._render_file(event)
            self._files.put(line, level, event["logger_name"])

    def _put_failure(self, origin: Origin, level: int, message: str, error: BaseException) -> None:
        text = f"{message} (its fields could not be logged: {type(error).__name__})"
        try:
            self._put(self._composer.line(origin, text, {}), level)
        except Exception:  # noqa: BLE001 - nothing is left to say it with
            return

    def notice(self, lost: int, since: float) -> bytes:
        """The line that reports dropped lines."""
        start = self._composer.written(since)
        text = f"dropped {lost} log lines since {start}: their target did not keep up"
        return self.own_line("WARNING", text, dropped=lost)

    def own_line(self, level: str, text: str, **fields: Any) -> bytes:
        """A line about the logging itself, rendered."""
        origin = (None, level, "aioinfra.logs", __file__, "own_line", 0)
        return (self._render_file or self._render)(self._composer.line(origin, text, fields))


def is_suspect(text: str) -> bool:
    """Whether a text may hold a secret that its shape gives away, and is worth the scan. About 50 ns."""
    return "=" in text or ":" in text or "earer" in text or "--" in text or "%3" in text or "('" in text
