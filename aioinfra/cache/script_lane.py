"""Scripts of the cache, many calls a round trip.

All that gathers while the previous batch is in flight leaves as one pipeline of EVALSHA. A server that does not
know a script gets its source once, in a second round trip with the calls that it refused: those have not run.
No call is sent twice for any other reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from aioinfra.cache.lane import Command, Lane
from aioinfra.connection.batch import BatchLimits
from aioinfra.connection.pool import RedisClient
from aioinfra.connection.script import Script
from aioinfra.connection.translate import ReplyError
from aioinfra.errors import StoreError

_ON_VALUES: Final = frozenset({"incr", "add", "expire"})


@cache
def script(name: str) -> Script:
    """A script of the cache by name, read once per process."""
    folder = files("aioinfra.cache").joinpath("scripts")
    source = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    if name in _ON_VALUES:
        source = folder.joinpath("value.lua").read_text(encoding="utf-8") + source
    return Script(name, source)


class ScriptCall(NamedTuple):
    """One script, the one key that it works on, and its arguments."""

    script: Script
    key: str
    args: tuple[str | bytes | int, ...]

    def by_name(self) -> Command:
        return ("EVALSHA", self.script.sha, 1, self.key, *self.args)

    def by_source(self) -> Command:
        return ("EVAL", self.script.source, 1, self.key, *self.args)

    @property
    def size(self) -> int:
        """Bytes of its arguments."""
        return len(self.key) + sum(len(part) for part in self.args if not isinstance(part, int))


class ScriptLane:
    """Runs scripts on one server, a batch at a time. One event loop.

    Args:
        client: stays its owner's to close.
        budget: seconds that the server may take for a batch.
        limits: of the batches.
    """

    __slots__ = ("_lane",)

    def __init__(self, client: RedisClient, budget: float, limits: BatchLimits) -> None:
        self._lane: Lane[ScriptCall, Any] = Lane(client, self._send, limits, budget, _size)

    async def run(self, name: str, key: str, *args: str | bytes | int) -> Any:
        """The reply of a script; one round trip, shared with whoever calls at the same time.

        Raises:
            StoreUnavailable: ``sent`` tells whether it may have run.
            StoreError: the server's answer.
            Overloaded: too many calls wait; it has not run.
        """
        return await self._lane.submit(ScriptCall(script(name), key, args))

    async def aclose(self) -> None:
        """Wait for what is under way, then refuse."""
        await self._lane.aclose()

    async def _send(self, calls: list[ScriptCall]) -> Sequence[Any]:
        replies = await self._lane.call([call.by_name() for call in calls])
        unknown = [at for at, reply in enumerate(replies) if _is_unknown(reply)]
        if unknown:
            again = await self._by_source([calls[at] for at in unknown])
            for at, reply in zip(unknown, again, strict=True):
                replies[at] = reply
        return replies

    async def _by_source(self, calls: list[ScriptCall]) -> Sequence[Any]:
        """Replies of calls that have not run; the first one of each script brings its source."""
        met: set[str] = set()
        commands = []
        for call in calls:
            commands.append(call.by_name() if call.script.sha in met else call.by_source())
            met.add(call.script.sha)
        try:
            return await self._lane.call(commands)
        except StoreError as error:  # of these alone: the others of the batch have their replies
            return [error] * len(calls)


def _is_unknown(reply: object) -> bool:
    return isinstance(reply, ReplyError) and reply.code == "NOSCRIPT"


def _size(call: ScriptCall) -> int:
    return call.size
