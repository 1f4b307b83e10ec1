"""The logger that callers hold, and the channel behind each logger name.

A channel knows its level and its pipeline; both change in place when logging is set up or a level is
changed, so that loggers made at import time follow. Before `setup_logging` a line goes where the application
sends its own: to structlog when that is configured, else to the standard library's logger of the same name.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, Final, NamedTuple, Self, TypeAlias

import structlog
from structlog._base import BoundLoggerBase

from aioinfra.logs.failures import find_exception, is_swallowed, stack_of, unformatted
from aioinfra.logs.levels import LABELS, LEVELS, LevelRules
from aioinfra.logs.pipeline import EVENT, ORIGIN, Pipeline
from aioinfra.redact import DEFAULT_REDACTOR

_SPECIAL: Final = frozenset({"extra", "stacklevel", "stack_info", EVENT, ORIGIN})
_STRUCTLOGS: Final = frozenset({"self", "level", EVENT})
"""Parameters of structlog's own log methods."""


Site: TypeAlias = tuple[str, str, int]
"""Path, function and line of a call."""


class GivenSite(NamedTuple):
    """A `Site` that a decorator gives under `ORIGIN`, instead of the call's own. No caller's value is one."""

    path: str
    function: str
    line: int


class Channel:
    """What all loggers of one name share. Without a pipeline every level passes: others decide then."""

    __slots__ = ("level", "name", "pipeline")

    def __init__(self, name: str) -> None:
        self.name = name
        self.level = logging.NOTSET
        self.pipeline: Pipeline | None = None


class BoundLogger(BoundLoggerBase):
    """A structlog logger with bound fields; takes the standard library's arguments, too.

    ``log.info("paid %s", order, amount=5, extra={"currency": "EUR"}, exc_info=True)``: positional arguments
    are formatted into the message, everything else becomes a field of the line.
    """

    _logger: Channel

    def debug(self, event: object = "", /, *args: object, **fields: Any) -> None:
        """Log at DEBUG. A disabled call costs a comparison."""
        if self._logger.level <= logging.DEBUG:
            self._emit(logging.DEBUG, event, args, fields)

    def info(self, event: object = "", /, *args: object, **fields: Any) -> None:
        """Log at INFO."""
        if self._logger.level <= logging.INFO:
            self._emit(logging.INFO, event, args, fields)

    def warning(self, event: object = "", /, *args: object, **fields: Any) -> None:
        """Log at WARNING."""
        if self._logger.level <= logging.WARNING:
            self._emit(logging.WARNING, event, args, fields)

    def error(self, event: object = "", /, *args: object, **fields: Any) -> None:
        """Log at ERROR."""
        if self._logger.level <= logging.ERROR:
            self._emit(logging.ERROR, event, args, fields)

    def critical(self, event: object = "", /, *args: object, **fields: Any) -> None:
        """Log at CRITICAL."""
        if self._logger.level <= logging.CRITICAL:
            self._emit(logging.CRITICAL, event, args, fields)

    def exception(self, event: object = "", /, *args: object, **fields: Any) -> None:
        """Log at ERROR with the exception being handled."""
        if self._logger.level <= logging.ERROR:
            fields.setdefault("exc_info", True)
            self._emit(logging.ERROR, event, args, fields)

    def log(self, level: int | str, event: object = "", /, *args: object, **fields: Any) -> None:
        """Log at a level given by number or name."""
        number = LEVELS.get(level.lower(), logging.INFO) if isinstance(level, str) else level
        if self._logger.level <= number:
            self._emit(number, event, args, fields)

    warn = warning
    fatal = critical
    msg = info

    @property
    def name(self) -> str:
        """The logger's name."""
        return self._logger.name

    def is_enabled_for(self, level: int) -> bool:
        """Whether a line of that level would be written."""
        return self._logger.level <= level

    isEnabledFor = is_enabled_for  # noqa: N815 - the standard library's name for it

    def with_context(self, **fields: Any) -> Self:
        """Another name for `bind`: a logger whose lines all carry these fields."""
        return self.bind(**fields)

    def _emit(self, level: int, event: object, args: tuple[object, ...], fields: dict[str, Any]) -> None:
        channel = self._logger
        frame = sys._getframe(2)  # noqa: SLF001 - the only way to the caller's line without building a stack
        code = frame.f_code
        site = (code.co_filename, code.co_name, frame.f_lineno)
        pipeline = channel.pipeline
        clean = DEFAULT_REDACTOR.text if pipeline is None else pipeline.clean
        stop: BaseException | None = None
        try:
            if fields and not _SPECIAL.isdisjoint(fields):
                event, fields, site = _resolve_special(event, fields, frame)
            if type(event) is not str or args:
                message = clean(interpolate(event, args))
            elif (  # as is_suspect, which costs twice that
                "=" in event
                or ":" in event
                or "earer" in event
                or "--" in event
                or "%3" in event
                or "('" in event
            ):
                message = clean(event)
            else:
                message = event
        except BaseException as error:  # noqa: BLE001 - what a value raises when it is read; see is_swallowed
            message, fields = unformatted(event, error, clean), {}
            stop = None if is_swallowed(error) else error
        if pipeline is None:
            emit_elsewhere(channel.name, level, message, {**self._context, **fields}, site)
        else:
            context = self._context
            path, function, line = site
            pipeline.run(
                (None, LABELS.get(level) or logging.getLevelName(level), channel.name, path, function, line),
                level,
                message,
                {**context, **fields} if context else fields,
            )
        if stop is not None:
            raise stop


class Channels:
    """Every channel of the process by name, as the standard library keeps its loggers."""

    __slots__ = ("_by_name", "_pipeline", "_rules")

    def __init__(self) -> None:
        self._by_name: dict[str, Channel] = {}
        self._pipeline: Pipeline | None = None
        self._rules = LevelRules(logging.NOTSET)

    def get(self, name: str) -> Channel:
        """The channel of that name; made when there is none."""
        channel = self._by_name.get(name)
        if channel is None:
            channel = self._by_name.setdefault(name, Channel(name))
            channel.level, channel.pipeline = self._rules.level_of(name), self._pipeline
        return channel

    def route(self, pipeline: Pipeline | None, rules: LevelRules) -> None:
        """Send all channels to a pipeline, or elsewhere, with these levels. O(channels)."""
        self._pipeline, self._rules = pipeline, rules
        for channel in list(self._by_name.values()):
            channel.pipeline = pipeline
            channel.level = rules.level_of(channel.name)


CHANNELS: Final = Channels()
"""Process-wide by nature, like the loggers of the standard library whose names it shares."""


def get_logger(name: str | None = None, **fields: Any) -> BoundLogger:
    """The logger of that name; by default the calling module's. ``fields`` are bound to it.

    May be called before `setup_logging`, as at import time.
    """
    if name is None:
        name = str(sys._getframe(1).f_globals.get("__name__", "root"))  # noqa: SLF001 - the caller's module
    return BoundLogger(CHANNELS.get(name), (), fields)


def interpolate(event: object, args: tuple[object, ...]) -> str:
    """The message with its arguments, as the standard library formats it; not scanned, but masked by their keys.

    A wrong format and an argument that cannot be printed are told in the text.
    """
    try:
        text = event if isinstance(event, str) else str(event)
        if not args:
            return text
        if len(args) == 1 and isinstance(args[0], Mapping) and args[0]:
            return text % DEFAULT_REDACTOR.mapping(args[0])
        return text % args
    except Exception as error:  # noqa: BLE001 - a wrong format or a raising __str__ must not end the caller's work
        return unformatted(event, error, str)


def _resolve_special(
    event: object, fields: dict[str, Any], frame: FrameType
) -> tuple[object, dict[str, Any], Site]:
    """Resolve the standard library's ``extra``, ``stacklevel`` and ``stack_info``, and a given origin.

    ``log.info(event="text")``, as structlog allows, is the message; beside one it is a field of that name.
    """
    extra = fields.pop("extra", None)
    if isinstance(extra, Mapping):
        fields = {**{str(key): value for key, value in extra.items()}, **fields}
    level = fields.pop("stacklevel", 1)
    while isinstance(level, int) and level > 1 and frame.f_back is not None:
        frame, level = frame.f_back, level - 1
    if fields.pop("stack_info", False):
        fields["stack"] = stack_of(frame)
    given = fields.pop(EVENT, None)
    if given is not None:
        if event == "":
            event = given
        else:
            fields[f"{EVENT}_"] = given
    code = frame.f_code
    place: Site = (code.co_filename, code.co_name, frame.f_lineno)
    if ORIGIN in fields:
        site = fields.pop(ORIGIN)
        if type(site) is GivenSite:
            place = site
        else:
            fields[f"{ORIGIN}_"] = site
    return event, fields, place


def emit_elsewhere(name: str, level: int, message: str, fields: dict[str, Any], site: Site) -> None:
    """Log through what the application has set up by itself. What that raises is its own."""
    if structlog.is_configured():
        taken = {f"{key}_" if key in _STRUCTLOGS else key: value for key, value in fields.items()}
        structlog.get_logger(name).log(level, message, **taken)
        return
    logger = logging.getLogger(name)
    if not logger.isEnabledFor(level):
        return
    path, function, line = site
    raised = stop = None
    try:
        error = find_exception(fields.pop("exc_info", None))
        raised = None if error is None else (type(error), error, error.__traceback__)
        message += "".join(f" {key}={value}" for key, value in DEFAULT_REDACTOR.mapping(fields).items())
    except BaseException as broken:  # noqa: BLE001 - what a field raises when it is read; see is_swallowed
        message = unformatted(message, broken, str)
        stop = None if is_swallowed(broken) else broken
    logger.handle(logger.makeRecord(name, level, path, line, "%s", (message,), raised, function))
    if stop is not None:
        raise stop
