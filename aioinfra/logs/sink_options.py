"""The bounds of a sink, and its counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aioinfra.errors import InvalidArgument

_LONGEST: Final = 3_600  # seconds that an option may ask for


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """Bounds of a sink.

    Raises InvalidArgument for what is no bound; names it.

    Attributes:
        capacity: bytes that may wait, 64 more than its text counted for each line.
        reserve: of these, bytes that only lines of ERROR and above may use.
        batch: bytes handed to one write.
        interval: seconds that a line waits for others to share its write.
        exit_timeout: seconds that the last lines get when the process ends.
    """

    capacity: int = 8 << 20
    reserve: int = 1 << 20
    batch: int = 64 << 10
    interval: float = 0.02
    exit_timeout: float = 5.0

    def __post_init__(self) -> None:
        for name, least in (("capacity", 1), ("reserve", 0), ("batch", 1)):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise InvalidArgument(name, f"must be a whole number of at least {least} bytes")
        if self.reserve > self.capacity:
            raise InvalidArgument("reserve", "must not be more than capacity")
        for name in ("interval", "exit_timeout"):
            seconds = getattr(self, name)
            if (
                isinstance(seconds, bool)
                or not isinstance(seconds, int | float)
                or not 0 <= seconds <= _LONGEST
            ):
                raise InvalidArgument(name, f"must be 0 to {_LONGEST:,} seconds")


@dataclass(frozen=True, slots=True)
class SinkFigures:
    """Lines since the start (or the fork): written + dropped + waiting = given to `Sink.put`."""

    written: int
    dropped: int
    waiting: int
    waiting_bytes: int
    write_errors: int
