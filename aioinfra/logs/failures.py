"""An exception as plain data, taken on the calling thread: no locals, no source text, nothing kept alive."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final

from aioinfra.context import current
from aioinfra.redact import describe, name_of

_MAX_FRAMES: Final = 50
_MAX_LINKS: Final = 8
_CONTEXT: Final = "_aioinfra_context"


def is_swallowed(error: BaseException) -> bool:
    """Whether what came out of a value that was to be logged ends there.

    Interrupts and exits do not: a signal handler may have raised them while the value was being read.
    """
    return isinstance(error, Exception | GeneratorExit | asyncio.CancelledError)


def unformatted(event: object, error: BaseException, clean: Callable[[str], str]) -> str:
    """The message of a line whose values could not be read: what there is of it, and why. Never raises."""
    kind = type(event)
    text = clean(str.__str__(event)) if issubclass(kind, str) else f"<{name_of(kind)}>"
    return f"{text} (not formatted: {name_of(type(error))})"


def find_exception(exc_info: Any) -> BaseException | None:
    """The exception that an ``exc_info`` argument means: True, an exception, or what sys.exc_info() gave."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if len(exc_info) == 3 and isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def remember_context(error: BaseException) -> None:
    """Keep the current unit of work with an exception that leaves it, for whoever logs it outside."""
    with suppress(Exception):  # a class may refuse attributes
        setattr(error, _CONTEXT, current())


def context_of(error: BaseException) -> Mapping[str, Any] | None:
    """The values of the unit of work that the exception has left; None when nobody kept them."""
    try:
        values = vars(error).get(_CONTEXT)
    except Exception:  # noqa: BLE001 - its class may override anything
        return None
    return values if isinstance(values, Mapping) else None


def snapshot(error: BaseException, clean: Callable[[str], str]) -> dict[str, Any]:
    """`read_exception`, or the mere type of one that cannot be read: its class may override anything."""
    try:
        return read_exception(error, clean)
    except Exception as broken:  # noqa: BLE001 - as said
        message = f"<unreadable: {name_of(type(broken))}>"
        return {"type": name_of(type(error)), "message": message, "frames": []}


def read_exception(error: BaseException, clean: Callable[[str], str]) -> dict[str, Any]:
    """Type, message, frames and chain of an exception.

    Frames are ``[file, line, function]``, outermost first, at most 50 (the middle is left out). The chain
    lists what it was raised from, nearest first, and at most 8 members of a group; a cycle ends it.
    ``clean`` makes texts safe: they are written by whoever raised.
    """
    taken = _one(error, clean)
    chain = [{"relation": relation, **_one(link, clean)} for relation, link in _links(error)]
    if chain:
        taken["chain"] = chain
    return taken


def _one(error: BaseException, clean: Callable[[str], str]) -> dict[str, Any]:
    kind = type(error)
    notes = [clean(str(note)) for note in getattr(error, "__notes__", ())[:_MAX_LINKS]]
    module = "" if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}."
    return {
        "type": f"{module}{kind.__qualname__}",
        "message": clean(describe(error)),
        "frames": _frames(error.__traceback__),
        **({"notes": notes} if notes else {}),
    }


def _frames(traceback: TracebackType | None) -> list[list[str | int]]:
    found: list[list[str | int]] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        found.append([code.co_filename, traceback.tb_lineno, code.co_name])
        traceback = traceback.tb_next
    if len(found) > _MAX_FRAMES:
        half = _MAX_FRAMES // 2
        found[half:-half] = [["…", len(found) - 2 * half, "frames left out"]]
    return found


def _links(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    """What an exception was raised from, and the members of groups, breadth first, each once."""
    seen, waiting = {id(error)}, [error]
    while waiting and len(seen) <= _MAX_LINKS:
        current = waiting.pop(0)
        members = current.exceptions if isinstance(current, BaseExceptionGroup) else ()
        origin = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        relation = "cause" if current.__cause__ else "context"
        for how, link in [*(("member", member) for member in members), (relation, origin)]:
            if link is not None and id(link) not in seen and len(seen) <= _MAX_LINKS:
                seen.add(id(link))
                waiting.append(link)
                yield how, link


def stack_of(frame: FrameType | None) -> list[str]:
    """The frames from here outwards as ``file:line function``, at most 50."""
    found: list[str] = []
    while frame is not None and len(found) < _MAX_FRAMES:
        found.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return found
