"""What a `FaultProxy` can do to the bytes that pass it: seven toxics.

    Latency(delay, jitter)           bytes arrive late; what follows closely is late by as much, not by more
    Bandwidth(rate)                  at most so many bytes a second
    Slicer(size, variation, delay)   bytes arrive in small pieces, with pauses between them
    LimitData(limit)                 the connection is closed after so many bytes
    Timeout(after)                   bytes are swallowed; the connection is closed after a while, or never
    ResetPeer(after)                 bytes are swallowed; the connection is reset (RST) after a while
    SlowClose(delay)                 the end of a stream arrives late

They act in the order of this list, whatever the order they were added in. Definitions after Toxiproxy,
https://github.com/Shopify/toxiproxy#toxics. A toxic is a value; a `Stage` is that toxic at work on one
direction of one connection, and holds what it must remember there. To write one's own: subclass `Toxic`.

Times are real seconds of the event loop: sockets know no other clock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from aioinfra.codec.bounds import check_number, check_whole

_MOST_SECONDS: Final = 86_400.0
_MOST_BYTES: Final = 1 << 50
_PIECES_A_SECOND: Final = 20  # into which a Bandwidth cuts what a second may carry

Forward = Callable[[bytes, float], Awaitable[None]]
"""Hands bytes, with the loop time at which they came, to what follows."""


class Stage:
    """One toxic at work on one direction of one connection.

    Attributes:
        toxic: what it does.
        draw: its own source of chance: the same seed, toxic and connection number give the same draws.
        passed: bytes that it let through, for toxics that count.
        swallowed: bytes that it dropped.
        busy_until: loop time until which the line is taken.
        ended: whether the toxic was removed, or the connection is gone.
    """

    __slots__ = (
        "_close",
        "_loop",
        "_timer",
        "_waiter",
        "busy_until",
        "draw",
        "ended",
        "passed",
        "swallowed",
        "toxic",
    )

    def __init__(self, toxic: Toxic, draw: random.Random, close: Callable[[bool], None]) -> None:
        self.toxic = toxic
        self.draw = draw
        self.passed = 0
        self.swallowed = 0
        self.busy_until = 0.0
        self.ended = False
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        toxic.begin(self)

    def now(self) -> float:
        """The loop's time."""
        return self._loop.time()

    async def pause(self, seconds: float) -> None:
        """Return after ``seconds``, or at once when the toxic is removed."""
        if seconds <= 0 or self.ended:
            return
        self._waiter = waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, _settle, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def close(self, *, reset: bool = False) -> None:
        """Close the connection, with an RST if ``reset``."""
        self._close(reset)

    def close_after(self, seconds: float, *, reset: bool = False) -> None:
        """As `close`, after ``seconds``, unless the toxic is removed before."""
        self._timer = self._loop.call_later(seconds, self._close, reset)

    def end(self) -> None:
        """The toxic does no more here: its pauses end, its timer does not fire."""
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._waiter is not None:
            _settle(self._waiter)


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class Toxic:
    """Base of all toxics: does nothing. Override what yours does."""

    order: ClassVar[int] = 0

    def begin(self, stage: Stage) -> None:
        """It starts to act on a connection."""

    async def carry(self, stage: Stage, data: bytes, came: float, forward: Forward) -> None:  # noqa: ARG002 - for subclasses
        """Bytes pass: hand them on, change, delay or drop them."""
        await forward(data, came)

    async def at_end(self, stage: Stage) -> None:
        """The stream ends; its end is passed on when this returns."""

    def removed(self, stage: Stage) -> None:
        """The toxic was taken away while the connection lives."""


@dataclass(frozen=True, slots=True)
class Latency(Toxic):
    """Every byte arrives ``delay`` seconds late, give or take ``jitter``; order is kept."""

    delay: float
    jitter: float = 0.0
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_number("delay", self.delay, 0, _MOST_SECONDS)
        check_number("jitter", self.jitter, 0, _MOST_SECONDS)

    async def carry(self, stage: Stage, data: bytes, came: float, forward: Forward) -> None:
        # Counted from when the bytes came: those that waited behind others have served a part of their time.
        due = came + self.delay + stage.draw.uniform(-self.jitter, self.jitter)
        await stage.pause(due - stage.now())
        await forward(data, stage.now())


@dataclass(frozen=True, slots=True)
class Bandwidth(Toxic):
    """At most ``rate`` bytes a second."""

    rate: int
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_whole("rate", self.rate, 1, _MOST_BYTES)

    async def carry(self, stage: Stage, data: bytes, came: float, forward: Forward) -> None:
        size = max(1, self.rate // _PIECES_A_SECOND)
        for piece in _pieces(data, size):
            # A schedule instead of one sleep after another: a timer that is late does not slow the line.
            stage.busy_until = max(stage.busy_until, came) + len(piece) / self.rate
            await stage.pause(stage.busy_until - stage.now())
            await forward(piece, stage.now())


@dataclass(frozen=True, slots=True)
class Slicer(Toxic):
    """Bytes arrive in pieces of ``size``, give or take ``variation``, ``delay`` seconds apart."""

    size: int
    variation: int = 0
    delay: float = 0.0
    order: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_whole("size", self.size, 1, _MOST_BYTES)
        check_whole("variation", self.variation, 0, self.size)
        check_number("delay", self.delay, 0, _MOST_SECONDS)

    async def carry(self, stage: Stage, data: bytes, came: float, forward: Forward) -> None:
        at = 0
        while at < len(data):
            size = max(1, stage.draw.randint(self.size - self.variation, self.size + self.variation))
            await forward(data[at : at + size], came)
            at += size
            await stage.pause(self.delay)


@dataclass(frozen=True, slots=True)
class LimitData(Toxic):
    """The connection is closed once ``limit`` bytes have passed in this direction."""

    limit: int
    order: ClassVar[int] = 4

    def __post_init__(self) -> None:
        check_whole("limit", self.limit, 0, _MOST_BYTES)

    async def carry(self, stage: Stage, data: bytes, came: float, forward: Forward) -> None:
        part = data[: self.limit - stage.passed]
        stage.passed += len(part)
        if part:
            await forward(part, came)
        if stage.passed >= self.limit:
            stage.close()


@dataclass(frozen=True, slots=True)
class Timeout(Toxic):
    """Bytes are swallowed, and the connection is closed ``after`` seconds (None: never).

    The time runs from the moment that the toxic meets the connection. When it is removed, a connection that
    lost bytes is closed: what follows would be taken for what is missing.
    """

    after: float | None = None
    order: ClassVar[int] = 5

    def __post_init__(self) -> None:
        if self.after is not None:
            check_number("after", self.after, 0, _MOST_SECONDS)

    def begin(self, stage: Stage) -> None:
        if self.after is not None:
            stage.close_after(self.after)

    async def carry(self, stage: Stage, data: bytes, came: float, forward: Forward) -> None:  # noqa: ARG002 - dropped here
        stage.swallowed += len(data)

    def removed(self, stage: Stage) -> None:
        if stage.swallowed:
            stage.close()


@dataclass(frozen=True, slots=True)
class ResetPeer(Toxic):
    """Bytes are swallowed, and the connection is reset ``after`` seconds: both sides get an RST, not a FIN."""

    after: float = 0.0
    order: ClassVar[int] = 6

    def __post_init__(self) -> None:
        check_number("after", self.after, 0, _MOST_SECONDS)

    def begin(self, stage: Stage) -> None:
        stage.close_after(self.after, reset=True)

    async def carry(self, stage: Stage, data: bytes, came: float, forward: Forward) -> None:  # noqa: ARG002 - dropped here
        stage.swallowed += len(data)

    def removed(self, stage: Stage) -> None:
        if stage.swallowed:
            stage.close(reset=True)


@dataclass(frozen=True, slots=True)
class SlowClose(Toxic):
    """The end of the stream is passed on ``delay`` seconds late; the other direction stays open meanwhile."""

    delay: float
    order: ClassVar[int] = 7

    def __post_init__(self) -> None:
        check_number("delay", self.delay, 0, _MOST_SECONDS)

    async def at_end(self, stage: Stage) -> None:
        await stage.pause(self.delay)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]
