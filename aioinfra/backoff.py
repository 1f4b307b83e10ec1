"""Delays between attempts: exponential growth, a cap, and full jitter.

Full jitter draws each delay evenly from [0, bound]. It spreads a fleet's retries best of the variants
compared in M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass

from aioinfra.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often and how late to try again.

    Attributes:
        tries: attempts in all, the first included; at least 1.
        base: bound of the first delay, seconds.
        factor: growth of the bound from one attempt to the next.
        cap: largest bound, seconds.
        jitter: True draws from [0, bound], False waits the bound itself.
    """

    tries: int = 5
    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0
    jitter: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.tries, bool) or not isinstance(self.tries, int) or self.tries < 1:
            raise InvalidArgument("tries", "must be a whole number of at least 1")
        for name, least in (("base", 0.0), ("factor", 1.0), ("cap", 0.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidArgument(name, "must be a number")
            if not least <= value <= sys.float_info.max:  # isfinite fails on large ints
                raise InvalidArgument(name, f"must be finite and at least {least:g}")

    def bound(self, attempt: int) -> float:
        """Largest delay in seconds after the given failed attempt (1 is the first)."""
        try:
            return min(self.cap, self.base * float(self.factor) ** (attempt - 1))
        except OverflowError:
            return self.cap

    def delay(self, attempt: int, *, draw: Callable[[], float] = random.random) -> float:
        """Delay in seconds after the given failed attempt; ``draw`` gives a number in [0, 1)."""
        bound = self.bound(attempt)
        return bound * draw() if self.jitter else bound


RECONNECT = Backoff(tries=1_000_000_000, base=0.05, factor=2.0, cap=1.0)
"""For loops that wait for a server to come back: the first tries are quick, the cap keeps recovery within 1 s."""
