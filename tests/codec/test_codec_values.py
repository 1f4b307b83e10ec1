"""What goes into a codec comes out equal, or is refused by name: never silently something else."""

from __future__ import annotations

import contextlib
import enum
import math
import struct
import tracemalloc
import warnings
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aioinfra.codec import bounds
from aioinfra.codec.codec import Codec
from aioinfra.codec.envelope import Envelope
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.msgpack import MsgpackCodec
from aioinfra.codec.pickle import SignedPickle
from aioinfra.codec.zstd import Zstd
from aioinfra.errors import DecodeError, EncodeError, PayloadTooLarge

KEY = "a signing key of the tests"
NAIVE = datetime(2024, 1, 2, 3, 4, 5, 6)  # noqa: DTZ001 - naive datetimes are data too


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Address:
    street: str
    since: date | None = None


@dataclass
class User:
    id: int
    address: Address
    tags: set[str] = field(default_factory=set)


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


class Row(TypedDict):
    id: int
    price: Decimal


class Pair(NamedTuple):
    left: int
    right: str


class Account(pydantic.BaseModel):
    id: int
    opened: datetime
    pin: pydantic.SecretBytes | None = None


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    at: datetime
    key: UUID


@dataclass
class Holder:
    account: Account


codecs = pytest.mark.parametrize(
    "codec", [JsonCodec(), MsgpackCodec(), SignedPickle(KEY)], ids=lambda c: c.name
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary(max_size=20)
    | st.dates()
    | st.datetimes()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.booleans(), inner, max_size=4)
    ),
    max_leaves=12,
)


def exactly_equal(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(exactly_equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(exactly_equal, left, right))
    return type(left) is type(right) and bool(left == right)


@codecs
@settings(max_examples=120, deadline=None)
@given(value=values)
def test_any_value_comes_back_equal_or_is_refused(codec: Codec, value: Any) -> None:
    try:
        payload = codec.encode(value)
    except EncodeError:
        return
    assert exactly_equal(codec.decode(payload), value)


@codecs
@settings(max_examples=120, deadline=None)
@given(junk=st.binary(max_size=60))
def test_junk_is_a_decode_error_or_a_plain_value(codec: Codec, junk: bytes) -> None:
    with contextlib.suppress(DecodeError):
        codec.decode(junk)


@codecs
@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 2**63 - 1, 1.5, -0.0, "", "é\n\0", [], {}, {"a": [1, {"b": None}]}],
    ids=repr,
)
def test_plain_values_pass_every_codec(codec: Codec, value: Any) -> None:
    assert exactly_equal(codec.decode(codec.encode(value)), value)


TYPED: list[tuple[Any, Any]] = [
    (User, User(7, Address("Long Road", date(2020, 2, 29)), {"a", "b"})),
    (list[User], [User(1, Address("x"))]),
    (Point, Point(1.5)),
    (Row, Row(id=1, price=Decimal("9.90"))),
    (Pair, Pair(1, "x")),
    (Account, Account(id=1, opened=datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC))),
    (list[Account] | None, [Account(id=1, opened=NAIVE)]),
    (User | Account, Account(id=1, opened=NAIVE)),
    (Strict, Strict(at=datetime(2024, 1, 2, tzinfo=UTC), key=UUID(int=5))),
    (dict[str, Strict], {"a": Strict(at=NAIVE, key=UUID(int=5))}),
    (Holder, Holder(Account(id=1, opened=NAIVE))),
    (datetime, NAIVE),
    (datetime, datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
    (timedelta, timedelta(days=1, microseconds=5)),
    (UUID, UUID(int=12345)),
    (Decimal, Decimal("1.10")),
    (set[int], {1, 2, 3}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, str], (1, "x")),
    (tuple[int, ...], (1, 2, 3)),
    (bytes, b"\0\xff"),
    (dict[int, str], {1: "a"}),
    (Colour, Colour.RED),
    (int | None, None),
    (Any, {"a": 1}),
]


@pytest.mark.parametrize(("annotation", "value"), TYPED, ids=[str(annotation) for annotation, _ in TYPED])
@codecs
def test_an_annotation_restores_the_type(codec: Codec, annotation: Any, value: Any) -> None:
    typed = codec.typed(annotation)
    back = typed.decode(typed.encode(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [1.0, {"a": math.inf}],
        (1, 2),
        {1, 2},
        {1: "a"},
        {"a": (1,)},
        b"bytes",
        NAIVE,
        Decimal(1),
        Colour.RED,
        Address("x"),
        Pair(1, "x"),
        object(),
        "\udc80",
        {1: "a", "1": "b"},
    ],
    ids=lambda value: type(value).__name__,
)
def test_json_refuses_what_it_would_bend(value: Any) -> None:
    with pytest.raises(EncodeError, match=r"^value: json: "):
        JsonCodec().encode(value)


def test_a_nan_inside_a_typed_value_is_refused() -> None:
    with pytest.raises(EncodeError):
        JsonCodec(dict[str, float | None]).encode({"a": math.nan})
    with pytest.raises(EncodeError):
        JsonCodec(Point).encode(Point(math.nan))


def test_a_value_that_does_not_match_its_annotation_is_refused() -> None:
    with pytest.raises(EncodeError):
        JsonCodec(list[int]).encode((1, 2))
    with pytest.raises(EncodeError):
        JsonCodec(User).encode({"id": 1, "address": {"street": "x"}})


@pytest.mark.parametrize("codec", [JsonCodec, MsgpackCodec])
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Account, {"id": 7, "opened": "correct-horse"}),
        (list[Account], [{"id": 7, "opened": datetime(2024, 1, 1, tzinfo=UTC)}]),
        (Account | None, {"id": 7, "opened": datetime(2024, 1, 1, tzinfo=UTC)}),
        (Account, Account.model_construct(id="correct-horse", opened=datetime(2024, 1, 1, tzinfo=UTC))),
        (
            Holder,
            Holder(Account.model_construct(id="correct-horse", opened=datetime(2024, 1, 1, tzinfo=UTC))),
        ),
    ],
    ids=["dict", "dicts", "optional", "unvalidated", "inside"],
)
def test_what_is_no_model_of_the_annotation_is_refused_and_nothing_shows_it(
    codec: type[JsonCodec | MsgpackCodec], annotation: Any, value: Any
) -> None:
    """A warning would be on stderr, with the value in it."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(EncodeError) as caught:
            codec(annotation).encode(value)
    assert not shown
    assert "correct-horse" not in str(caught.value)


def test_big_integers() -> None:
    assert JsonCodec().decode(JsonCodec().encode(2**70)) == 2**70
    with pytest.raises(EncodeError, match="64 bits"):
        MsgpackCodec().encode(2**70)


def test_msgpack_keeps_nan_bytes_and_integer_keys() -> None:
    codec = MsgpackCodec()
    back = codec.decode(codec.encode({1: b"x", "nan": [math.nan]}))
    assert back[1] == b"x"
    assert math.isnan(back["nan"][0])
    with pytest.raises(EncodeError):
        codec.encode([math.nan, (1,)])


@pytest.mark.parametrize("codec", [JsonCodec(), MsgpackCodec()], ids=lambda c: c.name)
def test_deep_nesting_and_cycles_are_refused(codec: Codec) -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    cyclic: dict[str, Any] = {}
    cyclic["self"] = cyclic
    for value in (deep, cyclic):
        with pytest.raises(EncodeError, match="nested too deeply"):
            codec.encode(value)


def test_deeply_nested_bytes_are_a_decode_error() -> None:
    with pytest.raises(DecodeError):
        JsonCodec().decode(b"[" * 100_000)
    with pytest.raises(DecodeError):
        MsgpackCodec().decode(b"\x91" * 100_000)


def test_a_changed_model_is_a_decode_error() -> None:
    @dataclass
    class Before:
        name: str

    @dataclass
    class After:
        name: int

    with pytest.raises(DecodeError):
        JsonCodec(After).decode(JsonCodec(Before).encode(Before("x")))


def test_messages_hold_no_part_of_the_value() -> None:
    secret = "correct-horse"

    class Account2(pydantic.BaseModel):
        pin: int

    for attempt in (
        lambda: JsonCodec().encode({"password": {secret}}),
        lambda: JsonCodec(Account2).decode(b'{"pin": "correct-horse"}'),
        lambda: JsonCodec(Colour).decode(b'"correct-horse"'),
        lambda: SignedPickle(KEY).encode(lambda: secret),
    ):
        with pytest.raises((EncodeError, DecodeError)) as caught:
            attempt()
        assert secret not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("codec", "bomb"),
    [
        (JsonCodec(), b"[" + b"[]," * 5_000_000 + b"1]"),
        (JsonCodec(list[list[int]]), b"[" + b"[]," * 5_000_000 + b"[]]"),
        (JsonCodec(), b"[" + b'"ab",' * 5_000_000 + b"1]"),
        (MsgpackCodec(), b"\xdd" + (5_000_000).to_bytes(4, "big") + b"\x90" * 5_000_000),
        (MsgpackCodec(), b"\xdd" + (5_000_000).to_bytes(4, "big") + b"\xa3xyz" * 5_000_000),
        (MsgpackCodec(), b"\xdd" + (12_000_000).to_bytes(4, "big") + b"\xc0" * 12_000_000),
        (MsgpackCodec(), (b"\xdc\x03\xe8" + b"\xcd\x04\x04" * 1_000) * 5_000),
        (JsonCodec(), b"{" + b'"key":1,' * 2_100_000 + b'"":1}'),
    ],
)
def test_a_small_frame_of_millions_of_values_is_refused_before_it_is_decoded(
    codec: Codec, bomb: bytes
) -> None:
    frame = Zstd().compress(bomb)
    assert len(frame) < 10_000
    header = struct.pack("<BBBBHHQddII", 0xC1, 2, codec.id, 1, 0, 0, 0, 1.0, 0.0, 0, len(frame))
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge, match="4000000"):
        Envelope(codec).open(header + frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * len(bomb)


def test_what_could_not_be_read_for_its_number_of_values_is_not_written() -> None:
    for codec in (JsonCodec(), MsgpackCodec()):
        with pytest.raises(EncodeError, match="4000000"):
            codec.encode([[]] * 5_000_000)
        assert codec.decode(codec.encode(["a,[{" * 1_100_000])) == ["a,[{" * 1_100_000]


MSGPACK_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.integers(-40, 300), st.floats(),
        st.sampled_from([0, 1, 31, 32, 255, 256, 65_536]).map("x".__mul__),
        st.sampled_from([0, 1, 31, 32, 255, 256, 65_536]).map(b"x".__mul__),
        st.sampled_from([1, 2, 4, 8, 16, 32, 300]).map(lambda size: msgspec.msgpack.Ext(5, b"x" * size)),
        st.datetimes(timezones=st.just(UTC)),
    ),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.integers(0, 300), inner, max_size=20),
    max_leaves=40,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=MSGPACK_VALUES)
def test_every_value_of_a_msgpack_payload_is_counted_once(value: Any) -> None:
    values, payload = _count(value), msgspec.msgpack.encode(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "_MOST_MEMORY", 0)
        patch.setattr(bounds, "MOST_VALUES", values)
        bounds.check_msgpack_values(payload)
        patch.setattr(bounds, "MOST_VALUES", values - 1)
        if len(payload) > values - 1:
            with pytest.raises(PayloadTooLarge):
                bounds.check_msgpack_values(payload)


def _count(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(_count, value.values()))
    return 1 + sum(map(_count, value)) if isinstance(value, list) else 1


@settings(deadline=None)
@given(payload=st.binary(max_size=200))
def test_counting_the_values_of_junk_ends(payload: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "_MOST_MEMORY", 0)
        patch.setattr(bounds, "MOST_VALUES", 50)
        with contextlib.suppress(PayloadTooLarge):
            bounds.check_msgpack_values(payload)
