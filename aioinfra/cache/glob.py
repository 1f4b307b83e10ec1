"""Redis' glob patterns: how to write a literal into one, and the same matching in this process.

The rules are those of ``stringmatchlen`` in Redis (documented under KEYS): ``*`` any bytes, ``?`` one byte,
``[a-c]``, ``[^a]`` one byte of a set, ``\\x`` the byte x itself. Matching is by bytes of UTF-8, as on the
server. Ranges with an end beyond ASCII follow the platform there, and byte order here.
"""

from __future__ import annotations

import re
from typing import Final

from aioinfra.errors import InvalidArgument

_SPECIAL: Final = re.compile(r"([*?\[\]\\^-])")
_UNNAMED: Final = re.compile(r"[*?]|\[\^(?:\\.|[^\]\\])*\\?(?:\]|$)", re.DOTALL)
"""What of a pattern names nothing: wildcards, and sets by what they leave out."""


def escape(literal: str) -> str:
    """``literal`` as a pattern that matches it alone: put user data into patterns through this.

    ``cache.clear(f"user:{escape(name)}:*")``
    """
    return _SPECIAL.sub(r"\\\1", literal)


def check_pattern(pattern: object, *, everything: bool) -> str:
    """The pattern of a clear, within the namespace.

    Raises:
        InvalidArgument: not text, empty, or without a single literal character, so that it may match every key
            (``*``, ``?*``, ``[^x]*``), although ``everything`` was not said.
    """
    if pattern is None and everything:
        return "*"
    if not isinstance(pattern, str) or not pattern:
        raise InvalidArgument("pattern", "must be a glob such as 'user:*'; to remove every key say all=True")
    if not everything and not _UNNAMED.sub("", pattern):
        raise InvalidArgument("pattern", "names no key and may match all: say all=True if you mean it")
    try:
        pattern.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("pattern", "holds a lone surrogate, which has no UTF-8") from None
    return pattern


def compile_glob(pattern: str) -> re.Pattern[bytes]:
    """A regular expression for ``fullmatch`` on UTF-8 keys.

    Each ``*`` is made atomic together with what follows it up to the next one. The leftmost match of a
    segment is as good as any later one, so nothing is lost, and matching takes O(key x pattern) at most.
    """
    segments: list[list[bytes]] = [[]]
    data = pattern.encode("utf-8", "surrogatepass")
    at = 0
    while at < len(data):
        byte = data[at : at + 1]
        if byte == b"*":
            segments.append([])
            at += 1
        elif byte == b"[":
            piece, at = _set(data, at + 1)
            segments[-1].append(piece)
        elif byte == b"?":
            segments[-1].append(b".")
            at += 1
        else:
            at += 1 if byte == b"\\" and at + 1 < len(data) else 0
            segments[-1].append(re.escape(data[at : at + 1]))
            at += 1
    first, *rest = [b"".join(segment) for segment in segments]
    if not rest:
        return re.compile(first, re.DOTALL)
    *middle, last = rest
    inner = b"".join(b"(?>.*?" + segment + b")" for segment in middle if segment)
    return re.compile(first + inner + b".*" + last, re.DOTALL)


def _set(data: bytes, at: int) -> tuple[bytes, int]:
    """The set that starts after its bracket, and where it ends. An unclosed one ends with the pattern."""
    negated = data[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < len(data) and data[at : at + 1] != b"]":
        if data[at : at + 1] == b"\\" and at + 1 < len(data):
            at += 1
            members.add(data[at])
            at += 1
        elif data[at + 1 : at + 2] == b"-" and at + 2 < len(data):
            low, high = sorted((data[at], data[at + 2]))
            members.update(range(low, high + 1))
            at += 3
        else:
            members.add(data[at])
            at += 1
    if negated:
        members = set(range(256)) - members
    if not members:
        return b"(?!)", at + 1  # matches nothing
    return b"[" + b"".join(b"\\x%02x" % member for member in sorted(members)) + b"]", at + 1
