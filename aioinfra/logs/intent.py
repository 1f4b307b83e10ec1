"""What a call of `setup_logging` asks for, from its arguments and the environment."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from aioinfra.errors import ConfigError, InvalidArgument
from aioinfra.logs.files import FileOptions
from aioinfra.logs.levels import LevelRules, parse_levels
from aioinfra.logs.sink import SinkOptions
from aioinfra.logs.target import Stream
from aioinfra.redact import RedactOptions

JSON: Final = "json"
PRETTY: Final = "pretty"
PLAIN: Final = "plain"
_FORMATS: Final = {JSON: JSON, "console": PRETTY, PRETTY: PRETTY, "text": PLAIN, PLAIN: PLAIN}
_DEVELOPMENT: Final = frozenset({"", "development", "dev", "local", "test", "testing"})
_CHOICE: Final = "must be json, pretty (console) or plain (text)"


@dataclass(frozen=True, slots=True)
class LoggingOptions:
    """What `setup_logging` does beyond its plain arguments."""

    sink: SinkOptions = field(default_factory=SinkOptions)
    redact: RedactOptions = field(default_factory=RedactOptions)
    files: FileOptions = field(default_factory=FileOptions)
    colours: bool | None = None  # None: for pretty lines to a terminal, when NO_COLOR is not set


@dataclass(frozen=True, slots=True)
class Given:
    """The arguments as they were given; None: from the environment."""

    log_level: str | None
    log_dir: str | os.PathLike[str] | None
    environment: str | None
    log_format: str | None
    service_name: str | None


@dataclass(frozen=True, slots=True)
class Intent:
    """Everything that makes one set-up differ from another."""

    levels: str
    log_format: str
    service: str
    directory: Path | None
    stream: Stream
    options: LoggingOptions

    @property
    def json(self) -> bool:
        """Whether lines are JSON objects."""
        return self.log_format == JSON

    @property
    def coloured(self) -> bool:
        """Whether lines on the stream are coloured."""
        chosen = self.options.colours
        if self.json or chosen is not None:
            return bool(chosen) and not self.json
        isatty = getattr(self.stream, "isatty", None)
        wanted = self.log_format == PRETTY and not os.environ.get("NO_COLOR")
        return wanted and isatty is not None and bool(isatty())


def read_intent(
    given: Given, stream: TextIO | Stream | None, options: LoggingOptions
) -> tuple[Intent, LevelRules]:
    """What is asked for, and its levels.

    Raises:
        InvalidArgument: an argument is not understood.
        ConfigError: a variable of the environment is not understood; names it.
    """
    _check(given, stream, options)
    levels = _chosen(given.log_level, "LOG_LEVEL", "info")
    intent = Intent(
        levels=levels,
        log_format=_log_format(given.log_format, given.environment),
        service=_chosen(given.service_name, "SERVICE_NAME", "app"),
        directory=_directory(given.log_dir),
        stream=stream if stream is not None else sys.stderr,
        options=options,
    )
    return intent, _parsed_levels(levels, from_environment=given.log_level is None)


def _check(given: Given, stream: object, options: object) -> None:
    for name in ("log_level", "environment", "log_format", "service_name"):
        value = getattr(given, name)
        if value is not None and not isinstance(value, str):
            raise InvalidArgument(name, "must be a text")
    if given.log_dir is not None and not isinstance(given.log_dir, str | os.PathLike):
        raise InvalidArgument("log_dir", "must be a path")
    if stream is not None and not callable(getattr(stream, "write", None)):
        raise InvalidArgument("stream", "must be a text stream: it has no write()")
    writable = getattr(stream, "writable", None)
    if callable(writable) and not getattr(stream, "closed", False) and not writable():
        raise InvalidArgument("stream", "is open for reading alone")
    if not isinstance(options, LoggingOptions):
        raise InvalidArgument("options", "must be LoggingOptions")


def _chosen(argument: str | None, variable: str, default: str) -> str:
    return argument if argument is not None else os.environ.get(variable) or default


def _directory(argument: str | os.PathLike[str] | None) -> Path | None:
    """Absolute, so that a later change of the working directory moves no file; an empty text means none."""
    name = os.fspath(argument) if argument is not None else os.environ.get("LOG_DIR", "")
    if not isinstance(name, str) or "\0" in name:
        raise InvalidArgument("log_dir", "must be a path of text without null characters")
    return Path(name).absolute() if name else None


def _parsed_levels(text: str, *, from_environment: bool) -> LevelRules:
    try:
        return parse_levels(text)
    except InvalidArgument as error:
        if from_environment:
            raise ConfigError(f"LOG_LEVEL {error.reason}") from None
        raise


def _log_format(argument: str | None, environment: str | None) -> str:
    chosen = _chosen(argument, "LOG_FORMAT", "").strip().lower()
    if chosen:
        if chosen in _FORMATS:
            return _FORMATS[chosen]
        if argument is None:
            raise ConfigError(f"LOG_FORMAT {_CHOICE}")
        raise InvalidArgument("log_format", _CHOICE)
    development = _chosen(environment, "ENVIRONMENT", "").strip().lower() in _DEVELOPMENT
    return PRETTY if development else JSON
