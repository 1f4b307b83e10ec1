"""The one way that every log line goes: structlog processors in a list, then the sinks.

The event starts as the caller's fields, with the message under ``event`` and where it came from under
`ORIGIN`. The first processors give it its final shape; `redact` comes after everything that can add a value;
`render` makes bytes. All of it runs on the calling thread, because a value that is rendered later may have
changed by then, and rendering costs less than handing over.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from structlog.typing import EventDict, Processor, WrappedLogger

from aioinfra.context import REQUEST_ID, USER_ID, current
from aioinfra.logs.failures import context_of, find_exception, is_swallowed, snapshot
from aioinfra.logs.files import LogFiles
from aioinfra.logs.render import EXCEPTION, RESERVED, ConsoleLine, JsonLine
from aioinfra.logs.sink import Sink
from aioinfra.redact import RedactOptions, Redactor

ORIGIN: Final = "_origin"
EVENT: Final = "event"

# Written by `Stamp` and `add_exception` themselves: nothing in them is a caller's.
_TRUSTED: Final = frozenset(
    {"timestamp", "level", "logger_name", "module", "function_name", "line_number", "service", EXCEPTION}
)


Origin: TypeAlias = tuple[float | None, str, str, str, str, int]
"""Where an event came from: seconds since the epoch (None for now), level, logger, path, function, line."""


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
    """The processors in order, and the sink and the files behind them."""

    __slots__ = ("_files", "_render", "_render_file", "_stamp", "_steps", "clean", "processors", "sink")

    def __init__(self, options: PipelineOptions, sink: Sink, files: LogFiles | None = None) -> None:
        policy = options.redact
        redactor = Redactor(replace(policy, trusted=policy.trusted | _TRUSTED))
        self.sink = sink
        self._files = files
        self.clean = redactor.text  # for texts that others wrote
        self._stamp = Stamp(options.service, Timestamps(utc=options.json))
        self._render = JsonLine() if options.json else ConsoleLine(colours=options.colours)
        self._render_file = ConsoleLine(colours=False) if options.colours and not options.json else None
        self.processors: list[Processor] = [
            merge_context,
            self._stamp,
            add_exception(redactor),
            redact(redactor),
            self._render,
        ]
        self._steps = self.processors[:-1]

    def run(self, logger: WrappedLogger, method: str, level: int, event: EventDict) -> None:
        """Take an event to the sink. A line that cannot be made keeps its message, and says so.

        Raises what `is_swallowed` does not hold back, after the line.
        """
        origin, message = event.get(ORIGIN), event.get(EVENT)
        try:
            made: Any = event
            for process in self._steps:
                made = process(logger, method, made)
            self._put(made, level)
        except BaseException as error:
            self._put_failure(origin, level, message, error)
            if not is_swallowed(error):
                raise

    def _put(self, event: EventDict, level: int) -> None:
        line = self._render(None, "", event)
        self.sink.put(line, level)
        if self._files is not None:
            if self._render_file is not None:
                line = self._render_file(None, "", event)
            self._files.put(line, level, event["logger_name"])

    def _put_failure(self, origin: Origin | None, level: int, message: object, error: BaseException) -> None:
        place = origin or (None, "ERROR", "aioinfra.logs", "<unknown>", "<unknown>", 0)
        text = f"{message if type(message) is str else ''} (its fields could not be logged: {type(error).__name__})"
        try:
            self._put(self._stamp(None, "", {ORIGIN: place, EVENT: text}), level)
        except Exception:  # noqa: BLE001 - nothing is left to say it with
            return

    def notice(self, lost: int, since: float) -> bytes:
        """The line that reports dropped lines."""
        start = self._stamp.written(since)
        text = f"dropped {lost} log lines since {start}: their target did not keep up"
        return self.own_line("WARNING", text, dropped=lost)

    def own_line(self, level: str, text: str, **fields: Any) -> bytes:
        """A line about the logging itself, rendered."""
        origin = (None, level, "aioinfra.logs", __file__, "own_line", 0)
        return (self._render_file or self._render)(
            None, "", self._stamp(None, "", {ORIGIN: origin, EVENT: text, **fields})
        )


def is_suspect(text: str) -> bool:
    """Whether a text may hold a secret that its shape gives away, and is worth the scan. About 50 ns."""
    return "=" in text or ":" in text or "earer" in text or "--" in text or "%3" in text or "('" in text


def merge_context(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The values of the current unit of work; the call's own fields win."""
    values = current()
    return {**values, **event} if values else event


class Timestamps:
    """Writes a time, in UTC to the microsecond or in local time to the millisecond."""

    __slots__ = ("_second", "_utc")

    def __init__(self, *, utc: bool) -> None:
        self._utc = utc
        self._second = (-1, "")

    def __call__(self, moment: float) -> str:
        whole = int(moment)
        second, text = self._second  # one tuple, so that threads see a second and its text together
        if second != whole:
            if self._utc:
                text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            else:
                text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(whole))
            self._second = (whole, text)
        # Six digits by way of a seventh: half the cost of a format specification.
        digits = str(int((moment - whole) * 1e6) + 1_000_000)
        return f"{text}.{digits[1:]}Z" if self._utc else f"{text}.{digits[1:4]}"


class Stamp:
    """Puts first what every line carries. A caller's field of such a name moves to ``<name>_``."""

    __slots__ = ("_modules", "_service", "written")

    _MAX_MODULES: Final = 10_000

    def __init__(self, service: str, written: Timestamps) -> None:
        self._service = service
        self.written = written
        self._modules: dict[str, str] = {}

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        created, level, name, path, function, line = event.pop(ORIGIN)
        message = event.pop(EVENT)
        request_id = event.pop(REQUEST_ID, None)
        user_id = event.pop(USER_ID, None)
        if not RESERVED.isdisjoint(event):
            event = {f"{key}_" if key in RESERVED else key: value for key, value in event.items()}
        return {
            "timestamp": self.written(time.time() if created is None else created),
            "level": level,
            "logger_name": name,
            "module": self._modules.get(path) or self._module(path),
            "function_name": function,
            "line_number": line,
            "request_id": request_id,
            "user_id": user_id,
            "service": self._service,
            "message": message,
            **event,
        }

    def _module(self, path: str) -> str:
        if len(self._modules) >= self._MAX_MODULES:
            self._modules.clear()
        name = path.rpartition("/")[2].removesuffix(".py") or "<unknown>"
        self._modules[path] = name
        return name


def add_exception(redactor: Redactor) -> Processor:
    """Turns ``exc_info`` into a snapshot of the exception."""

    def process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if "exc_info" in event:
            error = find_exception(event.pop("exc_info"))
            if error is not None:
                event[EXCEPTION] = snapshot(error, redactor.text)
                if event["request_id"] is None:  # logged outside the unit of work that it left
                    event = _with_context(event, context_of(error) or {})
        return event

    return process


def _with_context(event: EventDict, values: Mapping[str, Any]) -> EventDict:
    for name, value in values.items():
        if name in (REQUEST_ID, USER_ID):
            event[name] = event[name] if event[name] is not None else value
        else:
            event.setdefault(f"{name}_" if name in RESERVED else name, value)
    return event


def redact(redactor: Redactor) -> Processor:
    """Masks secrets, bounds values, makes them plain."""

    def process(_logger: WrappedLogger, _method: str, event: EventDict) -> Mapping[str, Any]:
        return redactor.mapping(event)

    return process
