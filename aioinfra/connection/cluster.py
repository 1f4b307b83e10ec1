"""A Cluster, as far as one hash tag goes: connections to whichever node is the master of its slot.

Keys that hold the same ``{tag}`` lie in one slot, so all commands and scripts of one client run on one node, as on
a server of its own. To spread over several masters, use several tags.

Every new connection asks a node who serves the slot, and counts only when that one says of itself that it is a
master. A look every half second, at another node each time, finds what has moved since; an answer with a lower
configuration epoch than one that is known is refused, so a master that was cut off is not believed.

Protocol: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

from aioinfra.connection.master import Master, Place, Sighting
from aioinfra.errors import StoreError, StoreUnavailable

SLOTS: Final = 16_384
_LOOK_EVERY: Final = 0.5
"""Seconds between two looks at who serves the slot."""
_ADDRESS: Final = re.compile(rb"(?P<host>.*):(?P<port>\d+)@\d+(?:,(?P<name>[^,]*).*)?")
_AWAY: Final = frozenset({b"fail", b"handshake", b"noaddr"})


def hash_tag(key: str) -> str | None:
    """What stands in the first braces of a key, when that is something."""
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if opened and closed and tag else None


def slot_of(key: str) -> int:
    """The slot of a key: CRC16 (XMODEM) of its hash tag, or of all of it, modulo 16,384."""
    tag = hash_tag(key)
    return binascii.crc_hqx((key if tag is None else tag).encode(), 0) % SLOTS


class SlotMaster(Master):
    """What is known of the node that serves a hash tag's slot. ``members`` is the number of nodes to ask."""

    source = "the cluster's nodes"

    def __init__(self, tag: str, members: int) -> None:
        super().__init__(tag, members)
        self.slot = slot_of(f"{{{tag}}}")

    def question(self) -> list[tuple[str, ...]]:
        return [("CLUSTER", "NODES")]

    def read(self, replies: Sequence[Any]) -> Sighting:
        [table] = replies
        if isinstance(table, StoreError):
            raise table
        for line in table.splitlines() if isinstance(table, bytes) else ():
            found = self._sighting(line.split(b" "))
            if found is not None:
                return found
        raise StoreUnavailable("nobody serves the slot", sent=False)

    def _sighting(self, fields: list[bytes]) -> Sighting | None:
        """``id ip:port@bus[,name] flags master ping pong epoch link slots...``; None if it serves another slot."""
        match fields:
            case [_, address, flags, _, _, _, epoch, _, *slots] if epoch.isdigit():
                marks = flags.split(b",")
                if b"master" not in marks or not _AWAY.isdisjoint(marks):
                    return None
                if not any(_covers(text, self.slot) for text in slots):
                    return None
                place = _place(address)
                return None if place is None else Sighting(place, int(epoch))
        return None


def _covers(text: bytes, slot: int) -> bool:
    """Whether ``first-last`` or ``slot`` holds a slot; ``[slot->-node]`` says that one is being moved."""
    first, _, last = text.partition(b"-")
    if not first.isdigit() or not (last or first).isdigit():
        return False
    return int(first) <= slot <= int(last or first)


def _place(address: bytes) -> Place | None:
    """A node's place: its address, or its announced name when it has no address."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return None
    host = (match["host"] or match["name"] or b"").decode(errors="replace")
    return (host, int(match["port"])) if host else None


class Asking(Protocol):
    """What the watch needs of a `MasterOpener`."""

    async def ask(self, member: int) -> Place: ...


class SlotWatch:
    """Looks again and again who serves the slot. Whoever starts `run` as a task ends it by cancelling.

    Args:
        opener: asks a node; drops the connections to elsewhere.
        master: what is known.
    """

    def __init__(self, opener: Asking, master: Master) -> None:
        self._opener = opener
        self._master = master
        self._sought = asyncio.Event()

    async def run(self) -> None:
        """Keep watch until cancelled."""
        master = self._master
        master.seek = self._sought.set
        try:
            while True:
                try:
                    async with asyncio.timeout(_LOOK_EVERY):
                        await self._sought.wait()
                except TimeoutError:
                    pass
                self._sought.clear()
                master.postpone(master.order()[0])
                try:
                    await self._opener.ask(master.order()[0])
                except StoreError:
                    continue
                master.vouch(master.vouched_at)
        finally:
            master.seek = None
