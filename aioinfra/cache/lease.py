"""The right to make a value, for one process of the fleet at a time.

Leases of 2006's memcached at Facebook (Nishtala et al., NSDI 2013), kept as keys: who misses a value asks for its
lease; one gets it, the others wait until it ends, woken by its invalidation. A lease lives for some seconds and is
renewed while the value is being made, so the death of its holder frees it by itself. A delete takes it away: what
was being made is then late and is not stored.

Without the server there are no leases: each process makes its own value, as the fallback does.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

from aioinfra.cache.completed import completed
from aioinfra.cache.names import Names
from aioinfra.cache.ttl import milliseconds
from aioinfra.cache.wakes import Waiter, Wakes
from aioinfra.connection.pool import RedisClient
from aioinfra.connection.script import Script
from aioinfra.errors import StoreError, StoreFull, StoreUnavailable

ANYTHING: Final = b"*"
"""As what was seen: whatever is there is to be replaced."""
_SLACK: Final = 0.02  # seconds after the end of a lease, so that the server has ended it too


@dataclass(frozen=True, slots=True)
class Asked:
    """The answer to one who asks for a lease.

    Attributes:
        answer: "leads", "found", "held", "failed", or "none": there are no leases now.
        seconds: until a lease that is held ends, or one that failed lets others try.
        clears, seen: of one who leads: what must not have changed when the value is stored.
    """

    answer: Literal["leads", "found", "held", "failed", "none"]
    seconds: float = 0.0
    clears: bytes = b""
    seen: bytes = b""


class Lease:
    """A lease that is held. `ended` after `store`, `release` or `fail`."""

    __slots__ = ("_clears", "_leases", "_seen", "ended", "key", "lost", "token")

    def __init__(self, leases: Leases, key: str, token: str, asked: Asked) -> None:
        self._leases = leases
        self.key = key
        self.token = token
        self._clears = asked.clears
        self._seen = asked.seen
        self.ended = False
        self.lost = False

    async def store(self, data: bytes, ttl: float | None) -> bool:
        """Store the sealed value that was made, and end; False when it is late. Raises StoreError."""
        leases = self._leases
        life = 0 if ttl is None else milliseconds(ttl)
        arguments = (self.token, self._clears, self._seen, data, life)
        stored = await leases.run(_script("lease_store"), leases.keys(self.key), arguments)
        self.ended = True  # not before: who is cancelled has to release it, which makes the store late
        return bool(stored)

    async def release(self, failed_for: float = 0.0) -> None:
        """End without a value; with ``failed_for`` others are told to wait so many seconds."""
        if not self.ended:
            self.ended = True
            await self._renew(failed_for, "failed" if failed_for else "")

    async def keep(self) -> None:
        """Renew until cancelled, or until it is lost to another."""
        leases = self._leases
        while not self.lost:
            await asyncio.sleep(leases.seconds / 3)
            if not self.ended:
                await self._renew(leases.seconds, "")

    async def _renew(self, seconds: float, word: str) -> None:
        leases = self._leases
        life = milliseconds(seconds) if seconds else 0
        try:
            held = await leases.run(
                _script("lease_renew"), [leases.lease_key(self.key)], (self.token, life, word)
            )
        except StoreError:
            return  # it ends by itself; a later renewal may still come in time
        self.lost = not held


class Leases:
    """Asks for leases. One event loop.

    Args:
        budget: seconds that one call may take.
        seconds: that a lease lives without a renewal.
        open: whether the server, and not memory, answers now.
    """

    __slots__ = ("_budget", "_client", "_names", "_open", "_wakes", "seconds")

    def __init__(
        self,
        client: RedisClient,
        names: Names,
        wakes: Wakes,
        *,
        budget: float,
        seconds: float,
        is_open: Callable[[], bool],
    ) -> None:
        self._client = client
        self._names = names
        self._wakes = wakes
        self._budget = budget
        self.seconds = seconds
        self._open = is_open

    def lease_key(self, key: str) -> str:
        """Where the lease of a value is."""
        return self._names.lease + key

    def keys(self, key: str) -> list[str]:
        """What the scripts touch."""
        return [key, self.lease_key(key), self._names.clears]

    def listen(self, key: str) -> Waiter:
        """Hears of the end of a key's lease; enter it before asking."""
        return self._wakes.listen(self.lease_key(key))

    async def void_all(self) -> None:
        """What is being made anywhere is late. Raises StoreError."""
        try:
            await self._client.execute("INCR", self._names.clears, deadline=self._budget)
        except StoreFull:  # taking it away changes it as well, unless it has never been there
            await self._client.execute("UNLINK", self._names.clears, deadline=self._budget)

    async def ask(self, key: str, token: str, seen: bytes, *, patient: bool = False) -> Asked:
        """Ask for a lease. ``seen``: what of the stored value was seen and is not wanted; `ANYTHING` takes it.

        After a failure only who is ``patient`` is told of it; another one leads. Who is cancelled meanwhile ends
        when the answer has come, and leaves no lease.

        Raises:
            StoreError: the server refused; without a server, or with a full one, the answer is "none".
        """
        if not self._open():
            return Asked("none")
        force = seen == ANYTHING
        arguments = (token, milliseconds(self.seconds), seen, "1" if force else "0", "1" if patient else "0")
        try:
            answer, *rest = await self._asked(key, token, arguments)
        except (StoreUnavailable, StoreFull):
            return Asked("none")
        if answer == b"leads":
            return Asked("leads", clears=rest[0], seen=rest[1])
        if answer == b"found":
            return Asked("found")
        left = max(0, rest[0]) / 1000 + _SLACK
        return Asked("failed" if answer == b"failed" else "held", left)

    async def _asked(self, key: str, token: str, arguments: tuple[str | bytes | int, ...]) -> Any:
        asking = asyncio.ensure_future(self.run(_script("lease"), self.keys(key), arguments))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            await completed(self._give_back(key, token, asking))
            raise

    async def _give_back(self, key: str, token: str, asking: asyncio.Future[Any]) -> None:
        """Whoever asked is gone: end the lease that it may get. Not before the answer, which could be overtaken."""
        await asyncio.wait([asking])
        if not asking.cancelled() and asking.exception() is None and asking.result()[0] == b"leads":
            await Lease(self, key, token, Asked("leads")).release()

    def lease(self, key: str, token: str, asked: Asked) -> Lease:
        """The lease that was given."""
        return Lease(self, key, token, asked)

    async def run(self, script: Script, keys: list[str], arguments: tuple[str | bytes | int, ...]) -> Any:
        """Run a script within the budget."""
        return await self._client.run_script(script, keys, arguments, deadline=self._budget)


def new_token() -> str:
    """Of one who asks; stays the same when the question is repeated."""
    return secrets.token_hex(8)


@cache
def _script(name: str) -> Script:
    return Script(name, files("aioinfra.cache.scripts").joinpath(f"{name}.lua").read_text())
