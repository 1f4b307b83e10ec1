"""Checks of numbers that come from users."""

from __future__ import annotations

import math

from aioinfra.errors import InvalidArgument


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
