"""Frames: what is not exactly one intact frame of a bearable size is refused, with a dictionary and without."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from aioinfra.codec.dictionaries import Dictionaries, Dictionary, train
from aioinfra.codec.zstd import Zstd
from aioinfra.errors import DecodeError, InvalidArgument, PayloadTooLarge
from benchmarks.cache_compression import customers

DICTIONARY = train(customers(200), size=4096)
Decompress = Callable[[bytes], bytes]


def compressor(dictionary: Dictionary | None, *, stated: bool = True) -> zstandard.ZstdCompressor:
    data = None if dictionary is None else zstandard.ZstdCompressionDict(dictionary.content)
    return zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=stated, dict_data=data)


@pytest.fixture(params=[None, DICTIONARY], ids=["plain", "dictionary"])
def dictionary(request: pytest.FixtureRequest) -> Dictionary | None:
    found: Dictionary | None = request.param
    return found


@pytest.fixture
def decompress(dictionary: Dictionary | None) -> Decompress:
    if dictionary is None:
        return Zstd().decompress
    known = Dictionaries()
    known.add(dictionary)
    return known.decompress


def bomb(size: int, dictionary: Dictionary | None, *, stated: bool) -> bytes:
    chunks = compressor(dictionary, stated=stated).compressobj(size if stated else -1)
    block = bytes(1 << 20)
    return b"".join(chunks.compress(block) for _ in range(size >> 20)) + chunks.flush()


@pytest.mark.parametrize("stated", [True, False], ids=["states its size", "hides its size"])
def test_a_bomb_is_refused_at_once_and_allocates_nothing(
    decompress: Decompress, dictionary: Dictionary | None, stated: bool
) -> None:
    frame = bomb(1 << 30, dictionary, stated=stated)
    assert len(frame) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = []
    for _ in range(3):
        started = time.perf_counter()
        with pytest.raises(DecodeError):
            decompress(frame)
        took.append(time.perf_counter() - started)
    assert min(took) < 0.01
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # KiB


def test_a_kilobyte_that_says_it_is_a_gigabyte_is_refused(
    decompress: Decompress, dictionary: Dictionary | None
) -> None:
    """Cut to a kilobyte: the stated size alone is enough to refuse it."""
    with pytest.raises(PayloadTooLarge):
        decompress(bomb(1 << 30, dictionary, stated=True)[:1024])


def test_a_frame_that_lies_about_its_size_is_refused(
    decompress: Decompress, dictionary: Dictionary | None
) -> None:
    frame = bytearray(compressor(dictionary).compress(b"x" * 100_000))
    assert zstandard.frame_content_size(bytes(frame)) == 100_000
    at = bytes(frame).index((100_000).to_bytes(4, "little"))
    frame[at : at + 4] = (1000).to_bytes(4, "little")
    assert zstandard.frame_content_size(bytes(frame)) == 1000
    with pytest.raises(DecodeError):
        decompress(bytes(frame))


def test_exactly_one_frame_is_taken(decompress: Decompress, dictionary: Dictionary | None) -> None:
    payload = customers(1, seed=9)[0]
    frame = compressor(dictionary).compress(payload)
    assert decompress(frame) == payload
    for wrong in (frame + frame, frame + b"\0", b"", *(frame[:end] for end in range(len(frame)))):
        with pytest.raises(DecodeError):
            decompress(wrong)


@settings(max_examples=100, deadline=None)
@given(tail=st.binary(max_size=60))
def test_junk_is_a_decode_error(tail: bytes) -> None:
    known = Dictionaries()
    known.add(DICTIONARY)
    start = compressor(DICTIONARY).compress(b"x" * 300)[:9]
    for read in (Zstd().decompress, known.decompress):
        for junk in (tail, b"\x28\xb5\x2f\xfd" + tail, start + tail):
            with pytest.raises(DecodeError):
                read(junk)


def test_every_flipped_bit_is_found_or_changes_nothing(
    decompress: Decompress, dictionary: Dictionary | None
) -> None:
    payload = customers(1, seed=9)[0]
    frame = compressor(dictionary).compress(payload)
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert decompress(bytes(damaged)) == payload
        except DecodeError:
            continue


@pytest.mark.parametrize("level", [-8, 20, True, 1.5])
def test_levels_beyond_the_bounds_are_refused(level: int) -> None:
    with pytest.raises(InvalidArgument, match="level"):
        Zstd(level)
