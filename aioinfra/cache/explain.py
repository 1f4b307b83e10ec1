"""Finds out what a cache knows of one key: reads what a get reads, and changes nothing.

    L1, the loads under way            what this process knows; no round trip
    the server, one pipeline           key, lease, generation, what OBJECT says
    the server, once more              what stands for the tags of the value, and its dictionary

A server that does not answer is a reason, not an error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from aioinfra.cache.explain_sources import ServerSays, Subject, answered, in_near
from aioinfra.cache.explanation import Explanation
from aioinfra.cache.freshness import Verdict
from aioinfra.cache.kind import Kind
from aioinfra.codec.codec import JSON, MSGPACK, RAW, SIGNED_PICKLE
from aioinfra.codec.dictionaries import UnknownDictionary
from aioinfra.codec.envelope import ZSTD_DICTIONARY, OutdatedError, StoredFailureError
from aioinfra.codec.layout import FAILURE, KEPT, SIZE, UNCOMPRESSED, ZSTD, Header, read_header, read_tags
from aioinfra.codec.zstd import check_size, dictionary_of
from aioinfra.errors import DecodeError, StoreUnavailable

CODECS: Final = {RAW: "bytes", JSON: "json", MSGPACK: "msgpack", SIGNED_PICKLE: "pickle"}
_COMPRESSIONS: Final = {UNCOMPRESSED: "none", ZSTD: "zstd", ZSTD_DICTIONARY: "dictionary"}
_NAMESPACE_TAG: Final = "namespace:"
_LATE: Final = {
    Verdict.REVALIDATE: "it is answered while a new one is made (stale_while_revalidate)",
    Verdict.IF_ERROR: "it is answered when a new one cannot be made (stale_if_error)",
    Verdict.GONE: "it is kept for others and no longer answered here",
}


async def explain(subject: Subject, key: str, kind: Kind | None = None) -> Explanation:
    """What is known of a key within the namespace. Two round trips at most.

    Args:
        kind: of the values of the function whose key it is; None for any reader.

    Raises:
        StoreError: the server refuses to be asked.
    """
    full = subject.names.namespace + key
    if kind is not None:
        subject = replace(subject, envelope=kind.envelope, freshness=kind.freshness)
    found = Explanation(key, l1=in_near(subject, full, kind), loading="here" if subject.loads(full) else "no")
    data: bytes | None = None
    server: ServerSays | None = None
    if subject.client is not None:
        try:
            server = await ServerSays.ask(subject, subject.client, full)
        except StoreUnavailable as error:
            subject = replace(subject, client=None, outage=str(error))
        else:
            data, found = server.data, server.shown(found)
    if data is None and subject.memory is not None:
        data = subject.memory.get(full)
        if data is not None:
            found = replace(found, layer="memory", stored_size=len(data))
    if subject.outage is not None:
        found = _with(found, f"the server does not answer: {subject.outage}")
    if data is not None:
        found = await _valued(subject, server, data, found)
    return _with_near(found)


def _with(found: Explanation, *reasons: str) -> Explanation:
    return replace(found, reasons=(*found.reasons, *reasons))


def _with_near(found: Explanation) -> Explanation:
    if found.l1 != "hit":
        return found
    if found.state == "absent":  # the server lost it a moment ago, and that has not been heard yet
        return _with(replace(found, layer="l1", state="fresh"), "L1 still has it, the server does not")
    if found.state == "unusable":
        return _with(found, "L1 still has an older value")
    return replace(found, layer="l1")


# The value


async def _valued(
    subject: Subject, server: ServerSays | None, data: bytes, found: Explanation
) -> Explanation:
    try:
        header = read_header(data)
        tags = read_tags(data)
    except DecodeError as error:
        return _with(replace(found, state="unusable"), str(error))
    payload = data[SIZE + header.extension :]
    now = subject.now()
    found = replace(
        found,
        age=now - header.created,
        fresh_for=_fresh_for(header, server, now),
        codec=CODECS.get(header.codec, str(header.codec)),
        compression=_COMPRESSIONS.get(header.compression, str(header.compression)),
        dictionary=_quiet(dictionary_of, payload) if header.compression == ZSTD_DICTIONARY else None,
        payload_size=header.length,
        plain_size=_plain_size(subject, header, payload),
        tags=tuple(tag for tag, _ in tags),
        compute_time=header.compute_time,
        failure=bool(header.flags & FAILURE),
    )
    reasons = [*_cleared(subject, server, header), *await _ended(subject, server, tags)]
    reasons += await _unreadable(subject, server, data, found, cleared=bool(reasons))
    if reasons:
        return _with(replace(found, state="unusable"), *reasons)
    late = _late(subject, header, found)
    return _with(replace(found, state="stale" if late else "fresh"), *late)


def _fresh_for(header: Header, server: ServerSays | None, now: float) -> float | None:
    """Of a plain value the server's expiry is what counts."""
    if server is not None and not header.flags & KEPT:
        return None if server.ttl < 0 else server.ttl / 1000
    return header.expires - now if header.expires else None


def _plain_size(subject: Subject, header: Header, payload: bytes) -> int | None:
    if header.compression == UNCOMPRESSED:
        return len(payload)
    most = 64 << 20 if subject.envelope is None else subject.envelope.options.max_bytes
    return _quiet(lambda frame: check_size(frame, most), payload)


def _quiet(read: Callable[[bytes], int], frame: bytes) -> int | None:
    try:
        return read(frame)
    except DecodeError:
        return None


def _cleared(subject: Subject, server: ServerSays | None, header: Header) -> list[str]:
    current = server.generation if server is not None else None
    if current is None and subject.envelope is not None:
        current = subject.envelope.generation.value
    if current is None or header.generation == current:
        return []
    return ["the namespace was cleared: its generation is another one now"]


async def _ended(subject: Subject, server: ServerSays | None, tags: Sequence[tuple[str, bytes]]) -> list[str]:
    """The tags that do not stand any more."""
    if not tags:
        return []
    keys = [subject.names.tag + tag for tag, _ in tags]
    if server is not None and subject.client is not None:
        commands = [("GET", key) for key in keys]
        tokens = list(map(answered, await subject.client.pipeline(commands, deadline=subject.budget)))
    else:
        tokens = [None if subject.memory is None else subject.memory.get(key) for key in keys]
    ended = [tag for (tag, token), current in zip(tags, tokens, strict=True) if token != current]
    return [
        f"namespace {tag.removeprefix(_NAMESPACE_TAG)!r} was cleared"
        if tag.startswith(_NAMESPACE_TAG)
        else f"tag {tag!r} was invalidated"
        for tag in ended
    ]


async def _unreadable(
    subject: Subject, server: ServerSays | None, data: bytes, found: Explanation, *, cleared: bool
) -> list[str]:
    """Why the value cannot be opened."""
    envelope = subject.envelope
    if envelope is None:
        return await _without_dictionary(subject, server, found)
    if found.codec not in ("bytes", CODECS[envelope.codec.id]) and not found.failure:
        return [f"written as {found.codec}, and this cache reads {CODECS[envelope.codec.id]}"]
    try:
        envelope.open(data)
    except (StoredFailureError, OutdatedError):
        return []
    except UnknownDictionary:
        return await _without_dictionary(subject, server, found)
    except DecodeError as error:
        return [] if cleared else [f"undecodable: {error}"]
    return []


async def _without_dictionary(subject: Subject, server: ServerSays | None, found: Explanation) -> list[str]:
    """A read fetches the dictionary of a value, if it is on the server."""
    if found.dictionary is None:
        return []
    key = f"{subject.names.dictionary}:{found.dictionary}"
    if server is not None and subject.client is not None and await subject.client.execute("EXISTS", key):
        return []
    return [f"dictionary {found.dictionary} is unknown: it is not on the server"]


def _late(subject: Subject, header: Header, found: Explanation) -> list[str]:
    """Why it is stale."""
    if found.fresh_for is None or found.fresh_for > 0:
        return []
    if not header.flags & KEPT:
        return [f"its ttl ended {-found.fresh_for:.3f} s ago"]
    now = 0.0
    verdict = subject.freshness.judge(found.fresh_for, header.compute_time, now, random.random)
    why = (
        _LATE.get(verdict, "")
        if not subject.freshness.is_plain
        else "it is kept for readers that take it stale"
    )
    return [f"beyond its ttl since {-found.fresh_for:.3f} s; {why}"]
