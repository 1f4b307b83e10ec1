"""Where `cache.explain` asks: L1, the server, the memory of this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from aioinfra.cache.backend import Backend
from aioinfra.cache.explanation import Explanation, L1State
from aioinfra.cache.freshness import PLAIN, Freshness
from aioinfra.cache.kind import Kind
from aioinfra.cache.local import LocalCache
from aioinfra.cache.names import Names
from aioinfra.cache.near import Near
from aioinfra.cache.read_through import ReadThrough
from aioinfra.codec.envelope import Envelope
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import StoreError


@dataclass(frozen=True, slots=True)
class Subject:
    """What knows something of a key.

    Attributes:
        client: the server; None in memory mode, and while memory answers for it.
        budget: seconds that the server may take for each of two round trips.
        now: seconds since the epoch, by the server's clock.
        memory: of this process; None where it does not answer.
        near: L1.
        envelope: opens the value; None leaves its inside alone.
        outage: why memory answers for the server.
        loads: whether a full key is being loaded in this process.
        freshness: the policy of its readers.
    """

    names: Names
    client: RedisClient | None
    now: Callable[[], float]
    budget: float = 1.0
    memory: LocalCache[bytes] | None = None
    near: Near | None = None
    envelope: Envelope | None = None
    outage: str | None = None
    loads: Callable[[str], bool] = lambda _: False
    freshness: Freshness = PLAIN


def subject_of(backend: Backend, reads: ReadThrough, kind: Kind) -> Subject:
    """What an open cache asks; ``kind`` is that of its own values."""
    fallback = backend.fallback
    outage = fallback.outage if fallback is not None else None
    replaced = outage is not None or (fallback is not None and fallback.full is not None)
    return Subject(
        backend.names,
        backend.client if outage is None else None,
        backend.epoch.now,
        memory=backend.memory if backend.client is None or replaced else None,
        near=backend.near,
        envelope=kind.envelope,
        outage=None if outage is None else outage.reason,
        loads=reads.flights.__contains__,
    )


def in_near(subject: Subject, full: str, kind: Kind | None) -> L1State:
    """What L1 says to a reader of a kind, or to any."""
    near = subject.near
    if near is None:
        return "off"
    entry = near.entries.get(full)
    if entry is None:
        return "absent"
    if kind is not None and entry.owner is not kind.envelope:
        return "other type"
    if not near.vouched:
        return "unvouched"
    return "expired" if near.now() >= entry.deadline else "hit"


@dataclass(frozen=True, slots=True)
class ServerSays:
    """What the server says of a key. ``generation``: of the namespace."""

    kind: str
    encoding: str | None
    idle: float | None
    ttl: int
    data: bytes | None
    size: int | None
    lease: bytes | None
    lease_ttl: int
    generation: bytes | None

    @classmethod
    async def ask(cls, subject: Subject, client: RedisClient, full: str) -> ServerSays:
        """One round trip. Raises StoreError when the key itself may not be looked at."""
        lease = subject.names.lease + full
        replies = await client.pipeline(
            [
                ("OBJECT", "IDLETIME", full),  # before the others, which count as uses
                ("OBJECT", "ENCODING", full),
                ("TYPE", full),
                ("PTTL", full),
                ("STRLEN", full),
                ("GET", full),
                ("GET", lease),
                ("PTTL", lease),
                ("GET", subject.names.generation),
            ],
            deadline=subject.budget,
        )
        idle, encoding, kind, ttl, size, data, lease_token, lease_ttl, generation = map(answered, replies)
        for needed in (replies[2], replies[3]):
            if isinstance(needed, StoreError):
                raise needed
        return cls(
            kind.decode(),
            None if encoding is None else encoding.decode(),
            None if idle is None else float(idle),
            ttl,
            data,
            size,
            lease_token,
            -2 if lease_ttl is None else lease_ttl,
            generation,
        )

    def shown(self, found: Explanation) -> Explanation:
        """All of it but the value's inside."""
        if self.lease is not None:
            held = "here" if found.loading == "here" else "failed" if self.lease == b"failed" else "elsewhere"
            lease_ttl = self.lease_ttl / 1000 if self.lease_ttl >= 0 else None
            found = replace(found, loading=held, lease_ttl=lease_ttl)  # type: ignore[arg-type]  # of its literals
        if self.kind == "none":
            return found
        found = replace(
            found,
            layer="server",
            kind=self.kind,
            encoding=self.encoding,
            idle=self.idle,
            server_ttl=None if self.ttl < 0 else self.ttl / 1000,
            stored_size=self.size,
        )
        if self.kind == "string":
            return found
        reason = f"the key holds a {self.kind}, which is no value"
        return replace(found, state="unusable", reasons=(*found.reasons, reason))


def answered(reply: Any) -> Any:
    """None for what the server refuses to say."""
    return None if isinstance(reply, StoreError) else reply
