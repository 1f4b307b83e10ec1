"""Third-party loggers: records of the standard library enter the same pipeline, each once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aioinfra.logs.failures import is_swallowed, unformatted
from aioinfra.logs.levels import LABELS, LevelRules
from aioinfra.logs.logger import interpolate
from aioinfra.logs.pipeline import EVENT, ORIGIN, Pipeline, is_suspect

# What a record has by itself; formatters of other handlers add the last two. The rest came as `extra`.
# color_message is uvicorn's message once more, with escape codes.
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

_INTERNAL: Final = frozenset({EVENT, ORIGIN})


class PipelineHandler(logging.Handler):
    """Feeds records into a pipeline.

    Takes no handler lock: the pipeline needs none, and a lock here would make every thread wait for one.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(logging.NOTSET)
        self._pipeline = pipeline

    def createLock(self) -> None:  # noqa: N802 - overrides the standard library's name
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Take one record; never raises."""
        if not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Run the record through the pipeline."""
        fields: dict[str, Any] = {}
        values = vars(record)
        for name in values.keys() - _OWN:
            fields[str(name) if name not in _INTERNAL else f"{name}_"] = values[name]
        if record.exc_info is not None:
            fields["exc_info"] = record.exc_info
        if record.stack_info is not None:
            fields["stack"] = record.stack_info
        level = record.levelno if isinstance(record.levelno, int) else logging.INFO
        label = LABELS.get(level) or str(record.levelname)
        stop: BaseException | None = None
        try:
            message = _message(record)
            if record.args or type(message) is not str or is_suspect(message):
                message = self._pipeline.clean(message)
        except BaseException as error:  # noqa: BLE001 - what an argument raises when it is read; see is_swallowed
            message = unformatted(record.msg, error, self._pipeline.clean)
            stop = None if is_swallowed(error) else error
        origin = (
            record.created,
            label,
            record.name,
            record.pathname,
            record.funcName or "<unknown>",
            record.lineno,
        )
        self._pipeline.run(origin, level, message, fields)
        if stop is not None:
            raise stop


@dataclass(slots=True)
class Adoption:
    """What was changed in the standard library's loggers, so that it can be put back."""

    handler: PipelineHandler
    removed: list[tuple[logging.Logger, logging.Handler]] = field(default_factory=list)
    opened: list[logging.Logger] = field(default_factory=list)
    levels: dict[str, int] = field(default_factory=dict)

    def undo(self) -> None:
        """Put handlers, propagation and levels back."""
        logging.getLogger().removeHandler(self.handler)
        for logger, handler in self.removed:
            logger.addHandler(handler)
        for logger in self.opened:
            logger.propagate = False
        for name, level in self.levels.items():
            logging.getLogger(name).setLevel(level)
        self.removed.clear()
        self.opened.clear()
        self.levels.clear()


def adopt(adoption: Adoption, rules: LevelRules) -> None:
    """Send the records of all loggers into the pipeline; call it again to catch loggers configured since.

    The handler goes to the root logger. Handlers that write to the console (plain StreamHandlers on stdout or
    stderr, as uvicorn and `logging.basicConfig` install) are taken off, since their lines would appear twice,
    and a logger that lost its own is opened towards the root. Handlers to files or services stay.
    """
    root = logging.getLogger()
    if adoption.handler not in root.handlers:
        root.addHandler(adoption.handler)
    for logger in _loggers():
        on_console = [handler for handler in logger.handlers if _writes_to_console(handler)]
        for handler in on_console:
            logger.removeHandler(handler)
            adoption.removed.append((logger, handler))
        if on_console and logger is not root and not logger.propagate:
            logger.propagate = True
            adoption.opened.append(logger)
    for name in adoption.levels.keys() - rules.rules.keys() - {""}:  # a rule that is no more
        logging.getLogger(name).setLevel(adoption.levels.pop(name))
    for name, level in {"": rules.default, **rules.rules}.items():
        logger = logging.getLogger(name)
        adoption.levels.setdefault(name, logger.level)
        logger.setLevel(level)


def _loggers() -> Iterator[logging.Logger]:
    yield logging.getLogger()
    for logger in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):  # else a placeholder for a name in between
            yield logger


def _writes_to_console(handler: logging.Handler) -> bool:
    console = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return type(handler) is logging.StreamHandler and any(handler.stream is stream for stream in console)


def _message(record: logging.LogRecord) -> str:
    """The record's text with its arguments; a mapping's are masked by their keys."""
    if isinstance(record.args, Mapping) and type(record) is logging.LogRecord:
        return interpolate(record.msg, (record.args,))
    return record.getMessage()
