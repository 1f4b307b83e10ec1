"""Checks of numbers that come from users, and of how much a payload holds."""

from __future__ import annotations

import math
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
"""Values in one decoded payload; some 300 MB of Python objects at worst."""


def check_json_values(payload: bytes) -> None:
    """Refuse JSON that would decode to millions of objects: tens of bytes of memory for each byte.

    Commas and brackets are counted, only in payloads of more than `MOST_VALUES` bytes: smaller ones cannot hold
    as many. Those inside texts count too.

    Raises:
        PayloadTooLarge: more than `MOST_VALUES`.
    """
    if len(payload) <= MOST_VALUES:
        return
    if payload.count(b",") + payload.count(b"[") + payload.count(b"{") > MOST_VALUES:
        raise PayloadTooLarge(f"more than {MOST_VALUES} values in one payload")


def check_msgpack_values(payload: bytes) -> None:
    """As `check_json_values`, for MessagePack: counts the bytes that may begin an array or a map.

    Text outside ASCII and binary data hold such bytes by chance, about one in eight.

    Raises:
        PayloadTooLarge: more than `MOST_VALUES`.
    """
    if len(payload) > MOST_VALUES and len(payload) - len(payload.translate(None, _CONTAINERS)) > MOST_VALUES:
        raise PayloadTooLarge(f"more than {MOST_VALUES} containers in one payload")


_CONTAINERS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
