"""Exceptions as data: what is kept of a failure, and how it is written."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import anyio
import msgspec

from aioinfra.jobs.job import ErrorRecord, Failed, Outcome
from aioinfra.redact import DEFAULT_REDACTOR, name_of

_MESSAGE_LIMIT = 8_192
_NAME_LIMIT = 512
_FRAME_LIMIT = 64
_MACHINERY = tuple(f"{Path(file).parent}/" for file in (__file__, anyio.__file__, asyncio.__file__))
"""Where the frames lie that lead from the engine to the user's code."""


ABORTED = "aioinfra.errors.JobAborted"
"""The type under which an aborted job's result stands."""


class CarriedError(Exception):
    """An error of another process, which left its record alone.

    Args:
        record: what is kept of it.
    """

    def __init__(self, record: ErrorRecord) -> None:
        super().__init__(f"{record.type}: {record.message}")
        self.record = record


def printable(text: str) -> str:
    """Text that any encoder and any log takes: bytes that were not UTF-8 appear as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def error_record(error: BaseException) -> ErrorRecord:
    """An exception as data: bounded and without secrets. Never raises, whatever the exception's class overrides.

    The frames begin at the user's code. An error that was raised on its behalf, such as the hard limit's, shows
    the frames of its cause.
    """
    if type(error) is CarriedError:  # not isinstance: it asks the error, whose answers may raise
        return error.record
    frames = _frames(_traceback_of(error))
    if not frames:
        cause = _cause_of(error)
        frames = () if cause is None else _frames(_traceback_of(cause))
    return ErrorRecord(_type_name(type(error)), message_of(error)[:_MESSAGE_LIMIT], frames)


def message_of(error: BaseException) -> str:
    """The exception's text, bounded and without secrets. Never raises."""
    try:
        # A subclass of str may override what is done to it below.
        text = str.__str__(str(error))
    except BaseException as broken:  # noqa: BLE001 - a user's __str__ may raise anything, a GeneratorExit included
        return f"<its text raised {_type_name(type(broken))}>"
    return printable(DEFAULT_REDACTOR.text(text))


# The slots of BaseException itself: a subclass may hide them behind properties that raise.
_traceback_of: Final[Callable[[BaseException], TracebackType | None]] = vars(BaseException)[
    "__traceback__"
].__get__
_cause_of: Final[Callable[[BaseException], BaseException | None]] = vars(BaseException)["__cause__"].__get__


def _type_name(kind: type[BaseException]) -> str:
    try:
        name, module = str.__str__(kind.__qualname__), str.__str__(kind.__module__)
    except Exception:  # noqa: BLE001 - a metaclass may answer anything, and __module__ need be no text
        name, module = name_of(kind), "builtins"
    return printable((name if module == "builtins" else f"{module}.{name}")[:_NAME_LIMIT])


def _frames(step: TracebackType | None) -> tuple[tuple[str, int, str], ...]:
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_MACHINERY):
        step = step.tb_next
    last: deque[TracebackType] = deque(maxlen=_FRAME_LIMIT)
    while step is not None:
        last.append(step)
        step = step.tb_next
    return tuple(
        (_short(step.tb_frame.f_code.co_filename), step.tb_lineno, _short(step.tb_frame.f_code.co_name))
        for step in last
    )


def _short(text: str) -> str:
    return printable(text[-_NAME_LIMIT:])


def error_of(outcome: Outcome) -> ErrorRecord:
    """The error record that stands for an outcome which is not a success."""
    if isinstance(outcome, Failed):
        return error_record(outcome.error)
    return ErrorRecord(ABORTED, "the job was aborted")


def record_of(value: Any) -> Any:
    """An error record from what a result holds; a foreign worker's value comes back as it is."""
    if not isinstance(value, dict):
        return value
    try:
        return msgspec.convert(value, ErrorRecord)
    except msgspec.ValidationError:
        return value
