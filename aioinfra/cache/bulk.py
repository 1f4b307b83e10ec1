"""Reading many keys: from L1 what is there, the rest in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aioinfra.cache.kind import Kind
from aioinfra.cache.near import Fill
from aioinfra.cache.read_through import ReadThrough
from aioinfra.cache.store import MISS
from aioinfra.codec.envelope import UNOPENED
from aioinfra.codec.layout import is_plain


async def get_many(
    reads: ReadThrough, keys: Sequence[str], kind: Kind, *, strong: bool = False
) -> tuple[list[Any], int]:
    """The values under full keys in their order, MISS where there is none that counts; how many L1 answered.

    Raises StoreError.
    """
    near = reads.near if not strong else None
    if near is None:
        return await _ask(reads, keys, kind, strong=strong), 0
    values: list[Any] = [MISS] * len(keys)
    asked: list[int] = []
    for at, key in enumerate(keys):
        entry = near.get(key, kind.envelope)
        if entry is not None and reads.counts(entry):
            entry.hits += 1
            values[at] = reads.value(entry, kind)
        else:
            asked.append(at)
    if asked:
        found = await _ask(reads, [keys[at] for at in asked], kind, strong=strong)
        for at, value in zip(asked, found, strict=True):
            values[at] = value
    return values, len(keys) - len(asked)


async def _ask(reads: ReadThrough, keys: Sequence[str], kind: Kind, *, strong: bool) -> list[Any]:
    near = reads.near if not strong else None
    fills = {} if near is None else {key: fill for key in keys if (fill := near.begin(key)) is not None}
    try:
        stored = await reads.store.get_many(keys)
        if reads.dictionaries is not None:
            await reads.dictionaries.provide(stored)
        if strong:  # judged by the generation as it is after the values were read
            await reads.layers.certain()
        values = kind.envelope.open_plain(stored) if not fills else [UNOPENED] * len(stored)
        rest = [at for at, value in enumerate(values) if value is UNOPENED]
        if rest:
            held = await _held(reads, [stored[at] for at in rest], strong=strong)
            for at, holds in zip(rest, held, strict=True):
                data = stored[at]
                there = data is not None and holds
                values[at] = _opened(reads, keys[at], data or b"", kind, fills) if there else MISS
        return values
    finally:
        if near is not None:
            for key, fill in fills.items():
                near.drop(key, fill)


async def _held(reads: ReadThrough, stored: Sequence[bytes | None], *, strong: bool) -> list[bool]:
    """Of each, whether its tags stand; asked together."""
    flagged = [
        at for at, data in enumerate(stored) if data is not None and len(data) > 4 and not is_plain(data)
    ]
    held = [True] * len(stored)
    if flagged:
        answers = await asyncio.gather(*[reads.tags_hold(stored[at] or b"", strong=strong) for at in flagged])
        for at, answer in zip(flagged, answers, strict=True):
            held[at] = answer
    return held


def _opened(reads: ReadThrough, key: str, data: bytes, kind: Kind, fills: dict[str, Fill]) -> Any:
    value = reads.opened(data, kind)
    if value is MISS:
        return MISS
    near = reads.near
    fill = fills.get(key)
    if (near is None or fill is None) and is_plain(data):
        return value
    entry = reads.entry(key, value, data, kind)
    if near is not None and fill is not None:
        near.put(key, fill, entry, entry.tags)
    return value if reads.counts(entry) else MISS
