"""What is known of a master that Sentinels watch, or a Cluster's nodes: where it is, since which failover, and when
that was last true.

A Sentinel may be behind the others: it missed a failover and still names the old master, who may be back and
take itself for one. Every failover has a higher epoch, so an answer of a lower one than is known is refused.

Protocol: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aioinfra.errors import StoreError, StoreUnavailable

Place = tuple[str, int]
"""Host and port."""

TRUST: Final = 2.5
"""Seconds for which a connection at rest is believed to lead to the master, unless a Sentinel confirms it since."""
_FORGET: Final = 30.0
"""Seconds without any confirmation after which lower epochs count: somebody has set the Sentinels up anew."""
ROLE_COMMAND: Final = ("HELLO", 2)
"""Answers with the server's role, and unlike ROLE is no dangerous command that users are commonly denied."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A Sentinel's answer: the master's place, and the epoch of the failover that brought it there."""

    place: Place
    epoch: int


class Severable(Protocol):
    """A connection that can be dropped at once, on its own loop."""

    @property
    def place(self) -> Place | None: ...

    def sever(self) -> None: ...


class Master:
    """The knowledge that all connections of one client share.

    Threads may ask and `accept`; ``connections``, ``on_vouch``, ``seek`` and `vouch` are the event loop's.

    Args:
        name: under which the Sentinels know the master.
        members: how many Sentinels there are; they are known by their index.

    Attributes:
        place: where the master is; None until a Sentinel has told.
        switches: how often it has moved since.
        vouched_at: monotonic time as of which a Sentinel last confirmed ``place``.
        connections: of redis-py, on the event loop; to be dropped when the master moves.
        on_vouch: called on the event loop when ``vouched_at`` may have advanced.
        seek: asks for that now; None while no Sentinel announces.
    """

    source = "the Sentinels"
    """Who is asked, for messages."""

    def __init__(self, name: str, members: int) -> None:
        self.name = name
        self.place: Place | None = None
        self.switches = 0
        self.vouched_at = -math.inf
        self.connections: weakref.WeakSet[Severable] = weakref.WeakSet()
        self.on_vouch: set[Callable[[], None]] = set()
        self.seek: Callable[[], None] | None = None
        self._epoch = 0
        self._order = list(range(members))
        self._lock = threading.Lock()

    def order(self) -> list[int]:
        """The Sentinels in the order to ask them: who answered last comes first."""
        return list(self._order)

    def postpone(self, member: int) -> None:
        """Ask this Sentinel last."""
        with self._lock:
            self._order.remove(member)
            self._order.append(member)

    def accept(self, member: int, found: Sighting, asked_at: float) -> None:
        """Take in the answer of a Sentinel who was asked at a monotonic time.

        Raises:
            StoreUnavailable: it is behind the others.
        """
        with self._lock:
            if found.epoch < self._epoch and asked_at - self.vouched_at < _FORGET:
                raise StoreUnavailable(f"one of {self.source} is behind the others", sent=False)
            if found.place != self.place:
                self.switches += self.place is not None
                self.place = found.place
            self._epoch = found.epoch
            self.vouched_at = max(self.vouched_at, asked_at)
            self._order.remove(member)
            self._order.insert(0, member)

    def vouch(self, at: float) -> None:
        """A Sentinel that announces every switch had announced none until this monotonic time."""
        with self._lock:
            self.vouched_at = max(self.vouched_at, at)
        for told in list(self.on_vouch):
            told()

    def question(self) -> list[tuple[str, ...]]:
        """What to ask a Sentinel; its answers are for `read`."""
        return [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name), ("SENTINEL", "MASTER", self.name)]

    def read(self, replies: Sequence[Any]) -> Sighting:
        """The answers to `question`. Without the right to ask for the epoch, all are of one.

        Raises:
            StoreError: who was asked refuses, or knows no such master.
        """
        return read_sighting(replies)


def read_sighting(replies: Sequence[Any]) -> Sighting:
    """The answers to `Master.question`. Without the right to ask for the epoch, all are of one.

    Raises:
        StoreError: the Sentinel refuses, or knows no such master.
    """
    place, fields = replies
    if isinstance(place, StoreError):
        raise place
    match place:
        case [bytes(host), bytes(port)] if port.isdigit():
            return Sighting((host.decode(errors="replace"), int(port)), _epoch(fields))
    raise StoreUnavailable("a Sentinel knows no master of this name", sent=False)


def _epoch(fields: Any) -> int:
    if not isinstance(fields, list):
        return 0
    value = dict(zip(fields[::2], fields[1::2], strict=False)).get(b"config-epoch", b"")
    return int(value) if isinstance(value, bytes) and value.isdigit() else 0


def leads(reply: Any) -> bool:
    """Whether the server that gave this answer to `ROLE_COMMAND` is a master."""
    return (
        isinstance(reply, list) and dict(zip(reply[::2], reply[1::2], strict=False)).get(b"role") == b"master"
    )
