"""Setting logging up for a process, and taking it down."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from dataclasses import dataclass, field, replace
from typing import Final, TextIO

import structlog

from aioinfra.errors import ConfigError, InvalidArgument
from aioinfra.logs.levels import LEVELS, LevelRules, parse_levels
from aioinfra.logs.logger import CHANNELS, BoundLogger, Channel, get_logger
from aioinfra.logs.pipeline import Pipeline, PipelineOptions
from aioinfra.logs.sink import Sink, SinkFigures, SinkOptions
from aioinfra.logs.stdlib import Adoption, PipelineHandler, adopt
from aioinfra.logs.target import DescriptorTarget, Stream, StreamTarget, Target
from aioinfra.process_default import ProcessDefault
from aioinfra.redact import RedactOptions

__all__ = ["Logging", "LoggingOptions", "current_logging", "get_logger", "setup_logging"]

_FORMATS: Final = {"json": True, "console": False, "text": False, "plain": False, "pretty": False}
_DEVELOPMENT: Final = frozenset({"", "development", "dev", "local", "test", "testing"})


@dataclass(frozen=True, slots=True)
class LoggingOptions:
    """What `setup_logging` does beyond its plain arguments."""

    sink: SinkOptions = field(default_factory=SinkOptions)
    redact: RedactOptions = field(default_factory=RedactOptions)
    colours: bool | None = None  # None: when the stream is a terminal and NO_COLOR is not set


@dataclass(frozen=True, slots=True)
class _Intent:
    """Everything that makes one set-up differ from another."""

    levels: str
    json: bool
    service: str
    stream: Stream
    options: LoggingOptions


class Logging:
    """Logging as it is set up in this process. Made by `setup_logging`."""

    def __init__(self, intent: _Intent, rules: LevelRules) -> None:
        self._intent = intent
        self._rules = rules
        self._sink = Sink(_target(intent.stream), intent.options.sink, notice=self._notice)
        self._pipeline = Pipeline(
            PipelineOptions(
                service=intent.service,
                json=intent.json,
                colours=_coloured(intent),
                redact=intent.options.redact,
            ),
            self._sink,
        )
        self._adoption = Adoption(PipelineHandler(self._pipeline))
        self._configured_structlog = False

    def _notice(self, lost: int, since: float) -> bytes:
        return self._pipeline.notice(lost, since)

    def figures(self) -> SinkFigures:
        """Lines written, dropped and waiting."""
        return self._sink.figures()

    def set_level(self, level: str, name: str = "") -> None:
        """Change a logger's level, or the default, at run time; holds for what lies below the name, too.

        Raises:
            InvalidArgument: there is no such level.
        """
        number = LEVELS.get(level.lower()) if isinstance(level, str) else None
        if number is None:
            raise InvalidArgument("level", "must be debug, info, warning, error or critical")
        if name:
            self._rules = replace(self._rules, rules={**self._rules.rules, name: number})
        else:
            self._rules = replace(self._rules, default=number)
        self._route()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until the lines so far are written, at most ``timeout`` seconds; False when they are not."""
        return self._sink.flush(timeout)

    async def aflush(self, timeout: float = 5.0) -> bool:
        """`flush` beside the event loop."""
        return await self._sink.aflush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Write what waits and end the writer thread. Logging stays set up: a later line starts it again."""
        self._sink.close(timeout)

    async def aclose(self, timeout: float | None = None) -> None:
        """`close` beside the event loop."""
        await self._sink.aclose(timeout)

    def uninstall(self) -> None:
        """`close`, and put back what was there before `setup_logging`."""
        if _installed.current is not self:
            return
        _installed.withdraw(self)
        CHANNELS.route(None, LevelRules(logging.NOTSET))
        self._adoption.undo()
        if self._configured_structlog:
            structlog.reset_defaults()
        atexit.unregister(self._at_exit)
        self._sink.close()

    def _install(self) -> None:
        _installed.install(self)
        if not structlog.is_configured():  # an application's own configuration is left alone
            self._configured_structlog = True
            structlog.configure(
                processors=self._pipeline.processors,
                wrapper_class=BoundLogger,
                logger_factory=_structlog_channel,
                cache_logger_on_first_use=False,
            )
        atexit.register(self._at_exit)
        self._route()

    def _route(self) -> None:
        CHANNELS.route(self._pipeline, self._rules)
        adopt(self._adoption, self._rules)

    def _at_exit(self) -> None:
        self._sink.close(final=True)


_installed: Final[ProcessDefault[Logging]] = ProcessDefault("logging set-up")


def setup_logging(
    log_level: str | None = None,
    environment: str | None = None,
    log_format: str | None = None,
    service_name: str | None = None,
    *,
    stream: TextIO | Stream | None = None,
    options: LoggingOptions = LoggingOptions(),
) -> Logging:
    """Send every log line of this process through one pipeline to ``stream`` (stderr by default).

    The same call again changes nothing, but catches handlers that others have installed since; a different
    one replaces what was set up. Arguments that are None are read from the environment, now.

    Args:
        log_level: LOG_LEVEL, ``info`` by default; ``info,app.db=debug`` sets loggers apart.
        environment: ENVIRONMENT; development (also when unset) means readable lines, anything else JSON.
        log_format: LOG_FORMAT, ``json`` or ``console``; wins over the environment.
        service_name: SERVICE_NAME, ``app`` by default; each line carries it.

    Raises:
        InvalidArgument: an argument is not understood.
        ConfigError: a variable of the environment is not understood; names it.
    """
    _check_arguments(log_level, environment, log_format, service_name, stream, options)
    level = _given(log_level, "LOG_LEVEL", "info")
    rules = _parsed_levels(level, from_environment=log_level is None)
    intent = _Intent(
        levels=level,
        json=_wants_json(log_format, environment),
        service=_given(service_name, "SERVICE_NAME", "app"),
        stream=stream if stream is not None else sys.stderr,
        options=options,
    )
    present = _installed.current
    if present is not None:
        if present._intent == intent:  # noqa: SLF001 - the two halves of one module
            present._route()  # noqa: SLF001 - as above
            return present
        present.uninstall()
    made = Logging(intent, rules)
    made._install()  # noqa: SLF001 - as above
    return made


def current_logging() -> Logging | None:
    """Logging as set up in this process, or None."""
    return _installed.current


def _check_arguments(
    log_level: object,
    environment: object,
    log_format: object,
    service_name: object,
    stream: object,
    options: object,
) -> None:
    given = {
        "log_level": log_level,
        "environment": environment,
        "log_format": log_format,
        "service_name": service_name,
    }
    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            raise InvalidArgument(name, "must be a text")
    if stream is not None and not callable(getattr(stream, "write", None)):
        raise InvalidArgument("stream", "must be a text stream: it has no write()")
    writable = getattr(stream, "writable", None)
    if callable(writable) and not getattr(stream, "closed", False) and not writable():
        raise InvalidArgument("stream", "is open for reading alone")
    if not isinstance(options, LoggingOptions):
        raise InvalidArgument("options", "must be LoggingOptions")


def _given(argument: str | None, variable: str, default: str) -> str:
    return argument if argument is not None else os.environ.get(variable) or default


def _parsed_levels(text: str, *, from_environment: bool) -> LevelRules:
    try:
        return parse_levels(text)
    except InvalidArgument as error:
        if from_environment:
            raise ConfigError(f"LOG_LEVEL {error.reason}") from None
        raise


def _wants_json(log_format: str | None, environment: str | None) -> bool:
    chosen = _given(log_format, "LOG_FORMAT", "").strip().lower()
    if chosen:
        if chosen in _FORMATS:
            return _FORMATS[chosen]
        if log_format is None:
            raise ConfigError("LOG_FORMAT must be json or console")
        raise InvalidArgument("log_format", "must be json or console")
    return _given(environment, "ENVIRONMENT", "").strip().lower() not in _DEVELOPMENT


def _target(stream: Stream) -> Target:
    """The stream's file descriptor where it has one: writing to it waits for nobody's lock."""
    try:
        return DescriptorTarget(stream.fileno())  # type: ignore[attr-defined]  # asked for, not assumed
    except (AttributeError, OSError, ValueError):
        return StreamTarget(stream)


def _coloured(intent: _Intent) -> bool:
    if intent.json or intent.options.colours is not None:
        return bool(intent.options.colours) and not intent.json
    isatty = getattr(intent.stream, "isatty", None)
    return not os.environ.get("NO_COLOR") and isatty is not None and bool(isatty())


def _structlog_channel(*args: object) -> Channel:
    """The channel for ``structlog.get_logger(name)``."""
    return CHANNELS.get(str(args[0]) if args else "structlog")
