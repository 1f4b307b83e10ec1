"""The dictionaries of one cache on its server: reading, writing, renewing, listing. Round trips and no state.

What the server gives is checked, whatever it is: size, form, and that its id fits its bytes. The keys are described
in `cache.dictionaries`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aioinfra.cache.names import Names
from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.codec.bounds import check_number
from aioinfra.codec.dictionaries import MOST_LIFE, MOST_SIZE, Dictionary
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import AioinfraError, DecodeError, WrongType

_MOST_VERSIONS: Final = 100
_ID_DIGITS: Final = 10

Command = Sequence[str | bytes | int | float]


@dataclass(frozen=True, slots=True)
class DictionaryVersion:
    """One dictionary on the server.

    Attributes:
        published: seconds since the epoch.
        size: bytes.
        expires_in: seconds, unless it is renewed.
        current: whether values are sealed with it.
    """

    id: int
    published: float
    size: int
    expires_in: float
    current: bool


class DictionaryStore:
    """See the module. The client stays its owner's.

    Args:
        client: the cache's server.
        names: of the cache's keys.
        budget: seconds that one round trip may take.
        keep: seconds that a dictionary lives from its last renewal; more than `MOST_LIFE`.
    """

    __slots__ = ("_budget", "_client", "_clock", "_keep", "_prefix", "refused")

    def __init__(
        self,
        client: RedisClient,
        names: Names,
        *,
        budget: float = 1.0,
        keep: float = 90 * 86_400.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_number("budget", budget, 0.001, 3600)
        check_number("keep", keep, MOST_LIFE + 86_400, 3650 * 86_400)
        self._client = client
        self._prefix = names.dictionary
        self._budget = budget
        self._keep = int(keep * 1000)
        self._clock = clock
        self.refused = 0
        """Contents that were no intact dictionary of their id."""

    @property
    def current_key(self) -> str:
        """Where the current one is."""
        return f"{self._prefix}-current"

    # Reading. All verbs raise StoreError.

    async def read(self, dictionary_id: int) -> Dictionary | None:
        """The dictionary of an id; None when there is none, or no intact one. One round trip."""
        content = await self._content(self._key(dictionary_id))
        found = self._checked(content)
        if found is not None and found.id != dictionary_id:
            self.refused += 1
            return None
        return found

    async def read_current(self, ours: Dictionary | None) -> tuple[bool, Dictionary | None]:
        """Whether anything is there, and the current dictionary. One round trip.

        Args:
            ours: not checked again when it is the one.
        """
        content = await self._content(self.current_key)
        if ours is not None and content == ours.content:
            return True, ours
        return content != b"", self._checked(content)

    async def versions(self) -> list[DictionaryVersion]:
        """The dictionaries on the server, newest first, a hundred at most. Two round trips."""
        start, listed = await self._call(
            [
                ("GETRANGE", self.current_key, 0, 7),
                ("ZREVRANGE", f"{self._prefix}-versions", 0, _MOST_VERSIONS - 1, "WITHSCORES"),
            ]
        )
        current = int.from_bytes(start[4:8], "little")
        pairs = [
            (int(name), float(score))
            for name, score in zip(listed[::2], listed[1::2], strict=True)
            if name.isdigit() and len(name) <= _ID_DIGITS
        ]
        asked = [(verb, self._key(one)) for one, _ in pairs for verb in ("STRLEN", "PTTL")]
        replies = iter(await self._call(asked))
        return [
            DictionaryVersion(one, at, size, max(life, 0) / 1000, one == current)
            for (one, at), size, life in zip(pairs, replies, replies, strict=True)
            if size
        ]

    # Writing

    async def put(self, dictionary: Dictionary) -> None:
        """Keep a dictionary, whether it is the current one or not. One round trip."""
        key, versions = self._key(dictionary.id), f"{self._prefix}-versions"
        await self._call(
            [
                ("SET", key, dictionary.content, "PX", self._keep),
                ("ZADD", versions, "NX", f"{self._clock.time():.3f}", dictionary.id),
                ("ZREMRANGEBYRANK", versions, 0, -_MOST_VERSIONS - 1),
            ]
        )

    async def publish(self, dictionary: Dictionary, *, unless_any: bool = False) -> None:
        """Make it the current one; with ``unless_any`` only where there is none. Two round trips.

        It is kept, and that acknowledged, before any process can seal with it.
        """
        await self.put(dictionary)
        await self._call([("SET", self.current_key, dictionary.content, *(("NX",) if unless_any else ()))])

    async def renew(self, dictionaries: Sequence[Dictionary]) -> None:
        """Let them live on, and put back those that are gone. One round trip, and one for each of these."""
        found = await self._call([("PEXPIRE", self._key(one.id), self._keep) for one in dictionaries])
        for one, there in zip(dictionaries, found, strict=True):
            if not there:
                await self.put(one)

    # Parts

    def _key(self, dictionary_id: int) -> str:
        return f"{self._prefix}:{dictionary_id}"

    async def _content(self, key: str) -> bytes:
        """At most one byte more than a dictionary may have; nothing where there is no key."""
        try:
            (content,) = await self._call([("GETRANGE", key, 0, MOST_SIZE)])
        except WrongType:
            self.refused += 1
            return b""
        return bytes(content)

    def _checked(self, content: bytes) -> Dictionary | None:
        try:
            return Dictionary(content) if content else None
        except DecodeError:
            self.refused += 1
            return None

    async def _call(self, commands: Sequence[Command]) -> list[Any]:
        """One round trip; the first error among the replies is raised."""
        replies = await self._client.pipeline(commands, deadline=self._budget)
        for reply in replies:
            if isinstance(reply, AioinfraError):
                raise reply
        return replies
