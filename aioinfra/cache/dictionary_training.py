"""Training a dictionary on the values that a cache holds.

sample      SCAN in bounded steps, GETRANGE of what it finds, until there are enough or a bound is reached
train       on four fifths of the payloads, in a thread
compare     on the fifth that the training has not seen: what it would take on the server by each means
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aioinfra.cache.dictionaries import CacheDictionaries
from aioinfra.cache.dictionary_store import Command
from aioinfra.cache.glob import escape
from aioinfra.cache.names import Names
from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.codec.dictionaries import (
    DEFAULT_SIZE,
    LEAST_SAMPLES,
    LEAST_SIZE,
    MOST_SIZE,
    Dictionaries,
    Dictionary,
    UnknownDictionary,
    train,
)
from aioinfra.codec.envelope import MUST_SAVE, ZSTD_DICTIONARY, EnvelopeOptions
from aioinfra.codec.layout import FAILURE, SIZE, UNCOMPRESSED, ZSTD, read_header
from aioinfra.codec.zstd import Zstd
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import DecodeError, StoreError

_SCAN_COUNT: Final = 500
_STEP: Final = 50  # values in one round trip
_EXTENSION: Final = 1024  # bytes of tags before a payload
_TIMES_SIZE: Final = (
    250  # bytes of samples for a byte of the dictionary: zstd recommends 100, and some are held out
)
_HELD_OUT: Final = 5  # one sample in so many is not trained on

Progress = Callable[[int, int], None]
"""Told how many samples there are, and how many are wanted."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Bounds of a training.

    Attributes:
        samples: values to look at.
        size: most bytes of the dictionary.
        seconds: for collecting samples; those that were found by then are used.
        keys: most keys to walk over, of whatever namespace.
        budget: seconds that one round trip may take.
        envelope: which sizes use a dictionary, and the level.
    """

    samples: int = 5000
    size: int = DEFAULT_SIZE
    seconds: float = 30.0
    keys: int = 1_000_000
    budget: float = 2.0
    envelope: EnvelopeOptions = field(default_factory=EnvelopeOptions)

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, LEAST_SAMPLES, 100_000)
        check_whole("size", self.size, LEAST_SIZE, MOST_SIZE)
        check_number("seconds", self.seconds, 0.01, 3600)
        check_whole("keys", self.keys, 1, 1 << 40)
        check_number("budget", self.budget, 0.001, 3600)


DEFAULT_OPTIONS: Final = TrainingOptions()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Bytes of the held-out payloads, headers not included, by how they are stored.

    Attributes:
        count: payloads.
        plain: as they are.
        without: as a cache without dictionary stores them: zstd above its threshold.
        zstd: zstd alone at every size.
        dictionary: with the new dictionary.
        current: with the dictionary in use now; None for none.
    """

    count: int
    plain: int
    without: int
    zstd: int
    dictionary: int
    current: int | None

    @property
    def saves(self) -> bool:
        """Whether the new dictionary saves a tenth of what is stored now."""
        now = self.without if self.current is None else self.current
        return self.dictionary < now * MUST_SAVE


@dataclass(frozen=True, slots=True)
class Training:
    """A trained dictionary, not published, and what it is worth.

    Attributes:
        samples: payloads that it was trained on.
        skipped: values that are no samples: not ours, too large, too small or not readable.
    """

    dictionary: Dictionary
    samples: int
    skipped: int
    comparison: Comparison


@dataclass(slots=True)
class Samples:
    """Payloads, and how many values were none."""

    payloads: list[bytes] = field(default_factory=list)
    skipped: int = 0


async def train_dictionary(
    client: RedisClient,
    names: Names,
    options: TrainingOptions = DEFAULT_OPTIONS,
    *,
    progress: Progress | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Training:
    """Train on what the cache of these names holds now; `CacheDictionaries.publish` puts it to use.

    Raises:
        NotTrainable: too few values of a fitting size, or with too little in common.
        StoreError: the server did not answer.
    """
    known = Dictionaries(options.envelope.level, options.envelope.dictionary_limit)
    shared = CacheDictionaries(client, names, known, clock=clock)
    try:
        await shared.refresh()
        sampler = _Sampler(client, names, options, shared, known)
        found = await sampler.collect(progress, clock)
    finally:
        await shared.aclose()
    return await asyncio.to_thread(_train, found, known.current, options)


def _train(found: Samples, current: Dictionary | None, options: TrainingOptions) -> Training:
    held_out = found.payloads[::_HELD_OUT]
    learnt = [payload for at, payload in enumerate(found.payloads) if at % _HELD_OUT]
    dictionary = train(learnt, options.size, options.envelope.level)
    return Training(
        dictionary, len(learnt), found.skipped, compare(held_out, dictionary, current, options.envelope)
    )


def compare(
    payloads: Sequence[bytes], dictionary: Dictionary, current: Dictionary | None, options: EnvelopeOptions
) -> Comparison:
    """What payloads take by each means. CPU: some 20 us a payload."""
    alone = Zstd(options.level)
    large = [payload for payload in payloads if len(payload) >= options.threshold]
    small = sum(len(payload) for payload in payloads if len(payload) < options.threshold)
    return Comparison(
        len(payloads),
        sum(map(len, payloads)),
        small + _stored(large, alone),
        _stored(payloads, alone),
        _stored(payloads, dictionary.zstd(options.level)),
        None if current is None else _stored(payloads, current.zstd(options.level)),
    )


def _stored(payloads: Iterable[bytes], zstd: Zstd) -> int:
    """Bytes of what is kept: frames, where they save."""
    total = 0
    for payload in payloads:
        frame = len(zstd.compress(payload))
        total += frame if frame <= len(payload) * MUST_SAVE else len(payload)
    return total


class _Sampler:
    """Collects payloads of a fitting size."""

    def __init__(
        self,
        client: RedisClient,
        names: Names,
        options: TrainingOptions,
        shared: CacheDictionaries,
        known: Dictionaries,
    ) -> None:
        self._client = client
        self._names = names
        self._options = options
        self._shared = shared
        self._known = known
        self._zstd = Zstd(options.envelope.level, options.envelope.dictionary_limit)
        self._generation = b""
        self._found = Samples()
        self._bytes = 0

    async def collect(self, progress: Progress | None, clock: Clock) -> Samples:
        """Samples in the order of SCAN, which is that of hashes: as good as drawn."""
        ends = clock.monotonic() + self._options.seconds
        (generation,) = await self._call([("GETRANGE", self._names.generation, 0, 7)])
        self._generation = generation if isinstance(generation, bytes) else b""
        match = escape(self._names.namespace) + "*"
        cursor, walked, seen = "0", 0, set[bytes]()
        while True:
            (reply,) = await self._call([("SCAN", cursor, "MATCH", match, "COUNT", _SCAN_COUNT)])
            if isinstance(reply, StoreError):
                raise reply
            cursor, walked = reply[0].decode(), walked + _SCAN_COUNT
            keys = [key for key in dict.fromkeys(reply[1]) if key not in seen]
            seen.update(keys)
            for at in range(0, len(keys), _STEP):
                await self._look(keys[at : at + _STEP])
                if progress is not None:
                    progress(len(self._found.payloads), self._options.samples)
                if self._enough() or clock.monotonic() >= ends:
                    return self._found
            if cursor == "0" or walked >= self._options.keys or clock.monotonic() >= ends:
                return self._found

    def _enough(self) -> bool:
        return (
            len(self._found.payloads) >= self._options.samples
            or self._bytes >= self._options.size * _TIMES_SIZE
        )

    async def _look(self, keys: Sequence[bytes]) -> None:
        """Take the payloads of some keys. What is longer than a sample may be is cut off, and found out by that."""
        last = SIZE + _EXTENSION + self._options.envelope.dictionary_limit - 1
        for data in await self._call([("GETRANGE", key, 0, last) for key in keys]):
            try:
                payload = b"" if isinstance(data, StoreError) else await self._payload(data)
            except DecodeError:
                payload = b""
            options = self._options.envelope
            if (
                options.dictionary_threshold <= len(payload) <= options.dictionary_limit
                and not self._enough()
            ):
                self._found.payloads.append(payload)
                self._bytes += len(payload)
            else:
                self._found.skipped += 1

    async def _payload(self, data: bytes) -> bytes:
        header = read_header(data)
        if header.flags & FAILURE or self._generation not in (b"", header.generation):
            return b""
        stored = data[SIZE + header.extension :]
        if header.compression == UNCOMPRESSED:
            return stored
        if header.compression == ZSTD:
            return self._zstd.decompress(stored)
        if header.compression != ZSTD_DICTIONARY:
            return b""
        try:
            return self._known.decompress(stored)
        except UnknownDictionary as unknown:
            await self._shared.fetch(unknown.id)
        return self._known.decompress(stored)

    async def _call(self, commands: Sequence[Command]) -> list[Any]:
        return await self._client.pipeline(commands, deadline=self._options.budget)
