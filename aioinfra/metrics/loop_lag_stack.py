"""Where a thread is: its innermost frames as file, line and function. No local values: they may be secrets."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType, FrameType
from typing import Final

THE_LOOP: Final = "the event loop"
"""Culprit when no callback was running: the process got no CPU, or there are too many short callbacks."""
UNKNOWN: Final = "unknown"
"""Culprit when the block was over before anybody could look."""

_DEEPEST: Final = 1_000
_INSTALLED: Final = tuple(
    {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
)


@dataclass(frozen=True, slots=True)
class Stack:
    """What a thread was doing.

    Attributes:
        culprit: module and function that the application answers for: of the innermost frame that is neither in
            the standard library nor installed; the innermost one if all are; or `THE_LOOP` or `UNKNOWN`.
        frames: ``file:line function``, innermost first.
    """

    culprit: str
    frames: tuple[str, ...] = ()


def stack_of(thread: int, caller: CodeType, limit: int) -> Stack:
    """What an event loop's thread is doing.

    Some 10 microseconds under the interpreter lock; the frames are let go before it ends, so that no local value
    outlives its function.

    Args:
        thread: its identifier, as of `threading.get_ident`.
        caller: what calls the loop's callbacks; frames from there outwards are the loop's own.
        limit: most frames in the answer.
    """
    # There is no other way to see another thread's stack without stopping it.
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, and named so as to be used with care
    found: list[FrameType] = []
    for inner in _outwards(frame):
        if inner.f_code is caller:
            break
        found.append(inner)
    else:
        found.clear()  # no callback is running
    if not found:
        return Stack(THE_LOOP)
    own = next((inner for inner in found if not _is_installed(inner)), found[0])
    return Stack(_name(own), tuple(map(_place, found[:limit])))


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(_DEEPEST):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _is_installed(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith(_standard_library()) or any(part in file for part in _INSTALLED)


@cache
def _standard_library() -> tuple[str, ...]:
    return "<frozen ", *(sysconfig.get_path(kind) + os.sep for kind in ("stdlib", "platstdlib"))


def _name(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
