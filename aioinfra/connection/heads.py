"""Heads of replies that announce more than they bring: found before the reader believes them.

The reader allocates an array by its announced length, and looks through a line from its beginning again with
every piece of it. Both make a few bytes cost seconds. What is found here are candidates only: the same bytes
may stand within a value. Whether one is a head, the reader itself tells: fed up to there it is out of data.

Protocol: RESP2 and RESP3, https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import re
from typing import Final

SMALLEST_ELEMENT: Final = 3
"""Bytes that an element takes at least: ``+``, CR, LF."""
MOST_LINE: Final = 1 << 20
"""Bytes of a reply that is a line (status, error, number)."""

# Shorter arrays are not worth a look: below 100 elements. A value costs no more than the bytes that have come; its
# head is looked at to pass over the rest of it.
_FIRST = re.compile(rb"[*~%>|]\d{3}|[$=!]\d{5}")
# A literal first: that is searched for as fast as memory is read.
_ARRAY = re.compile(rb"\n[*~%>|]\d{3}")
_ARRAY_OR_VALUE = re.compile(rb"\n(?:[*~%>|]\d{3}|[$=!]\d{4})")
_SMALL: Final = 256  # bytes of a piece up to which one search costs less than a look for each sign
_LARGE: Final = 32 << 10  # bytes of a piece from which on it pays to pass over values
_LENGTH = re.compile(rb"([*~%>|$=!])(\d{1,20})\r\n")
_TYPES: Final = frozenset(b"*~%>|$=!+-:,(#_")
_PAIRS: Final = (b"%", b"|")
_VALUES: Final = (b"$", b"=", b"!")
_NEWLINE: Final = 10


def find_suspect(data: bytes, at: int = 0) -> int:
    """Where, from ``at`` on, the next candidate begins: a long one, or one that is not complete; -1 without."""
    if at == 0 and _FIRST.match(data):
        return 0
    later = at or 1
    size = len(data)
    if size >= _LARGE:
        found = _ARRAY_OR_VALUE.search(data, later - 1)
    elif size < _SMALL or (
        data.find(b"*", later) >= 0
        or data.find(b"%", later) >= 0
        or data.find(b"~", later) >= 0
        or data.find(b">", later) >= 0
        or data.find(b"|", later) >= 0
    ):
        found = _ARRAY.search(data, later - 1)
    else:
        found = None
    if found is not None:
        return found.start() + 1
    if data[-1] != _NEWLINE:
        tail = data.rfind(b"\n") + 1
        if tail >= at and data[tail] in _TYPES:
            return tail
    return -1


class Head:
    """What one head announces.

    Attributes:
        elements: of an array, a map counting twice; 0 for a value.
        size: bytes of a value; 0 for an array.
        end: behind the head.
    """

    __slots__ = ("elements", "end", "size")

    def __init__(self, found: re.Match[bytes]) -> None:
        kind, length = found[1], int(found[2])
        self.end = found.end()
        self.size = length if kind in _VALUES else 0
        self.elements = 0 if kind in _VALUES else length * 2 if kind in _PAIRS else length


def read_head(data: bytes, at: int) -> Head | None:
    """The head at ``at``; None when it announces nothing, or is not complete."""
    found = _LENGTH.match(data, at)
    return None if found is None else Head(found)
