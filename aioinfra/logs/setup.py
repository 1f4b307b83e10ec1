"""Setting logging up for a process, and taking it down."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, TextIO

import structlog

from aioinfra.errors import InvalidArgument
from aioinfra.logs.files import LogFiles
from aioinfra.logs.intent import Given, Intent, LoggingOptions, read_intent
from aioinfra.logs.levels import LEVELS, LevelRules, parse_levels
from aioinfra.logs.logger import CHANNELS, BoundLogger, Channel, get_logger
from aioinfra.logs.pipeline import Pipeline, PipelineOptions
from aioinfra.logs.rotation import local_day, utc_day
from aioinfra.logs.sink import Sink, SinkFigures
from aioinfra.logs.stdlib import Adoption, PipelineHandler, adopt
from aioinfra.logs.target import DescriptorTarget, Stream, StreamTarget, Target
from aioinfra.process_default import ProcessDefault

__all__ = ["Logging", "LoggingOptions", "current_logging", "get_logger", "setup_logging"]

_STDERR: Final = 2


class Logging:
    """Logging as it is set up in this process. Made by `setup_logging`."""

    def __init__(self, intent: Intent, rules: LevelRules) -> None:
        self._intent = intent
        self._rules = rules
        self._sink = Sink(
            _target(intent.stream), intent.options.sink, notice=self._notice, trouble=self._stream_trouble
        )
        self._files = self._made_files()
        self._sinks = [self._sink, *(self._files.sinks() if self._files else ())]
        self._pipeline = Pipeline(
            PipelineOptions(
                service=intent.service,
                json=intent.json,
                colours=intent.coloured,
                redact=intent.options.redact,
            ),
            self._sink,
            self._files,
        )
        self._adoption = Adoption(PipelineHandler(self._pipeline))
        self._configured_structlog = False

    def _made_files(self) -> LogFiles | None:
        if self._intent.directory is None:
            return None
        options = self._intent.options.files
        calendar = options.calendar or (utc_day if self._intent.json else local_day)
        return LogFiles(
            self._intent.directory, options, calendar, notice=self._notice, trouble=self._file_trouble
        )

    def _notice(self, lost: int, since: float) -> bytes:
        return self._pipeline.notice(lost, since)

    def _file_trouble(self, path: str, error: BaseException) -> None:
        self._sink.put(self._complaint(path, error), logging.ERROR)

    def _stream_trouble(self, error: BaseException) -> None:
        """Told to the files; without any, to stderr, where that does not wait."""
        line = self._complaint("the stream", error)
        if self._files is not None:
            self._files.put(line, logging.ERROR, "aioinfra.logs")
            return
        if sys.__stderr__ is None:  # closed from the start: the number may be a socket's by now
            return
        with suppress(OSError):
            DescriptorTarget(_STDERR).write_at_once(line)

    def _complaint(self, what: str, error: BaseException) -> bytes:
        reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        text = f"cannot write log lines to {what}: {reason}; they wait, and are dropped when too many do"
        return self._pipeline.own_line("ERROR", text)

    def figures(self) -> SinkFigures:
        """Lines written to the stream, dropped and waiting."""
        return self._sink.figures()

    def file_figures(self) -> Mapping[str, SinkFigures]:
        """The same of every file by its name; empty without a directory."""
        return {} if self._files is None else self._files.figures()

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

    def set_levels(self, levels: str) -> None:
        """Change all levels at run time to what a text as of LOG_LEVEL says: ``info,app.db=debug``.

        Raises:
            InvalidArgument: a part is neither a level nor ``name=level``.
        """
        if not isinstance(levels, str):
            raise InvalidArgument("levels", "must be a text")
        self._rules = parse_levels(levels, "levels")
        self._route()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until the lines so far are written, at most ``timeout`` seconds; False when they are not."""
        end = time.monotonic() + timeout
        for sink in self._sinks[1:]:
            sink.flush(0)  # one that is stuck does not keep the others from starting
        left = [sink for sink in self._sinks if not sink.flush(max(0.0, end - time.monotonic()))]
        return not left

    async def aflush(self, timeout: float = 5.0) -> bool:
        """`flush` beside the event loop."""
        return await asyncio.to_thread(self.flush, timeout)

    def close(self, timeout: float | None = None) -> None:
        """Write what waits and end the writer threads. Logging stays set up: a later line starts them again."""
        self._close(timeout)

    async def aclose(self, timeout: float | None = None) -> None:
        """`close` beside the event loop."""
        await asyncio.to_thread(self._close, timeout)

    def _close(self, timeout: float | None = None, *, final: bool = False) -> None:
        end = time.monotonic() + (self._intent.options.sink.exit_timeout if timeout is None else timeout)
        for sink in self._sinks:  # they all work on their lines while the first one is waited for
            sink.stop(final=final)
        for sink in self._sinks:
            sink.close(max(0.0, end - time.monotonic()), final=final)

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
        self._close()
        if self._files is not None:
            self._files.close_files()

    def _install(self) -> None:
        _installed.install(self)
        if not structlog.is_configured():  # an application's own configuration is left alone
            self._configured_structlog = True
            structlog.configure(
                processors=[],  # BoundLogger runs none
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
        self._close(final=True)


_installed: Final[ProcessDefault[Logging]] = ProcessDefault("logging set-up")


def setup_logging(
    log_level: str | None = None,
    environment: str | None = None,
    log_format: str | None = None,
    service_name: str | None = None,
    *,
    log_dir: str | os.PathLike[str] | None = None,
    stream: TextIO | Stream | None = None,
    options: LoggingOptions = LoggingOptions(),  # noqa: B008 - frozen, and its parts are
) -> Logging:
    """Send every log line of this process through one pipeline to ``stream`` (stderr by default) and to files.

    The same call again changes nothing, but catches handlers that others have installed since; a different
    one replaces what was set up. Arguments that are None are read from the environment, now.

    Args:
        log_level: LOG_LEVEL, ``info`` by default; ``info,app.db=debug`` sets loggers apart.
        environment: ENVIRONMENT; development (also when unset) means readable lines, anything else JSON.
        log_format: LOG_FORMAT, ``json``, ``pretty`` (with colours on a terminal; also ``console``) or ``plain``
            (also ``text``); wins over the environment. Files never have colours.
        service_name: SERVICE_NAME, ``app`` by default; each line carries it.
        log_dir: LOG_DIR, none by default. The directory of ``app.log`` (every line), ``error.log`` (ERROR and
            above), ``api.log`` (loggers ``api`` and ``api.*``) and ``model.log`` (``model``, ``model.*``), which
            start anew every day; several processes may write there. A directory that cannot be written is
            reported on the stream and tried again.

    Raises:
        InvalidArgument: an argument is not understood.
        ConfigError: a variable of the environment is not understood; names it.
    """
    given = Given(log_level, log_dir, environment, log_format, service_name)
    intent, rules = read_intent(given, stream, options)
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


def _target(stream: Stream) -> Target:
    """The stream's file descriptor where it has one: writing to it waits for nobody's lock."""
    try:
        return DescriptorTarget(stream.fileno())  # type: ignore[attr-defined]  # asked for, not assumed
    except (AttributeError, OSError, ValueError):
        return StreamTarget(stream)


def _structlog_channel(*args: object) -> Channel:
    """The channel for ``structlog.get_logger(name)``."""
    return CHANNELS.get(str(args[0]) if args else "structlog")
