"""How long a value is fresh, what happens when it no longer is, and when it is made anew ahead of that.

    created            fresh_until                      gone
       |------ fresh ------|-- stale-while-revalidate --|
       |          [XFetch] |------- stale-if-error -----|

Within stale-while-revalidate (RFC 5861, section 3) a reader gets the stale value at once and one load runs behind
it. Within stale-if-error (section 4) a reader waits for the load, up to the soft timeout, and gets the stale value
when it fails. A load that failed is not tried again before `Freshness.retry_after`.

Refresh ahead is XFetch (Vattani, Chierichetti, Lowenstein: "Optimal probabilistic cache stampede prevention", VLDB
2015): a reader makes the value anew when -beta * compute time * ln(random) reaches what is left of its life, so the
probability is e^(-left / (beta * compute time)).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aioinfra.cache.store import NO_EXPIRY, Ttl
from aioinfra.cache.ttl import MOST_SECONDS, check_ttl
from aioinfra.codec.bounds import check_number
from aioinfra.errors import InvalidArgument

_SURELY: Final = 20.0
"""Times beta and the compute time: with more life left than this nobody refreshes (probability 2e-9)."""


class Verdict(enum.Enum):
    """What a reader does with a value that is there."""

    FRESH = "fresh"
    AHEAD = "refresh ahead"
    """Fresh, and to be made anew behind the reader."""
    REVALIDATE = "stale while revalidate"
    IF_ERROR = "stale if error"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Freshness:
    """One policy for the values of a function.

    Attributes:
        ttl: seconds that a value is fresh; None for the cache's default, NO_EXPIRY for good.
        jitter: share of the ttl, 0 to 1, by which each value's is shortened at random, so that values made
            together do not expire together.
        stale_while_revalidate: seconds after the ttl in which the old value is answered at once while one load
            runs behind.
        stale_if_error: seconds after the ttl in which the old value is answered when the load fails or is late.
        retry_after: seconds after a failed load before a stale value is loaded again.
        soft_timeout: seconds that a reader with a stale value at hand waits for the load; None for its end.
        hard_timeout: seconds after which a load is cancelled, with LoadTimeout; None for never.
        refresh_ahead: XFetch's beta; 0 for off, 1 for its optimum, more for earlier.
        sliding: whether each read begins the ttl anew. Written to the server at most once per half ttl.
    """

    ttl: Ttl = None
    jitter: float = 0.0
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    retry_after: float = 1.0
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    refresh_ahead: float = 0.0
    sliding: bool = False

    def __post_init__(self) -> None:
        check_ttl(self.ttl, NO_EXPIRY)
        check_number("jitter", self.jitter, 0, 1)
        for name in ("stale_while_revalidate", "stale_if_error"):
            check_number(name, getattr(self, name), 0, MOST_SECONDS)
        check_number("retry_after", self.retry_after, 0, 86_400)
        check_number("refresh_ahead", self.refresh_ahead, 0, 1000)
        for name in ("soft_timeout", "hard_timeout"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0.001, 86_400)
        sliding: object = self.sliding
        if not isinstance(sliding, bool):
            raise InvalidArgument("sliding", "must be a bool")

    @property
    def extra(self) -> float:
        """Seconds that a value is kept beyond its freshness."""
        return max(self.stale_while_revalidate, self.stale_if_error)

    @property
    def is_plain(self) -> bool:
        """Whether the server's expiry is all that counts."""
        return not (self.extra or self.refresh_ahead or self.sliding)

    def lifetime(self, ttl: float | None, random: Callable[[], float]) -> float | None:
        """Seconds that one value is fresh, of a ttl in seconds."""
        return ttl if ttl is None or not self.jitter else max(0.001, ttl * (1 - self.jitter * random()))

    def judge(
        self, fresh_until: float, compute_time: float, now: float, random: Callable[[], float]
    ) -> Verdict:
        """What to do with a value; times in seconds of one clock."""
        left = fresh_until - now
        if left > 0:
            ahead = self.refresh_ahead * compute_time
            if ahead and left < _SURELY * ahead and -ahead * math.log(1.0 - random()) >= left:
                return Verdict.AHEAD
            return Verdict.FRESH
        if -left < self.stale_while_revalidate:
            return Verdict.REVALIDATE
        return Verdict.IF_ERROR if -left < self.stale_if_error else Verdict.GONE

    def quiet_until(self, fresh_until: float, compute_time: float, ttl: float | None, now: float) -> float:
        """Until when a value may be answered without asking `judge`."""
        quiet = fresh_until - _SURELY * self.refresh_ahead * compute_time
        if self.sliding and ttl is not None:
            quiet = min(quiet, max(now, fresh_until - ttl / 2))
        return quiet


PLAIN: Final = Freshness()
"""Fresh for the cache's default time, then gone."""
