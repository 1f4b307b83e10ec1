"""Checks of numbers that come from users, and of how much a payload holds."""

from __future__ import annotations

import math
import re
from typing import Final

from aioinfra.errors import InvalidArgument, PayloadTooLarge


def check_whole(argument: str, value: object, least: int, most: int) -> None:
    """Refuse what is not a whole number from ``least`` to ``most``; a bool is none.

    Raises:
        InvalidArgument: naming ``argument``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidArgument(argument, f"must be a whole number from {least} to {most}")


def check_number(argument: str, value: object, least: float, most: float) -> None:
    """Refuse what is not a finite number from ``least`` to ``most``; a bool is none.

    Raises:
        InvalidArgument: naming ``argument``.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(argument, "must be a number")
    if not least <= value <= most or value == math.inf or value == -math.inf:  # isfinite fails on large ints
        raise InvalidArgument(argument, f"must be from {least:g} to {most:g}")


MOST_VALUES: Final = 4_000_000
"""Values in one decoded payload, a dict's keys included; some 300 MB of Python objects at worst."""


def check_json_values(payload: bytes) -> None:
    """Refuse JSON that would decode to millions of objects: tens of bytes of memory for each byte.

    Commas, colons and brackets are counted, only in payloads of more than `MOST_VALUES` bytes: smaller ones cannot
    hold as many. Those inside texts count too.

    Raises:
        PayloadTooLarge: more than `MOST_VALUES`.
    """
    if len(payload) > MOST_VALUES and sum(map(payload.count, _JSON_SEPARATORS)) > MOST_VALUES:
        raise PayloadTooLarge(f"more than {MOST_VALUES} values in one payload")


def check_msgpack_values(payload: bytes) -> None:
    """As `check_json_values`, for MessagePack: values are counted by their first bytes.

    Only where the size, and the bytes that may begin a container, allow for 300 MB of objects. Values follow one
    another whatever the nesting, so they are walked without a stack: runs of those whose length is in their first
    byte by a regular expression, the others one by one; some 0.2 us a value. A payload that is not MessagePack
    passes: it fails when it is decoded.

    Raises:
        PayloadTooLarge: more than `MOST_VALUES`.
    """
    size = len(payload)
    containers = size - len(payload.translate(None, _CONTAINERS))
    if size * _MOST_BYTES_A_BYTE + containers * _CONTAINER_BYTES <= _MOST_MEMORY:
        return
    count = at = 0
    while at < size and count <= MOST_VALUES:
        width, length = _LENGTH_WIDTHS.get(payload[at]), 0
        if width is not None:
            length = int.from_bytes(payload[at + 1 : at + 1 + width % 8])
        if width is not None and length > _SHORT:
            count, at = count + 1, at + 1 + width % 8 + width // 8 + length
        elif (whole := _whole_run(payload, at)) is not None:
            count, at = count + _RUN, whole.end()
        elif (run := _part_of_run(payload, at)) is not None:
            count, at = count + len(_values(payload, at, run.end())), run.end()
        elif width is not None:
            count, at = count + _NEEDLESS, at + 1 + width % 8 + width // 8 + length
        else:
            return
    if count > MOST_VALUES:
        raise PayloadTooLarge(f"more than {MOST_VALUES} values in one payload")


_JSON_SEPARATORS: Final = (b",", b":", b"[", b"{")
_SHORT: Final = 31
_NEEDLESS: Final = 4
"""What a short value in a long form counts, which no encoder writes: each costs a step of ours."""


def _msgpack_patterns() -> tuple[bytes, bytes]:
    """Patterns of one value whose length its first byte tells, and of a run of them.

    https://github.com/msgpack/msgpack/blob/master/spec.md#formats
    """
    follow = {
        0: b"\\x00-\\x9f\\xa0\\xc0\\xc2\\xc3\\xe0-\\xff",
        1: b"\\xcc\\xd0",
        2: b"\\xcd\\xd1\\xd4\\xdc\\xde",
    }
    follow |= {
        3: b"\\xd5",
        4: b"\\xca\\xce\\xd2\\xdd\\xdf",
        5: b"\\xd6",
        8: b"\\xcb\\xcf\\xd3",
        9: b"\\xd7",
        17: b"\\xd8",
    }
    for length in range(1, 32):  # short texts
        follow[length] = follow.get(length, b"") + b"\\x%02x" % (0xA0 + length)
    value = b"|".join(b"[%b].{%d}" % (first, length) for length, first in sorted(follow.items()))
    value += b"".join(b"|\\xc4\\x%02x.{%d}" % (length, length) for length in range(_SHORT + 1))
    value += b"|\\xc7\\x0c.{13}"  # a time with nanoseconds
    return value, b"(?:%b){%%b}+" % value.replace(b"%", b"%%")


_RUN: Final = 4_096
_VALUE, _RUN_OF_VALUES = _msgpack_patterns()
_values: Final = re.compile(_VALUE, re.DOTALL).findall
_whole_run: Final = re.compile(_RUN_OF_VALUES % (b"%d" % _RUN), re.DOTALL).match
_part_of_run: Final = re.compile(_RUN_OF_VALUES % (b"1,%d" % _RUN), re.DOTALL).match
_CONTAINERS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
_MOST_MEMORY: Final = 300 << 20
_MOST_BYTES_A_BYTE: Final = 32
"""Of memory for a byte of scalars and keys at worst: distinct keys of a map, texts of one letter."""
_CONTAINER_BYTES: Final = 80
_LENGTH_WIDTHS: Final = {
    0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1 + 8, 0xC8: 2 + 8, 0xC9: 4 + 8, 0xD9: 1, 0xDA: 2, 0xDB: 4,
}  # fmt: skip
"""Bytes of the length that follows the first byte of long texts, binary data and extensions; 8 more: and a type."""
