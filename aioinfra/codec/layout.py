r"""The sealed form of a stored value: a 40-byte header, then the payload.

All numbers are little-endian. Layout of version 2:

    offset size
         0    1  magic, 0xC1: in no UTF-8 text, and the one byte that MessagePack never uses
         1    1  version of this layout, 2
         2    1  codec: 0 bytes as they are, 1 JSON, 2 MessagePack, 3 signed pickle
         3    1  compression: 0 none, 1 zstd, 2 zstd with a trained dictionary, whose id the frame states
         4    2  flags; a reader that does not know a set bit must refuse the value
                 bit 0: the payload is a failure, the JSON array [class name, [argument, ...]]
                 bit 1: the server keeps it beyond its logical expiry; who reads it must look at the time
                 bit 2: tagged; who reads it must compare the tags of the extension area
         6    2  length of the extension area in bytes
         8    8  generation of the namespace; a value of another generation than the current one is no value
        16    8  created, seconds since the epoch (binary64)
        24    8  logical expiry, seconds since the epoch (binary64); 0 means never
        32    4  time the value took to compute, microseconds, at most 2**32 - 1
        36    4  length of the payload as stored, bytes
        40    -  extension area, then the payload (compressed, if byte 3 says so)

The extension area of a tagged value holds, for each tag, the length of its name in UTF-8 (2 bytes), the name, and
the 8 bytes that stood for the tag when the value was made. Without bit 2 a reader skips the area.

The server's own expiry decides whether a value is there. The payload length makes every truncation visible, also
where half a payload would be valid (the JSON number 12345). Anything else than this layout raises DecodeError,
which the cache counts and treats as a miss.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from aioinfra.errors import DecodeError, EncodeError

MAGIC: Final = 0xC1
VERSION: Final = 2
FAILURE: Final = 1  # flags
KEPT: Final = 2
TAGGED: Final = 4
UNCOMPRESSED: Final = 0
ZSTD: Final = 1
GENERATION_AT: Final = 8
FIRST_GENERATION: Final = bytes(8)

HEADER: Final = struct.Struct("<BBBBHH8sddII")
SIZE: Final = HEADER.size
LENGTH_AT: Final = 36
_TIMES: Final = struct.Struct("<ddI")
TIMES_AT: Final = 16
_TAG: Final = struct.Struct("<H")
_MOST_EXTENSION: Final = 65_535
_MOST_TAGS: Final = 128  # of a value that is read, more than any is written with: each may cost a question
length_from: Final = struct.Struct("<I").unpack_from
_MOST_MICROSECONDS: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says. Times in seconds since the epoch, lengths in bytes."""

    codec: int
    compression: int
    flags: int
    extension: int
    generation: bytes
    created: float
    expires: float
    compute_time: float
    length: int


Tags = tuple[tuple[str, bytes], ...]
"""Names of tags, each with the 8 bytes that stood for it."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is sealed beside a value.

    Attributes:
        created, expires: seconds since the epoch; ``expires`` 0 means never.
        compute_time: seconds.
        kept: whether the server keeps it beyond ``expires``.
        tags: with what stood for them when the value began to be made.
        generation: the same of the namespace; None for the current one.
    """

    created: float
    expires: float = 0.0
    compute_time: float = 0.0
    kept: bool = False
    tags: Tags = ()
    generation: bytes | None = None


def pack(codec: int, compression: int, flags: int, stamp: Stamp, generation: bytes, payload: bytes) -> bytes:
    """The sealed form; ``generation`` is that of the namespace, unless the stamp has one.

    Raises:
        EncodeError: tags of more than 65,535 bytes together.
    """
    extension = b""
    if stamp.kept:
        flags |= KEPT
    if stamp.tags:
        flags |= TAGGED
        extension = _pack_tags(stamp.tags)
    header = HEADER.pack(
        MAGIC,
        VERSION,
        codec,
        compression,
        flags,
        len(extension),
        stamp.generation or generation,
        stamp.created,
        stamp.expires,
        min(int(stamp.compute_time * 1e6), _MOST_MICROSECONDS),
        len(payload),
    )
    return header + extension + payload


def is_plain(data: bytes) -> bool:
    """Whether these bytes, which were opened, hold a value without a stale time and tags."""
    return data[4] == 0


def read_times(data: bytes) -> tuple[float, float, float]:
    """When opened bytes were created and expire (seconds since the epoch), and the seconds that they took."""
    created, expires, microseconds = _TIMES.unpack_from(data, TIMES_AT)
    return created, expires, microseconds / 1e6


def read_header(data: bytes) -> Header:
    """The header of sealed bytes, checked for magic, version, flags and length.

    Raises:
        DecodeError: not a sealed value of this version, or truncated.
    """
    if len(data) < SIZE or data[0] != MAGIC:
        raise DecodeError("not a sealed value")
    if data[1] != VERSION:
        raise DecodeError("a sealed value of another version")
    _, _, codec, compression, flags, extension, generation, created, expires, microseconds, length = (
        HEADER.unpack_from(data)
    )
    if flags & ~(FAILURE | KEPT | TAGGED):
        raise DecodeError("a sealed value with flags that this version does not know")
    if len(data) != SIZE + extension + length:
        raise DecodeError("a sealed value that is truncated or has trailing bytes")
    return Header(
        codec, compression, flags, extension, generation, created, expires, microseconds / 1e6, length
    )


def read_tags(data: bytes) -> Tags:
    """The tags of opened bytes with what stands for them.

    Raises:
        DecodeError: the extension area is malformed, or holds more tags than any value has.
    """
    if not data[4] & TAGGED:
        return ()
    at, end = SIZE, SIZE + int.from_bytes(data[6:8], "little")
    tags: list[tuple[str, bytes]] = []
    while at < end:
        name_at = at + _TAG.size
        token_at = name_at + int.from_bytes(data[at:name_at], "little")
        if token_at + 8 > end or len(tags) == _MOST_TAGS:
            raise DecodeError("a sealed value with malformed tags")
        try:
            tags.append((data[name_at:token_at].decode(), data[token_at : token_at + 8]))
        except UnicodeDecodeError:
            raise DecodeError("a sealed value with malformed tags") from None
        at = token_at + 8
    return tuple(tags)


def _pack_tags(tags: Tags) -> bytes:
    parts = []
    for name, token in tags:
        encoded = name.encode()
        parts += [_TAG.pack(len(encoded)), encoded, token]
    extension = b"".join(parts)
    if len(extension) > _MOST_EXTENSION:
        raise EncodeError("tags", f"{len(extension)} bytes together, the most are {_MOST_EXTENSION}")
    return extension
