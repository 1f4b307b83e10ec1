"""Trained dictionaries: what they save, that they are known by what they hold, and what is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from aioinfra.codec.dictionaries import (
    LEAST_SAMPLES,
    MOST_LIFE,
    MOST_SIZE,
    Dictionaries,
    Dictionary,
    NotTrainable,
    UnknownDictionary,
    train,
)
from aioinfra.codec.envelope import Envelope, EnvelopeOptions
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.layout import Stamp, read_header
from aioinfra.codec.zstd import Zstd
from aioinfra.errors import DecodeError, InvalidArgument, PayloadTooLarge
from benchmarks.cache_compression import customers

SAMPLES = customers(2000)
DICTIONARY = train(SAMPLES)
OTHER = train(customers(400, seed=2), size=8192)
RECORDS: list[Any] = [json.loads(record) for record in customers(500, seed=3)]
MINUTE = Stamp(1000.0, 1060.0)


def envelope(current: Dictionary | None = DICTIONARY, **options: Any) -> Envelope:
    made = Envelope(JsonCodec(), EnvelopeOptions(**options))
    made.dictionaries.use(current)
    return made


def compression_of(sealed: bytes) -> int:
    return read_header(sealed).compression


def test_small_records_are_compressed_far_better_than_by_zstd_alone() -> None:
    held_out = customers(1000, seed=4)
    assert 280 < sum(map(len, held_out)) / len(held_out) < 320
    plain, trained = Zstd(), Dictionaries()
    trained.use(DICTIONARY)
    alone = sum(len(plain.compress(record)) for record in held_out)
    with_dictionary = sum(len(trained.compress(record)) for record in held_out)
    assert alone / with_dictionary >= 2.5
    assert sum(map(len, held_out)) / with_dictionary >= 3.5


def test_a_small_value_is_sealed_with_the_dictionary_and_comes_back() -> None:
    writer, reader = envelope(), envelope(None)
    reader.dictionaries.add(DICTIONARY)
    for record in RECORDS:
        sealed = writer.seal(record, MINUTE)
        assert compression_of(sealed) == 2
        assert reader.open(sealed) == record
    assert writer.figures.plain > 3 * writer.figures.stored
    raw = customers(1, seed=8)[0]
    assert reader.open(writer.seal(raw, MINUTE)) == raw


def test_each_size_has_its_means() -> None:
    made = envelope()
    rows = [RECORDS[0]] * 100
    assert compression_of(made.seal({"id": 1}, MINUTE)) == 0  # too small
    assert compression_of(made.seal(random.Random(1).randbytes(500), MINUTE)) == 0  # would not shrink
    assert compression_of(made.seal(RECORDS[0], MINUTE)) == 2
    assert compression_of(made.seal(rows, MINUTE)) == 1  # large
    assert compression_of(envelope(compress=False).seal(RECORDS[0], MINUTE)) == 0
    assert compression_of(envelope(dictionary_limit=0).seal(RECORDS[0], MINUTE)) == 0
    assert compression_of(envelope(dictionary_threshold=1000).seal(RECORDS[0], MINUTE)) == 0
    assert compression_of(envelope(None).seal(RECORDS[0], MINUTE)) == 0
    assert made.typed(dict[str, Any]).seal(RECORDS[0], MINUTE) == made.seal(RECORDS[0], MINUTE)


@pytest.mark.parametrize("expires", [0.0, 1000.0 + MOST_LIFE + 1], ids=["for good", "for long"])
def test_a_value_that_might_outlive_its_dictionary_uses_none(expires: float) -> None:
    made = envelope()
    assert compression_of(made.seal(RECORDS[0], Stamp(1000.0, expires))) == 0
    assert compression_of(made.seal(RECORDS[:20], Stamp(1000.0, expires))) == 1


def test_an_unknown_dictionary_is_named_and_can_be_added() -> None:
    reader = envelope(OTHER)
    sealed = envelope().seal(RECORDS[0], MINUTE)
    with pytest.raises(UnknownDictionary, match=str(DICTIONARY.id)) as caught:
        reader.open(sealed)
    assert caught.value.id == DICTIONARY.id
    reader.dictionaries.add(DICTIONARY)
    assert reader.open(sealed) == RECORDS[0]


def test_values_of_a_rotated_dictionary_still_open() -> None:
    made = envelope(OTHER)
    old = made.seal(RECORDS[0], MINUTE)
    made.dictionaries.use(DICTIONARY)
    new = made.seal(RECORDS[0], MINUTE)
    assert old != new
    assert made.open(old) == made.open(new) == RECORDS[0]
    made.dictionaries.use(None)
    assert compression_of(made.seal(RECORDS[0], MINUTE)) == 0
    assert made.open(new) == RECORDS[0]


def test_training_again_on_the_same_samples_gives_the_same_id() -> None:
    assert train(SAMPLES) == DICTIONARY
    assert Dictionary(DICTIONARY.content) == DICTIONARY
    assert 1 << 15 <= DICTIONARY.id < 1 << 31
    assert DICTIONARY.id != OTHER.id
    assert len(OTHER.content) <= 8192


def test_every_damage_of_a_dictionary_is_found() -> None:
    content = OTHER.content
    chosen = random.Random(7)
    for at in [*range(300), *(chosen.randrange(len(content)) for _ in range(300))]:
        damaged = bytes([*content[:at], content[at] ^ 1 << chosen.randrange(8), *content[at + 1 :]])
        with pytest.raises(DecodeError):
            Dictionary(damaged)
    for cut in (b"", content[:4], content[:8], content[:-1], content + b"\0"):
        with pytest.raises(DecodeError):
            Dictionary(cut)


def test_a_dictionary_with_a_fitting_id_and_senseless_tables_is_refused() -> None:
    from hashlib import blake2b

    body = bytes(300)
    own = (1 << 15) + int.from_bytes(blake2b(body, digest_size=8).digest(), "little") % (
        (1 << 31) - (1 << 15)
    )
    with pytest.raises(DecodeError, match="malformed"):
        Dictionary(OTHER.content[:4] + own.to_bytes(4, "little") + body)


@pytest.mark.parametrize("content", [bytes(MOST_SIZE + 1), "text", None], ids=["large", "text", "none"])
def test_what_cannot_be_a_dictionary_is_refused(content: Any) -> None:
    with pytest.raises(DecodeError):
        Dictionary(content)


def test_a_dictionary_is_as_secret_as_the_values() -> None:
    assert "example.com" in DICTIONARY.content.decode("latin-1")
    assert "example" not in repr(DICTIONARY)


@pytest.mark.parametrize(
    "samples",
    [[], SAMPLES[: LEAST_SAMPLES - 1], [b""] * 100],
    ids=["none", "few", "empty"],
)
def test_too_little_to_learn_from_is_said(samples: list[bytes]) -> None:
    with pytest.raises(NotTrainable, match=f"{len(samples)} samples"):
        train(samples)


@pytest.mark.parametrize(
    ("samples", "size", "named"),
    [
        (SAMPLES, 1023, "size"),
        (SAMPLES, MOST_SIZE + 1, "size"),
        (SAMPLES, True, "size"),
        (["text"] * 100, 4096, "samples"),
        ([bytes(1 << 20)] * 65, 4096, "samples"),
    ],
)
def test_senseless_arguments_of_training_are_refused(samples: Any, size: int, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        train(samples, size)


def test_the_number_kept_is_bounded_and_the_current_one_stays() -> None:
    known = Dictionaries(most=3)
    known.use(DICTIONARY)
    made = [train(customers(100, seed=seed), size=2048) for seed in range(10, 15)]
    for one in made:
        known.add(one)
    assert len(known) == 3
    assert DICTIONARY.id in known
    assert made[-1].id in known
    assert made[0].id not in known
    frame = known.compress(SAMPLES[0])
    assert known.decompress(frame) == SAMPLES[0]


def test_one_in_use_is_kept_rather_than_an_idle_one() -> None:
    known = Dictionaries(most=3)
    known.use(OTHER)
    frame = known.compress(SAMPLES[0])
    known.use(DICTIONARY)
    for seed in range(10, 13):
        known.add(train(customers(100, seed=seed), size=2048))
    assert known.decompress(frame) == SAMPLES[0]
    assert {one.id for one in known.take_used()} == {OTHER.id}
    assert known.take_used() == []


def test_a_frame_without_a_dictionary_is_not_taken_for_one_with() -> None:
    known = Dictionaries()
    known.use(DICTIONARY)
    with pytest.raises(DecodeError, match="without a dictionary"):
        known.decompress(Zstd().compress(SAMPLES[0]))
    with pytest.raises(DecodeError):
        Zstd().decompress(known.compress(SAMPLES[0]))


def test_nothing_is_to_be_fetched_for_a_frame_that_is_too_large() -> None:
    writer = Dictionaries()
    writer.use(DICTIONARY)
    frame = writer.compress(bytes(5000))
    with pytest.raises(PayloadTooLarge):
        Dictionaries(max_output=4999).decompress(frame)


def test_compressing_without_a_dictionary_is_a_programming_error() -> None:
    with pytest.raises(LookupError):
        Dictionaries().compress(b"x")
