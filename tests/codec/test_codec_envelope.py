"""Sealed values: compression that pays, bounds that hold, and every damaged byte found."""

from __future__ import annotations

import contextlib
import os
import resource
import struct
import time
from typing import Any

import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aioinfra.codec.envelope import Envelope, EnvelopeOptions, Generation, OutdatedError
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.layout import Stamp, is_plain, read_header, read_tags, read_times
from aioinfra.codec.msgpack import MsgpackCodec
from aioinfra.codec.pickle import SignedPickle
from aioinfra.codec.zstd import Zstd
from aioinfra.errors import DecodeError, EncodeError, InvalidArgument, PayloadTooLarge

NOW = Stamp(1.0)
LARGE = {"rows": [{"id": number, "name": "a name that repeats"} for number in range(500)]}


def header(
    codec: int = 1, compression: int = 0, flags: int = 0, extension: int = 0, length: int = 0
) -> bytes:
    """A header as the module's docstring lays it out, written independently."""
    return struct.pack("<BBBBHHQddII", 0xC1, 2, codec, compression, flags, extension, 0, 1.0, 0.0, 0, length)


def test_the_layout_is_the_documented_one() -> None:
    sealed = Envelope(JsonCodec()).seal(
        {"a": 1}, Stamp(1_700_000_000.5, 1_700_000_060.5, 0.25, generation=b"ABCDEFGH")
    )
    assert sealed[:8] == bytes([0xC1, 2, 1, 0, 0, 0, 0, 0])
    assert sealed[8:16] == b"ABCDEFGH"
    assert struct.unpack("<dd", sealed[16:32]) == (1_700_000_000.5, 1_700_000_060.5)
    assert struct.unpack("<II", sealed[32:40]) == (250_000, 7)
    assert sealed[40:] == b'{"a":1}'
    assert read_times(sealed) == (1_700_000_000.5, 1_700_000_060.5, 0.25)
    read = read_header(sealed)
    assert (read.created, read.expires, read.compute_time, read.length) == (
        1_700_000_000.5,
        1_700_000_060.5,
        0.25,
        7,
    )


@pytest.mark.parametrize(
    "value", [None, 0, "x", [1], {"a": None}, b"", b"raw \0\xff", LARGE, os.urandom(5000)]
)
def test_values_and_raw_bytes_come_back(value: Any) -> None:
    envelope = Envelope(JsonCodec())
    back = envelope.open(envelope.seal(value, NOW))
    assert back == value
    assert type(back) is type(value)


def test_only_what_saves_is_compressed() -> None:
    envelope = Envelope(JsonCodec())
    large = envelope.seal(LARGE, NOW)
    assert read_header(large).compression == 1
    assert len(large) < 1000
    assert envelope.figures.plain > 10 * envelope.figures.stored > 0
    assert read_header(envelope.seal("short" * 10, NOW)).compression == 0  # under the threshold
    assert read_header(envelope.seal(os.urandom(5000), NOW)).compression == 0  # would not shrink
    assert (
        read_header(Envelope(JsonCodec(), EnvelopeOptions(compress=False)).seal(LARGE, NOW)).compression == 0
    )
    assert (
        read_header(Envelope(JsonCodec(), EnvelopeOptions(threshold=10)).seal("aaaa" * 9, NOW)).compression
        == 1
    )


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=80) | st.binary(max_size=60).map(lambda rest: header(3, length=len(rest)) + rest)
)
def test_junk_is_a_decode_error(data: bytes) -> None:
    assume(data[2:3] not in {b"\0", b"\1"})  # bytes as they are, and counters, need no signature
    envelope = Envelope(SignedPickle("a key of the tests!"))
    with pytest.raises(DecodeError):
        envelope.open(data)


@pytest.mark.parametrize("value", [{"a": 12345}, 12345, LARGE], ids=["object", "number", "compressed"])
def test_every_truncation_and_every_appended_byte_is_found(value: Any) -> None:
    envelope = Envelope(JsonCodec())
    sealed = envelope.seal(value, NOW)
    for length in range(len(sealed)):
        with pytest.raises(DecodeError):
            envelope.open(sealed[:length])
    with pytest.raises(DecodeError):
        envelope.open(sealed + b"x")
    with pytest.raises(DecodeError):
        envelope.open(sealed + sealed)


def test_every_flipped_bit_of_a_compressed_payload_is_found() -> None:
    envelope = Envelope(JsonCodec())
    sealed = envelope.seal(LARGE, NOW)
    for at in range(40, len(sealed)):
        damaged = bytes([*sealed[:at], sealed[at] ^ 0x10, *sealed[at + 1 :]])
        with contextlib.suppress(DecodeError):
            assert envelope.open(damaged) == LARGE  # a bit that zstd does not use


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1\x03" + header()[2:],  # another version
        header(codec=9, length=1) + b"1",
        header(codec=2, length=1) + b"\x01",  # msgpack, where JSON is expected
        header(compression=7, length=1) + b"1",
        header(flags=1, length=1) + b"1",
        header(flags=8, length=1) + b"1",
        header(extension=500, length=1) + b"1",
    ],
    ids=["version", "codec", "other codec", "compression", "failure", "flag", "extension"],
)
def test_what_this_version_does_not_know_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Envelope(JsonCodec()).open(data)


def test_an_unknown_extension_is_skipped() -> None:
    assert Envelope(JsonCodec()).open(header(extension=3, length=2) + b"new" + b"17") == 17


def test_codecs_do_not_read_each_other() -> None:
    sealed = Envelope(MsgpackCodec()).seal([1], NOW)
    with pytest.raises(DecodeError):
        Envelope(JsonCodec()).open(sealed)


def test_a_value_beyond_the_bound_is_refused_both_ways() -> None:
    small = Envelope(JsonCodec(), EnvelopeOptions(max_bytes=1000))
    with pytest.raises(EncodeError, match="1002 bytes"):
        small.seal("x" * 1000, NOW)
    with pytest.raises(EncodeError):
        small.seal(b"x" * 1001, NOW)
    large = Envelope(JsonCodec()).seal("x" * 5000, NOW)  # compressed to less than the bound
    assert len(large) < 200
    with pytest.raises(PayloadTooLarge):
        small.open(large)
    with pytest.raises(PayloadTooLarge):
        small.open(Envelope(JsonCodec(), EnvelopeOptions(compress=False)).seal("x" * 5000, NOW))


def bomb(size: int, *, stated: bool) -> bytes:
    chunks = zstandard.ZstdCompressor(level=3, write_content_size=stated).compressobj(size if stated else -1)
    block = bytes(1 << 20)
    return b"".join(chunks.compress(block) for _ in range(size >> 20)) + chunks.flush()


@pytest.mark.parametrize("stated", [True, False], ids=["states its size", "hides its size"])
def test_a_bomb_is_refused_at_once_and_allocates_nothing(stated: bool) -> None:
    frame = bomb(1 << 30, stated=stated)
    data = header(compression=1, length=len(frame)) + frame
    envelope = Envelope(JsonCodec())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = []
    for _ in range(3):
        started = time.perf_counter()
        with pytest.raises(DecodeError):
            envelope.open(data)
        took.append(time.perf_counter() - started)
    assert min(took) < 0.01
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # KiB


def test_a_frame_that_lies_about_its_size_is_refused() -> None:
    frame = bytearray(zstandard.ZstdCompressor().compress(b"x" * 100_000))
    assert zstandard.frame_content_size(bytes(frame)) == 100_000
    assert frame[4] >> 6 == 2  # a four-byte size follows the descriptor
    offset = 5 if frame[4] & 0x20 else 6
    frame[offset : offset + 4] = (1000).to_bytes(4, "little")
    with pytest.raises(DecodeError):
        Zstd().decompress(bytes(frame))


def test_two_frames_are_refused() -> None:
    zstd = Zstd()
    frame = zstd.compress(b"a" * 2000)
    with pytest.raises(DecodeError):
        zstd.decompress(frame + zstd.compress(b"b" * 2000))
    with pytest.raises(DecodeError):
        zstd.decompress(frame + b"\0")
    with pytest.raises(DecodeError):
        zstd.decompress(frame[: len(frame) // 2])


@pytest.mark.parametrize(
    "options",
    [{"threshold": 0}, {"threshold": True}, {"max_bytes": 513 << 20}, {"level": 23}, {"level": 1.5}],
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        Envelope(JsonCodec(), EnvelopeOptions(**options))


def test_tags_come_back_and_a_value_says_that_it_is_to_be_looked_at() -> None:
    envelope = Envelope(JsonCodec())
    tags = (("user:7", b"12345678"), ("ü", b"abcdefgh"))
    sealed = envelope.seal({"a": 1}, Stamp(1.0, tags=tags))
    assert envelope.open(sealed) == {"a": 1}
    assert read_tags(sealed) == tags
    assert not is_plain(sealed)
    assert not is_plain(envelope.seal(1, Stamp(1.0, 2.0, kept=True)))
    assert is_plain(envelope.seal(1, NOW))
    assert read_tags(envelope.seal(1, NOW)) == ()


@pytest.mark.parametrize("area", [b"\x01", b"\xff\xffname", b"\x02\x00\xff\xff12345678", b"\x00\x001234567"])
def test_malformed_tags_are_a_decode_error(area: bytes) -> None:
    with pytest.raises(DecodeError):
        read_tags(header(flags=4, extension=len(area), length=1) + area + b"1")


def test_tags_of_more_than_an_extension_holds_are_refused() -> None:
    with pytest.raises(EncodeError):
        Envelope(JsonCodec()).seal(1, Stamp(1.0, tags=tuple((f"{n}" * 5000, b"12345678") for n in range(20))))


def test_a_new_generation_ends_every_value_of_the_old_one() -> None:
    generation = Generation()
    envelope = Envelope(JsonCodec(), generation=generation)
    typed = envelope.typed(int)
    sealed, large = envelope.seal(1, NOW), envelope.seal(LARGE, NOW)
    generation.value = b"12345678"
    for data in (sealed, large):
        with pytest.raises(OutdatedError):
            envelope.open(data)
    with pytest.raises(OutdatedError):
        typed.open(sealed)
    assert typed.open(typed.seal(2, NOW)) == 2
