"""Keys of calls: the same for the same meaning, in every process; refused where there is no meaning."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from aioinfra.cache.keys import MOST_KEY_BYTES, KeyPlan, full_key
from aioinfra.errors import InvalidArgument


class Colour(enum.StrEnum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: Any = None


class Struct(msgspec.Struct):
    a: int


class Model(pydantic.BaseModel):
    a: int


class Pair(NamedTuple):
    a: int


class Keyed:
    def __init__(self, number: int) -> None:
        self.number = number

    def cache_key(self) -> int:
        return self.number


async def three(a: Any, b: Any = 2, *, c: Any = None) -> None: ...


async def two(a: Any, b: Any = 2) -> None: ...


async def one(a: Any) -> None: ...


async def star(*args: Any, **kwargs: Any) -> None: ...


async def mixed(a: Any, /, b: Any, *rest: Any, c: Any = 1, **more: Any) -> None: ...


async def nothing() -> None: ...


def key(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    return KeyPlan(function).text(args, kwargs)


def test_how_an_argument_is_passed_does_not_matter() -> None:
    assert key(two, 1) == key(two, 1, 2) == key(two, a=1) == key(two, b=2, a=1) == key(two, 1, b=2)
    assert key(two, 1) != key(two, 1, 3)
    assert key(three, 1, c=5) == key(three, c=5, a=1) == key(three, 1, 2, c=5)
    assert key(one, 1) == key(one, a=1)
    assert key(one, "x") == key(one, a="x")
    assert key(mixed, 1, b=2) == key(mixed, 1, 2) == key(mixed, 1, 2, c=1)
    assert key(mixed, 1, 2, 3) != key(mixed, 1, 2, c=3)
    assert key(star, 1, x=2, y=3) == key(star, 1, y=3, x=2)
    assert key(star, (1,)) != key(star, 1)
    assert key(nothing) == ""


def test_different_values_have_different_keys() -> None:
    values = [
        *(None, True, False, 1, 0, -1, 1.0, 0.5, "1", "", "None", "True", b"1", b"", 1 + 0j),
        *([1], (1,), {1}, {"1"}, [], (), set(), {}, {"a": 1}, {1: "a"}, [[1], 2], [1, [2]], "[1]"),
        *(date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), timedelta(1), Decimal(1), UUID(int=1)),
        *(Colour.RED, "red", Point(1), Point(1, 2), Struct(1), Model(a=1), Pair(1), Keyed(1), Keyed(2)),
        *(
            int,
            Colour,
            PurePosixPath("/a"),
            "/a",
            "a,b",
            ["a", "b"],
            ["a,b"],
            ["a','b"],
            "x" * 200,
            "x" * 201,
        ),
        *("ключ", "\n", "\\n", "\0", "\udc80", 10**100, "é" * 300),
    ]
    keys = [key(one, value) for value in values] + [
        key(two, "a", "b"),
        key(two, "a,'b", ""),
        key(two, "a','b"),
    ]
    assert len(set(keys)) == len(keys)
    for text in keys:
        assert full_key("n:", "f:" + text)
        assert len(text) <= 96
        assert text.isascii()


def test_equal_collections_have_equal_keys() -> None:
    assert key(one, {"a": 1, "b": 2}) == key(one, {"b": 2, "a": 1})
    assert key(one, {"x", "y", "z"}) == key(one, {"z", "y", "x"})
    assert key(one, frozenset({1})) == key(one, {1})


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int = 0


@pydantic.dataclasses.dataclass(config=pydantic.ConfigDict(extra="allow"))
class OpenData:
    a: int = 0


@dataclass
class Noted:
    a: int
    note: str = field(default="", compare=False)


@dataclass
class Page(list[int]):
    number: int

    def __post_init__(self) -> None:
        self.append(1)


@dataclass
class WithCacheKeyField:
    cache_key: str = "k"


def test_what_a_class_declares_to_hold_is_part_of_the_key() -> None:
    """Two arguments of one key would get one answer."""
    more: Any = Open  # it takes what it does not declare
    values = [
        *(Open(), Open(a=1), more(a=1, b=2), more(a=1, b=3), more(a=1, c=2), more(a=1, b="2")),
        *(OpenData(), OpenData(a=1, b=2), OpenData(a=1, b=3)),  # type: ignore[call-arg]  # extra ones
        *(Noted(1), Noted(1, "x"), Page(1), Page(2), [1], WithCacheKeyField(), WithCacheKeyField("l")),
    ]
    assert len({key(one, value) for value in values}) == len(values)
    assert key(one, more(a=1, b=2, c=3)) == key(one, more(c=3, b=2, a=1))


def test_huge_numbers_are_arguments_like_any_other() -> None:
    huge = 10**5000
    values = [huge, huge + 1, -huge, [huge], range(huge), range(huge + 1), {huge: 1}, 10**4000, [10**4000]]
    assert len({key(one, value) for value in values}) == len(values)
    assert key(two, huge, 1) != key(two, huge, 2)
    assert key(two, [1], huge) == key(two, b=huge, a=[1])


def test_ignored_parameters_do_not_matter() -> None:
    plan = KeyPlan(two, ignore=("b",))
    assert plan.text((1, object()), {}) == plan.text((1,), {"b": 5}) == plan.text((1,), {})
    assert KeyPlan(one, ignore=("a",)).text((object(),), {}) == ""
    with pytest.raises(InvalidArgument, match=r"ignore: .*'nope'"):
        KeyPlan(two, ignore=("nope",))


class Plain:
    pass


@pytest.mark.parametrize(
    "value",
    [object(), Plain(), [Plain()], {"a": {1: Plain()}}, lambda: None, iter([]), Point(1, Plain())],
    ids=lambda value: type(value).__name__,
)
def test_an_argument_without_a_canonical_form_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^b: .* has no canonical form .*cache_key\(\)") as caught:
        key(two, 1, value)
    assert "0x" not in str(caught.value)


def test_a_cyclic_argument_is_refused() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with pytest.raises(InvalidArgument, match=r"^a: "):
        key(one, cyclic)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (two, (), {}),
        (two, (1, 2, 3), {}),
        (two, (1,), {"a": 1}),
        (two, (1,), {"z": 1}),
        (three, (1, 2, 3), {}),
    ],
)
def test_wrong_arguments_raise_what_the_call_would(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError):
        key(function, *args, **kwargs)


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from test_cache_keys import *
print(key(one, {"b", "a", "c", 1, None, frozenset({"x", "y"})}), key(one, {"z": {1, 2}, "a": [Colour.RED]}))
print(key(star, "x" * 500, m=Model(a=1), s=Struct(a=1), p=Point(1, {"k", "l"}), when=date(2024, 1, 1)))
"""


def test_keys_are_the_same_in_every_process() -> None:
    here = str(Path(__file__).parent)
    seen = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, here],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(seen) == 1
    assert len(seen.pop().split()) == 3


@pytest.mark.parametrize(
    "bad", ["", None, 5, b"bytes", "\udc80", "x" * (MOST_KEY_BYTES + 1), "é" * MOST_KEY_BYTES]
)
def test_what_is_no_key_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^key: "):
        full_key("n:", bad)


@pytest.mark.parametrize("good", ["a", " ", "\n", "\0", "*", "é" * (MOST_KEY_BYTES // 2), Colour.RED])
def test_every_other_text_is_a_key(good: str) -> None:
    assert full_key("n:", good) == "n:" + str(good)


SCRIPT = """
import enum, sys
from dataclasses import dataclass

from aioinfra import cached


class Colour(enum.Enum):
    RED = 1


@dataclass
class Point:
    x: int


class Gone(Exception):
    pass


@cached(errors=(Gone,))
async def find(colour: Colour, point: Point, kind: type) -> list[Point]:
    return [point]


def main():
    from aioinfra.codec.schema import describe
    from aioinfra.cache.kind import class_name
    print(find.key_for(Colour.RED, Point(1), Point), describe(dict[str, Point]), class_name(Gone))


if __name__ == "__main__":
    main()
"""


def test_a_script_and_who_imports_it_mean_the_same_classes(tmp_path: Path) -> None:
    (tmp_path / "shop_script.py").write_text(SCRIPT)
    programs = (
        ["shop_script.py"],
        ["-m", "shop_script"],
        ["-c", "import shop_script; shop_script.main()"],
    )
    seen = [
        subprocess.run(
            [sys.executable, *program], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout
        for program in programs
    ]
    assert "shop_script.Point(x=1)" in seen[0]
    assert seen == [seen[0]] * 3
