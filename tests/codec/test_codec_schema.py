"""The fingerprint of an annotation: it changes with the shape, and with nothing else."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest

from aioinfra.codec.schema import describe, fingerprint


@dataclass
class Node:
    name: str
    child: Node | None = None


class Level(enum.Enum):
    LOW = 1


def test_recursive_models_end() -> None:
    assert describe(Node).count("child") == 1


typed_dict: Any = TypedDict  # called, so that both have one name
Whole: Any = typed_dict("M", {"a": int})
Partial: Any = typed_dict("M", {"a": int}, total=False)
With_a: Any = make_dataclass("M", ["a"])
With_b: Any = make_dataclass("M", ["b"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (make_dataclass("M", [("a", int)]), make_dataclass("M", [("a", str)])),
        (make_dataclass("M", [("a", int)]), make_dataclass("M", [("a", int), ("b", int, 0)])),
        (msgspec.defstruct("M", [("a", int)]), msgspec.defstruct("M", [("a", float)])),
        (pydantic.create_model("M", a=(int, ...)), pydantic.create_model("M", a=(int | None, ...))),
        (Whole, Partial),
        (enum.Enum("M", {"A": 1}), enum.Enum("M", {"A": 2})),
        (list[int], list[str]),
        (int, int | None),
        (Literal["a"], Literal["b"]),
        (dict[str, With_a], dict[str, With_b]),
    ],
    ids=[
        "type",
        "new field",
        "struct",
        "pydantic",
        "total",
        "enum",
        "argument",
        "optional",
        "literal",
        "nested",
    ],
)
def test_a_changed_shape_changes_it(before: Any, after: Any) -> None:
    assert fingerprint(before) == fingerprint(before)
    assert fingerprint(before) != fingerprint(after)


def test_metadata_does_not_change_it() -> None:
    assert fingerprint(Annotated[int, "note"]) == fingerprint(int)


def test_it_is_the_same_in_every_process() -> None:
    program = (
        "from typing import *; from dataclasses import make_dataclass\n"
        "from aioinfra.codec.schema import fingerprint\n"
        "M = make_dataclass('M', [('a', set[int]), ('b', Literal['x', 'y'])])\n"
        "T = TypedDict('T', {'a': int, 'b': NotRequired[str], 'c': float})\n"
        "print(fingerprint(dict[str, M | T | None]))\n"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
