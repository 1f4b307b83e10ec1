"""What a task is handed is what was given, of the same types, or the enqueue is refused."""

from __future__ import annotations

import collections
import dataclasses
import math
import typing
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from aioinfra import task
from aioinfra.errors import EncodeError, JobFailed
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.payload import JsonCodec, check_restored
from tests.jobs.kit import working


class User(BaseModel):
    name: str


class Admin(User):
    rights: str = "all"


class Level(Enum):
    LOW = 1
    HIGH = "high"


@dataclasses.dataclass
class Upload:
    name: str
    data: bytes


@dataclasses.dataclass
class Counted:
    name: str
    size: int


@dataclasses.dataclass
class Team:
    lead: User
    members: list[User]


@pydantic.dataclasses.dataclass
class Checked:
    data: bytes


class Point(msgspec.Struct):
    x: int


class Pair(NamedTuple):
    left: int
    right: int | str


class Filters(TypedDict, total=False):
    a: int
    b: str


CODEC = JsonCodec()


def roundtrip(annotation: Any, value: Any) -> Any:
    """What a task with one parameter of an annotation is handed. Raises EncodeError."""

    def function(x: Any) -> None: ...

    function.__annotations__["x"] = annotation
    plan = task(name="t")(function).plan()
    payload = CODEC.encode_job("t", (value,), {}, 1, {})
    check_restored((value,), {}, plan)
    [back] = plan.restore(CODEC.decode_job(payload).args, {})[0]
    return back


def strict(value: Any) -> Any:
    """A value with its types at every depth, so that == compares those as well."""
    kind = type(value)
    if isinstance(value, dict):
        return kind, {(type(key), key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return kind, [strict(item) for item in value]
    if isinstance(value, set | frozenset):
        return kind, {(type(item), item) for item in value}
    if dataclasses.is_dataclass(value):
        return kind, [strict(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, BaseModel):
        return kind, strict(dict(value))
    return kind, value


SCALARS = [
    st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(allow_nan=True), st.text(max_size=6),
    st.binary(max_size=6), st.datetimes(), st.datetimes(timezones=st.just(UTC)), st.dates(), st.times(),
    st.timedeltas(), st.uuids(), st.decimals(allow_nan=False), st.sampled_from(Level),
    st.sampled_from(["YWJj", "abcd", "5", "2020-01-01", "P1D", "true", str(uuid.UUID(int=5))]),
]  # fmt: skip
OBJECTS = [
    st.builds(User, name=st.text(max_size=3)),
    st.builds(Admin, name=st.text(max_size=3)),
    st.builds(Upload, name=st.text(max_size=3), data=st.binary(max_size=4)),
    st.builds(Counted, name=st.text(max_size=3), size=st.integers(0, 9)),
    st.builds(Checked, data=st.binary(max_size=4)),
    st.builds(Point, x=st.integers(0, 9)),
    st.builds(Pair, left=st.integers(0, 9), right=st.integers(0, 9)),
    st.fixed_dictionaries({}, optional={"a": st.integers(0, 9), "b": st.text(max_size=3)}),
]
VALUES = st.recursive(
    st.one_of(*SCALARS, *OBJECTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 9)), inner, max_size=3),
        st.frozensets(st.one_of(st.integers(0, 9), st.text(max_size=2), st.binary(max_size=2)), max_size=3),
        st.sets(st.one_of(st.integers(0, 9), st.text(max_size=2)), max_size=3),
    ),
    max_leaves=4,
)
KINDS = [
    type(None), bool, int, float, str, bytes, bytearray, datetime, timedelta, uuid.UUID, Decimal, Level,
    User, Upload, Counted, Checked, Point, Pair, Filters, Team,
]  # fmt: skip


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    holders: Any = list, set, tuple, dict, typing.Union
    more: Any = st.lists(inner, min_size=2, max_size=3).map(tuple)
    keys = st.sampled_from([str, int, uuid.UUID, Level])
    return st.one_of(
        more.map(lambda kinds: holders[4][kinds]),
        more.map(lambda kinds: holders[2][kinds]),
        inner.map(lambda kind: holders[0][kind]),
        inner.map(lambda kind: holders[1][kind]),
        inner.map(lambda kind: holders[2][kind, ...]),
        st.tuples(keys, inner).map(lambda kinds: holders[3][kinds]),
    )


ANNOTATIONS = st.recursive(st.sampled_from(KINDS), containers, max_leaves=4)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(annotation=ANNOTATIONS, data=st.data())
def test_whatever_the_annotation_an_argument_arrives_as_it_was_or_is_refused(
    annotation: Any, data: st.DataObject
) -> None:
    value = data.draw(VALUES | st.from_type(annotation))
    try:
        back = roundtrip(annotation, value)
    except EncodeError:
        event("refused")
        return
    event("arrives")
    if strict(back) != strict(value):  # an int where floats are read is the one exception
        assert strict(_as_floats(back)) == strict(_as_floats(value)), (annotation, value, back)


def _as_floats(value: Any) -> Any:
    if type(value) is int and abs(value) <= 2**63:
        return float(value)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(map(_as_floats, value))
    if isinstance(value, dict):
        return {key: _as_floats(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return type(value)(map(_as_floats, value))
    return value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (User | bytes, b"abc"),
        (User | bytes | None, b"\xff\x00"),
        (tuple[User, bytes], (User(name="a"), b"\xff\xfe>>>???")),
        (dict[str, User | bytes], {"a": b"abc", "b": User(name="q")}),
        (Upload | Counted, Upload("n", b"abc")),
        (Upload | Counted, Counted("n", 3)),
        (bytes | str, b"abc"),
        (bytes | str, "no base64!"),
        (tuple[User, Point], (User(name="a"), Point(1))),
        (tuple[User, Filters], (User(name="a"), {"a": 1})),
        (tuple[User, bytearray], (User(name="a"), bytearray(b"abc"))),
        (str | None, "5"),
        (int | str, "5"),
        (float, 1),
        (list[float], [1, 2.5]),
        (dict[str, Any], {"a": [1, True, None, {"b": 1.0}]}),
        (list, [1, "x"]),
        (dict, {"a": 1}),
        (dict[Level, int], {Level.HIGH: 1}),
        (Mapping[str, int], {"a": 1}),
    ],
)
def test_what_annotations_restore_arrives_equal_and_of_its_type(annotation: Any, value: Any) -> None:
    back = roundtrip(annotation, value)
    assert back == value
    if value != 1:
        assert type(back) is type(value)


def test_an_abstract_annotation_promises_no_kind_of_container() -> None:
    assert roundtrip(Sequence[int], (1, 2)) == [1, 2]
    with pytest.raises(EncodeError):
        roundtrip(Sequence[int], (1, True))


def test_below_any_a_value_arrives_as_json_has_it_and_no_further() -> None:
    assert roundtrip(dict[str, Any], {"a": (1, 2)}) == {"a": [1, 2]}
    assert roundtrip(tuple[User, Any], (User(name="a"), (1,))) == (User(name="a"), [1])
    for annotation, value in ((dict[str, Any], {"a": {1: 2}}), (tuple[bytes | str, Any], ("YWJj", 1))):
        with pytest.raises(EncodeError, match=r"^x: "):
            roundtrip(annotation, value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (bytes | str, "YWJj"),
        (datetime | str, "2020-01-01T00:00:00"),
        (uuid.UUID | str, str(uuid.UUID(int=5))),
        (set[int] | list[int], {1, 2}),
        (list[User], [Admin(name="a")]),
        (User, Admin(name="a")),
        (Team, Team(Admin(name="a"), [])),
        (Team, Team(User(name="a"), [Admin(name="a")])),
        (User | dict[str, str], {"name": "x"}),
        (Checked, Checked(b"abc")),
        (dict[str, int], collections.defaultdict(int, a=1)),
        (Filters, {"a": 1, "unknown": 2}),
        (int, 1.0),
        (list[int], [True]),
        (list[int], (1, 2)),
        (str | Level, Level.HIGH),
        (float, math.nan),
    ],
)
def test_what_would_arrive_as_something_else_is_refused_by_name(annotation: Any, value: Any) -> None:
    with pytest.raises(EncodeError, match=r"^(x|args\[0\]): "):
        roundtrip(annotation, value)


async def test_bytes_beside_a_model_stay_what_they_are_both_ways(
    redis_url: str, client: JobClient, queue: str
) -> None:
    seen: list[Any] = []

    @task(queue=queue)
    async def store(what: tuple[User, bytes], raw: bytes | str) -> User | bytes:
        seen.append((what, raw))
        return what[1]

    async with working(redis_url, store):
        assert await (await store.delay((User(name="a"), b"abc"), b"abc")).result(timeout=5) == b"abc"
    assert seen == [((User(name="a"), b"abc"), b"abc")]
    with pytest.raises(EncodeError, match=r"^raw: "):
        await store.delay((User(name="a"), b"abc"), "YWJj")


async def test_a_result_that_would_be_altered_is_a_failure_that_says_so(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def by_number() -> Any:
        return {1: 2}

    @task(queue=queue)
    async def annotated() -> dict[int, int]:
        return {1: 2}

    @task(queue=queue)
    async def cut() -> User:
        return Admin(name="a")

    async with working(redis_url, by_number, annotated, cut):
        assert await (await annotated.delay()).result(timeout=5) == {1: 2}
        for function, reason in ((by_number, "dict keys"), (cut, "does not restore it")):
            with pytest.raises(JobFailed, match=f"EncodeError: result: .*{reason}"):
                await (await function.delay()).result(timeout=5)
