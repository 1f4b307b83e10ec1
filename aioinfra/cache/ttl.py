"""What a time to live may be."""

from __future__ import annotations

import math
from typing import Final

from aioinfra.cache.store import NO_EXPIRY, Lifetime, Ttl
from aioinfra.errors import InvalidArgument

MOST_SECONDS: Final = 2**53  # beyond it seconds are no longer exact, and the server's milliseconds overflow


def check_ttl(ttl: Ttl, default: Lifetime, argument: str = "ttl") -> float | None:
    """Seconds to live, None for no expiry.

    ``ttl=None`` means ``default``. 0 is refused instead of guessed at: to store nothing, do not call; for no
    expiry, say `NO_EXPIRY`.

    Raises:
        InvalidArgument: a bool, not a number, not finite, not above 0, or more than 2**53.
    """
    if ttl is None:
        ttl = default
    if ttl is NO_EXPIRY:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise InvalidArgument(argument, "must be a number of seconds, None for the default, or NO_EXPIRY")
    if not 0 < ttl <= MOST_SECONDS:  # also refuses NaN
        raise InvalidArgument(argument, "must be above 0 and at most 2**53 seconds")
    return float(ttl)


def milliseconds(ttl: float) -> int:
    """For the server's PX: whole, and never 0. What times since the epoch lose as binary64 adds no millisecond."""
    return max(1, math.ceil(round(ttl * 1000, 2)))
