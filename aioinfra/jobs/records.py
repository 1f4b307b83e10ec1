"""Exceptions as data: what is kept of a failure, and how it is written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
import msgspec

from aioinfra.jobs.job import ErrorRecord, Failed, Outcome

_MESSAGE_LIMIT = 8_192
_FRAME_LIMIT = 64
_MACHINERY = tuple(f"{Path(file).parent}/" for file in (__file__, anyio.__file__, asyncio.__file__))
"""Where the frames lie that lead from the engine to the user's code."""


ABORTED = "aioinfra.errors.JobAborted"
"""The type under which an aborted job's result stands."""


def printable(text: str) -> str:
    """Text that any encoder and any log takes: bytes that were not UTF-8 appear as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def error_record(error: BaseException) -> ErrorRecord:
    """An exception as data. Never raises, also when the exception's own ``__str__`` does.

    The frames begin at the user's code. An error that was raised on its behalf, such as the hard limit's, shows
    the frames of its cause.
    """
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    frames = _frames(error.__traceback__)
    if not frames and error.__cause__ is not None:
        frames = _frames(error.__cause__.__traceback__)
    return ErrorRecord(name, printable(message_of(error)[:_MESSAGE_LIMIT]), frames)


def message_of(error: BaseException) -> str:
    """The exception's text. Never raises."""
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - the exception is a user's; its __str__ may raise anything
        return f"<its text raised {type(broken).__name__}>"


def _frames(step: TracebackType | None) -> tuple[tuple[str, int, str], ...]:
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_MACHINERY):
        step = step.tb_next
    frames = []
    while step is not None:
        code = step.tb_frame.f_code
        frames.append((printable(code.co_filename), step.tb_lineno, printable(code.co_name)))
        step = step.tb_next
    return tuple(frames[-_FRAME_LIMIT:])


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
