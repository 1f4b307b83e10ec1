"""Zstandard (RFC 8878) with a bound on what comes out.

zstandard's own ``max_output_size`` is ignored when the frame states its size, so the stated size is checked
before anything is allocated, and a frame that states none is refused: ours always do. A frame that lies about
its size fails inside the decompressor, whose output buffer has the stated size. Checksums are written; a
truncated frame, a second frame or trailing bytes are errors.

The compressor objects are reused, which makes a small value four times cheaper; they are not thread-safe, so
one Zstd belongs to one thread.
"""

from __future__ import annotations

from typing import Final

import zstandard

from aioinfra.codec.bounds import check_whole
from aioinfra.errors import DecodeError, PayloadTooLarge

LEVELS: Final = range(-7, 20)  # 20 and above need memory out of proportion for a cache


class Zstd:
    """Compresses at one level, decompresses at most ``max_output`` bytes."""

    __slots__ = ("_compressor", "_decompressor", "max_output")

    def __init__(
        self,
        level: int = 3,
        max_output: int = 64 << 20,
        dictionary: zstandard.ZstdCompressionDict | None = None,
    ) -> None:
        """``level``: -7 (fastest) to 19; ``max_output``: bytes; ``dictionary``: for both directions.

        Raises:
            InvalidArgument: outside these bounds.
        """
        check_whole("level", level, LEVELS[0], LEVELS[-1])
        check_whole("max_output", max_output, 1, 2**32 - 1)
        self.max_output = max_output
        self._compressor = zstandard.ZstdCompressor(
            level=level, write_checksum=True, write_content_size=True, dict_data=dictionary
        )
        self._decompressor = zstandard.ZstdDecompressor(dict_data=dictionary)

    def compress(self, payload: bytes) -> bytes:
        """One frame with its size and a checksum."""
        return self._compressor.compress(payload)

    def decompress(self, frame: bytes) -> bytes:
        """The payload of exactly one frame.

        Raises:
            PayloadTooLarge: it would expand beyond the bound; nothing was allocated for it.
            DecodeError: not one intact frame.
        """
        size = check_size(frame, self.max_output)
        try:
            payload = self._decompressor.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError:
            raise DecodeError("not one intact zstd frame") from None
        if len(payload) != size:
            raise DecodeError("a zstd frame of another size than it states")
        return payload


def check_size(frame: bytes, max_output: int) -> int:
    """The size that a frame states.

    Raises:
        PayloadTooLarge: more than ``max_output`` bytes.
        DecodeError: this is no frame, or one that states none.
    """
    try:
        size = zstandard.frame_content_size(frame)
    except zstandard.ZstdError:
        raise DecodeError("not one intact zstd frame") from None
    if size > max_output:
        raise PayloadTooLarge(f"a zstd frame that expands beyond {max_output} bytes")
    if size < 0:
        raise DecodeError("a zstd frame that does not state its size")
    return size


def dictionary_of(frame: bytes) -> int:
    """The id of the dictionary that a frame needs; 0 for none.

    Raises:
        DecodeError: this is no frame.
    """
    try:
        return zstandard.get_frame_parameters(frame).dict_id
    except zstandard.ZstdError:
        raise DecodeError("not one intact zstd frame") from None
