"""The atomic verbs on a Redis or Valkey server."""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import sha1
from typing import Any, Final

from aioinfra.cache.atomic import NO_COUNTER, Currency
from aioinfra.cache.script_lane import ScriptLane
from aioinfra.cache.ttl import milliseconds
from aioinfra.codec.layout import GENERATION_AT, SIZE, TIMES_AT, read_tags
from aioinfra.connection.translate import ReplyError
from aioinfra.errors import CounterOverflow, DecodeError, StoreUnavailable, WrongType

_MOST_DOUBTS: Final = 8


def server_clock() -> int:
    """The scripts' ``now`` when the server's own clock is to be used."""
    return 0


class RedisAtomic:
    """An `AtomicStore` by scripts on one server.

    Args:
        lane: runs the scripts; owned by this, and shared with the locks.
        currency: knows which values count.
        now_ms: tells the scripts the time, unix milliseconds; the server's own clock unless a virtual one rules.
    """

    __slots__ = ("_currency", "_lane", "_now")

    def __init__(
        self, lane: ScriptLane, currency: Currency, *, now_ms: Callable[[], int] = server_clock
    ) -> None:
        self._lane = lane
        self._currency = currency
        self._now = now_ms

    async def incr(self, key: str, by: int, initial: int, ttl: float | None) -> int:
        try:
            total: int = await self._run("incr", key, by, initial, _ms(ttl))
        except ReplyError as error:
            if error.code == "NOTCOUNTER":
                raise WrongType(NO_COUNTER) from None
            if error.code == "RANGE":
                raise CounterOverflow("the counter would pass 2**53") from None
            raise
        return total

    async def read(self, key: str) -> bytes | None:
        found: bytes | None = await self._run("add", key, b"", "", 1, "")
        return found

    async def add(self, key: str, sealed: bytes, ttl: float | None) -> bool:
        return bool(await self._run("add", key, sealed, _ms(ttl), 0, "") == 1)

    async def get_or_add(
        self, key: str, sealed: bytes, ttl: float | None, unreadable: bytes | None
    ) -> bytes | None:
        # SHA-1 is what the server's Lua has; two values of one key that collide are nobody's gain.
        digest = "" if unreadable is None else sha1(unreadable, usedforsecurity=False).hexdigest()
        found = await self._run("add", key, sealed, _ms(ttl), 1, digest)
        return found if isinstance(found, bytes) else None

    async def expire(self, key: str, ttl: float | None) -> bool:
        return bool(await self._run("expire", key, "set", _ms(ttl)) != -2)

    async def ttl(self, key: str) -> float | None:
        left: int = await self._run("expire", key, "read", "")
        if left < 0:
            return math.inf if left == -1 else None
        return left / 1000

    async def aclose(self) -> None:
        await self._lane.aclose()

    async def _run(self, name: str, key: str, *args: str | bytes | int) -> Any:
        """The script's own reply; what it doubts is judged and the script asked again."""
        judged, verdict = b"", 0
        for _ in range(_MOST_DOUBTS):
            generation = await self._currency.current()
            reply = await self._lane.run(name, key, self._now(), generation, judged, verdict, *args)
            if not isinstance(reply, list):
                return reply
            start: bytes = reply[0]
            found = start[GENERATION_AT:TIMES_AT]
            judged = found + start[SIZE:]
            try:
                tags = read_tags(start)
            except DecodeError:
                verdict = 0  # junk is no value, as for `get`
                continue
            verdict = int(await self._currency.is_current(found, tags))
        raise StoreUnavailable("the value keeps being replaced by others of other generations", sent=False)


def _ms(ttl: float | None) -> int | str:
    return "" if ttl is None else milliseconds(ttl)
