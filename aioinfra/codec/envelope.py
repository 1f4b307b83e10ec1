r"""The sealed form of a stored value: a 32-byte header, then the payload.

All numbers are little-endian. Layout of version 1:

    offset size
         0    1  magic, 0xC1: in no UTF-8 text, and the one byte that MessagePack never uses
         1    1  version of this layout, 1
         2    1  codec: 0 bytes as they are, 1 JSON, 2 MessagePack, 3 signed pickle
         3    1  compression: 0 none, 1 zstd
         4    2  flags; a reader that does not know a set bit must refuse the value
                 bit 0: the payload is a failure, the JSON array [class name, [argument, ...]]
         6    2  length of the extension area in bytes; a reader skips what it does not know
         8    8  created, seconds since the epoch (binary64)
        16    8  logical expiry, seconds since the epoch (binary64); 0 means never
        24    4  time the value took to compute, microseconds, at most 2**32 - 1
        28    4  length of the payload as stored, bytes
        32    -  extension area, then the payload (compressed, if byte 3 says so)

The server's own expiry decides whether a value is there; the two times are for freshness and for people.
The payload length makes every truncation visible, also where half a payload would be valid (the JSON number
12345). Anything else than this layout raises DecodeError, which the cache counts and treats as a miss.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aioinfra.codec.bounds import check_whole
from aioinfra.codec.codec import JSON, RAW, Codec
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.zstd import Zstd
from aioinfra.errors import DecodeError, EncodeError, PayloadTooLarge

MAGIC: Final = 0xC1
VERSION: Final = 1
FAILURE: Final = 1  # flag
UNCOMPRESSED: Final = 0
ZSTD: Final = 1

_HEADER: Final = struct.Struct("<BBBBHHddII")
_SIZE: Final = _HEADER.size
_LENGTH_AT: Final = 28
_length: Final = struct.Struct("<I").unpack_from
_MOST_MICROSECONDS: Final = 2**32 - 1
_MUST_SAVE: Final = (
    0.9  # compressed is kept below this share of the plain size: less is not worth a decompression
)


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says. Times in seconds since the epoch, lengths in bytes."""

    codec: int
    compression: int
    flags: int
    extension: int
    created: float
    expires: float
    compute_time: float
    length: int


@dataclass(frozen=True, slots=True)
class EnvelopeOptions:
    """Bounds of a value and when to compress it.

    Attributes:
        compress: whether to compress at all.
        threshold: payloads of at least this many bytes are compressed, if that saves a tenth.
        level: zstd level, -7 to 19.
        max_bytes: largest payload before compression, and largest expansion of a stored one.
    """

    compress: bool = True
    threshold: int = 1024
    level: int = 3
    max_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        check_whole("threshold", self.threshold, 1, 2**32 - 1)
        check_whole("max_bytes", self.max_bytes, 1, 512 << 20)


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


_FAILURES: Final = JsonCodec(tuple[str, list[Any]])


class Envelope:
    """Seals values of one codec and opens them. One thread at a time."""

    __slots__ = ("_codec", "_plain_start", "_zstd", "figures", "options")

    def __init__(self, codec: Codec, options: EnvelopeOptions = EnvelopeOptions()) -> None:
        self.options = options
        self.figures = CompressionFigures()
        self._zstd = Zstd(options.level, options.max_bytes)
        self._use(codec)

    def _use(self, codec: Codec) -> None:
        self._codec = codec
        self._plain_start = struct.pack("<BBBBHH", MAGIC, VERSION, codec.id, UNCOMPRESSED, 0, 0)

    @property
    def codec(self) -> Codec:
        """The codec of this envelope."""
        return self._codec

    def typed(self, annotation: Any) -> Envelope:
        """An envelope for values of an annotation; it shares the compressor and the figures."""
        other = object.__new__(Envelope)
        other.options, other.figures, other._zstd = self.options, self.figures, self._zstd
        other._use(self._codec.typed(annotation))
        return other

    def seal(self, value: Any, created: float, expires: float = 0.0, compute_time: float = 0.0) -> bytes:
        """The stored form of a value. Times in seconds; ``expires=0`` means never.

        Raises:
            EncodeError: the codec cannot write the value, or it is larger than the bound.
        """
        codec = RAW if type(value) is bytes else self._codec.id
        payload = value if type(value) is bytes else self._codec.encode(value)
        options = self.options
        if len(payload) > options.max_bytes:
            raise EncodeError("value", f"{len(payload)} bytes encoded, the bound is {options.max_bytes}")
        compression = UNCOMPRESSED
        if options.compress and len(payload) >= options.threshold:
            compression, payload = self._squeeze(payload)
        microseconds = min(int(compute_time * 1e6), _MOST_MICROSECONDS)
        header = (MAGIC, VERSION, codec, compression, 0, 0, created, expires, microseconds, len(payload))
        return _HEADER.pack(*header) + payload

    def seal_failure(self, name: str, arguments: Sequence[Any], created: float, expires: float) -> bytes:
        """The stored form of a failed load: an exception's class name and arguments, as JSON in any case.

        Raises:
            EncodeError: an argument is not plain JSON.
        """
        payload = _FAILURES.encode((name, list(arguments)))
        header = (MAGIC, VERSION, JSON, UNCOMPRESSED, FAILURE, 0, created, expires, 0, len(payload))
        return _HEADER.pack(*header) + payload

    def open(self, data: bytes) -> Any:
        """The value in sealed bytes.

        Raises:
            StoredFailureError: there is none: it is the seal of a failed load.
            DecodeError: not a sealed value of this layout, codec and type, not intact, or beyond the bounds.
        """
        # The plain case in one comparison; everything that is not it takes the long way, refusals included.
        if (
            len(data) >= _SIZE
            and data.startswith(self._plain_start)
            and _length(data, _LENGTH_AT)[0] == len(data) - _SIZE <= self.options.max_bytes
        ):
            return self._codec.decode(data[_SIZE:])
        return self._open_any(data)

    def _open_any(self, data: bytes) -> Any:
        header = read_header(data)
        payload = data[_SIZE + header.extension :]
        if len(payload) > self.options.max_bytes:
            raise PayloadTooLarge(f"a stored payload beyond {self.options.max_bytes} bytes")
        if header.flags == FAILURE:
            raise StoredFailureError(*_FAILURES.decode(payload))
        if header.flags:
            raise DecodeError("a sealed value with flags that this version does not know")
        if header.compression == ZSTD:
            payload = self._zstd.decompress(payload)
        elif header.compression != UNCOMPRESSED:
            raise DecodeError("a sealed value with an unknown compression")
        if header.codec == RAW:
            return payload
        if header.codec != self._codec.id:
            raise DecodeError("a sealed value of another codec")
        return self._codec.decode(payload)

    def _squeeze(self, payload: bytes) -> tuple[int, bytes]:
        frame = self._zstd.compress(payload)
        if len(frame) > len(payload) * _MUST_SAVE:
            return UNCOMPRESSED, payload
        self.figures.plain += len(payload)
        self.figures.stored += len(frame)
        return ZSTD, frame


def read_header(data: bytes) -> Header:
    """The header of sealed bytes, checked for magic, version and length.

    Raises:
        DecodeError: not a sealed value of this version, or truncated.
    """
    if len(data) < _SIZE or data[0] != MAGIC:
        raise DecodeError("not a sealed value")
    if data[1] != VERSION:
        raise DecodeError("a sealed value of another version")
    _, _, codec, compression, flags, extension, created, expires, microseconds, length = _HEADER.unpack_from(
        data
    )
    if len(data) != _SIZE + extension + length:
        raise DecodeError("a sealed value that is truncated or has trailing bytes")
    return Header(codec, compression, flags, extension, created, expires, microseconds / 1e6, length)
