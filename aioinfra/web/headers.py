"""What is taken from a request's headers: ids that may stand in a log line, or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aioinfra import context
from aioinfra.tracing.spans import TRACESTATE

REQUEST_ID_HEADER: Final = b"x-request-id"

_CORRELATION_ID: Final = b"x-correlation-id"
_TRACEPARENT: Final = b"traceparent"
_TRACESTATE: Final = b"tracestate"
_LONGEST: Final = {REQUEST_ID_HEADER: 128, _CORRELATION_ID: 128, _TRACEPARENT: 256, _TRACESTATE: 512}


def accepted(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """``request_id``, ``traceparent`` and ``tracestate``, as far as they are sound: strict alphabet, bounded, once.

    One that is not leaves no trace; a header that is given twice is not sound.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _LONGEST:
            found[name] = b"" if name in found else value
    return _read(found) if found else {}


def _read(found: dict[bytes, bytes]) -> dict[str, str]:
    texts = {
        name: value.decode("latin-1") for name, value in found.items() if 0 < len(value) <= _LONGEST[name]
    }
    taken = {}
    for name in (REQUEST_ID_HEADER, _CORRELATION_ID):
        text = texts.get(name)
        if text is not None and context.is_valid_id(text):
            taken[context.REQUEST_ID] = text
            break
    parent = context.parse_traceparent(texts.get(_TRACEPARENT))
    if parent is not None:
        taken[context.TRACEPARENT] = parent
        if _TRACESTATE in texts:
            taken[TRACESTATE] = texts[_TRACESTATE]
    return taken
