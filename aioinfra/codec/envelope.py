"""Seals values into bytes and opens them: codec, compression, and the layout that `codec.layout` describes."""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aioinfra.codec.bounds import check_whole
from aioinfra.codec.codec import JSON, RAW, Codec
from aioinfra.codec.dictionaries import MOST_LIFE, Dictionaries
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.layout import (
    FAILURE,
    FIRST_GENERATION,
    GENERATION_AT,
    LENGTH_AT,
    MAGIC,
    SIZE,
    UNCOMPRESSED,
    VERSION,
    ZSTD,
    Stamp,
    length_from,
    pack,
    read_header,
)
from aioinfra.codec.zstd import Zstd
from aioinfra.errors import DecodeError, EncodeError, PayloadTooLarge

ZSTD_DICTIONARY: Final = 2
MUST_SAVE: Final = (
    0.9  # compressed is kept below this share of the plain size: less is not worth a decompression
)


@dataclass(frozen=True, slots=True)
class EnvelopeOptions:
    """Bounds of a value and when to compress it.

    Attributes:
        compress: whether to compress at all.
        threshold: payloads of at least this many bytes are compressed, if that saves a tenth.
        dictionary_threshold: the same where there is a trained dictionary. A frame made with one has 20 bytes or
            more, and takes 2 us.
        dictionary_limit: payloads of at most this many bytes use the dictionary. Larger ones hold their own
            repetitions, and are faster without.
        level: zstd level, -7 to 19.
        max_bytes: largest payload before compression, and largest expansion of a stored one.
    """

    compress: bool = True
    threshold: int = 1024
    dictionary_threshold: int = 64
    dictionary_limit: int = 16 << 10
    level: int = 3
    max_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        check_whole("threshold", self.threshold, 1, 2**32 - 1)
        check_whole("dictionary_threshold", self.dictionary_threshold, 1, 2**32 - 1)
        check_whole("dictionary_limit", self.dictionary_limit, 0, 2**32 - 1)
        check_whole("max_bytes", self.max_bytes, 1, 512 << 20)


class OutdatedError(DecodeError):
    """A value of another generation of the namespace: it was cleared."""


class Generation:
    """The current generation of a namespace, shared by all envelopes of one cache. 8 bytes."""

    __slots__ = ("value",)

    def __init__(self, value: bytes = FIRST_GENERATION) -> None:
        self.value = value


class StoredFailureError(DecodeError):
    """There is no value: the load failed, and that was stored. ``name`` and ``arguments`` of the exception."""

    def __init__(self, name: str, arguments: list[Any]) -> None:
        super().__init__("a stored failure")
        self.name = name
        self.arguments = arguments


@dataclass(slots=True)
class CompressionFigures:
    """Totals of what was compressed, in bytes."""

    plain: int = 0
    stored: int = 0


_WHOLE: Final = re.compile(rb"-?[0-9]{1,16}").fullmatch
_FAILURES: Final = JsonCodec(tuple[str, list[Any]])


class Unopened(enum.Enum):
    """The type of `UNOPENED`."""

    UNOPENED = "UNOPENED"


UNOPENED: Final = Unopened.UNOPENED
"""Sealed bytes that take the long way of `Envelope.open`."""


class Envelope:
    """Seals values of one codec and opens them. One thread at a time.

    Args:
        generation: of the namespace; the owner changes its value in place.

    Attributes:
        dictionaries: trained ones; the owner adds to them in place.
    """

    __slots__ = ("_codec", "_plain_start", "_zstd", "dictionaries", "figures", "generation", "options")

    def __init__(
        self, codec: Codec, options: EnvelopeOptions = EnvelopeOptions(), generation: Generation | None = None
    ) -> None:
        self.options = options
        self.figures = CompressionFigures()
        self.generation = generation if generation is not None else Generation()
        self._zstd = Zstd(options.level, options.max_bytes)
        self.dictionaries = Dictionaries(options.level, options.max_bytes)
        self._use(codec)

    def _use(self, codec: Codec) -> None:
        self._codec = codec
        self._plain_start = struct.pack("<BBBBHH", MAGIC, VERSION, codec.id, UNCOMPRESSED, 0, 0)

    @property
    def codec(self) -> Codec:
        """The codec of this envelope."""
        return self._codec

    def typed(self, annotation: Any) -> Envelope:
        """An envelope for values of an annotation; it shares compressors, generation and figures."""
        other = object.__new__(Envelope)
        other.options, other.figures, other._zstd = self.options, self.figures, self._zstd
        other.generation, other.dictionaries = self.generation, self.dictionaries
        other._use(self._codec.typed(annotation))
        return other

    def seal(self, value: Any, stamp: Stamp) -> bytes:
        """The stored form of a value.

        Raises:
            EncodeError: the codec cannot write the value, or it is larger than the bound.
        """
        codec = RAW if type(value) is bytes else self._codec.id
        payload = value if type(value) is bytes else self._codec.encode(value)
        options = self.options
        if len(payload) > options.max_bytes:
            raise EncodeError("value", f"{len(payload)} bytes encoded, the bound is {options.max_bytes}")
        compression = UNCOMPRESSED
        if options.compress and (self.dictionaries.current or len(payload) >= options.threshold):
            compression, payload = self._squeeze(payload, stamp)
        return pack(codec, compression, 0, stamp, self.generation.value, payload)

    def seal_failure(self, name: str, arguments: Sequence[Any], stamp: Stamp) -> bytes:
        """The stored form of a failed load: an exception's class name and arguments, as JSON in any case.

        Raises:
            EncodeError: an argument is not plain JSON.
        """
        payload = _FAILURES.encode((name, list(arguments)))
        return pack(JSON, UNCOMPRESSED, FAILURE, stamp, self.generation.value, payload)

    def open(self, data: bytes) -> Any:
        """The value in sealed bytes, whatever its times and tags say: see `is_plain`.

        Raises:
            StoredFailureError: there is none: it is the seal of a failed load.
            OutdatedError: of another generation of the namespace.
            UnknownDictionary: it needs a trained dictionary that is not here: add it, and open again.
            DecodeError: not a sealed value of this layout, codec and type, not intact, or beyond the bounds.
        """
        # The plain case in few comparisons; everything that is not it takes the long way, refusals included.
        if (
            len(data) >= SIZE
            and data.startswith(self._plain_start)
            and data.startswith(self.generation.value, GENERATION_AT)
            and length_from(data, LENGTH_AT)[0] == len(data) - SIZE <= self.options.max_bytes
        ):
            return self._codec.decode(data[SIZE:])
        return self._open_any(data)

    def open_plain(self, stored: Iterable[bytes | None]) -> list[Any]:
        """Of each that is there, plain and intact its value, else UNOPENED; `open` tells why. Quick for many."""
        start = self._plain_start + self.generation.value  # next to each other in the header
        decode, most = self._codec.decode, self.options.max_bytes + SIZE
        values: list[Any] = []
        for data in stored:
            value: Any = UNOPENED
            if (
                data is not None
                and data.startswith(start)
                and SIZE <= len(data) <= most
                and length_from(data, LENGTH_AT)[0] == len(data) - SIZE
            ):
                try:
                    value = decode(data[SIZE:])
                except DecodeError:
                    value = UNOPENED
            values.append(value)
        return values

    def _open_any(self, data: bytes) -> Any:
        header = read_header(data)
        if header.generation != self.generation.value:
            raise OutdatedError("a sealed value of another generation")
        payload = data[SIZE + header.extension :]
        if len(payload) > self.options.max_bytes:
            raise PayloadTooLarge(f"a stored payload beyond {self.options.max_bytes} bytes")
        if header.flags & FAILURE:
            raise StoredFailureError(*_FAILURES.decode(payload))
        if header.compression == ZSTD:
            payload = self._zstd.decompress(payload)
        elif header.compression == ZSTD_DICTIONARY:
            payload = self.dictionaries.decompress(payload)
        elif header.compression != UNCOMPRESSED:
            raise DecodeError("a sealed value with an unknown compression")
        if header.codec == RAW:
            return payload
        if header.codec != self._codec.id:
            if header.codec == JSON and _WHOLE(payload):
                return int(payload)  # a counter: the server's scripts write JSON, whatever this cache writes
            raise DecodeError("a sealed value of another codec")
        return self._codec.decode(payload)

    def _squeeze(self, payload: bytes, stamp: Stamp) -> tuple[int, bytes]:
        """The payload by the means for its size, or as it is: how, and the bytes."""
        options, size = self.options, len(payload)
        if (
            self.dictionaries.current is not None
            and options.dictionary_threshold <= size <= options.dictionary_limit
            and 0 < stamp.expires <= stamp.created + MOST_LIFE
        ):
            compression, frame = ZSTD_DICTIONARY, self.dictionaries.compress(payload)
        elif size >= options.threshold:
            compression, frame = ZSTD, self._zstd.compress(payload)
        else:
            return UNCOMPRESSED, payload
        if len(frame) > size * MUST_SAVE:
            return UNCOMPRESSED, payload
        self.figures.plain += size
        self.figures.stored += len(frame)
        return compression, frame
