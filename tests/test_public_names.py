"""The names that `from aioinfra import ...` gives."""

from __future__ import annotations

import ast
from pathlib import Path

import aioinfra


def test_every_public_name_loads_and_is_listed_once() -> None:
    assert len(set(aioinfra.__all__)) == len(aioinfra.__all__)
    for name in aioinfra.__all__:
        assert getattr(aioinfra, name) is not None
    assert set(aioinfra.__all__) <= set(dir(aioinfra))


def test_checkers_and_the_interpreter_see_the_same_names() -> None:
    tree = ast.parse(Path(aioinfra.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == aioinfra._HOMES
    assert sorted(homes) == sorted(aioinfra.__all__)
