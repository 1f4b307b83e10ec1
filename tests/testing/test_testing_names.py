"""The names that `from aioinfra.testing import ...` gives."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import aioinfra.testing


def test_every_name_loads_and_is_listed_once() -> None:
    names = aioinfra.testing.__all__
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(aioinfra.testing, name) is not None
    assert set(names) <= set(dir(aioinfra.testing))


def test_checkers_and_the_interpreter_see_the_same_names() -> None:
    tree = ast.parse(Path(aioinfra.testing.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == aioinfra.testing._HOMES
    assert sorted(homes) == sorted(aioinfra.testing.__all__)


def test_nothing_is_loaded_before_it_is_used() -> None:
    heavy = ("aioinfra.testing.", "pytest", "hiredis", "psutil")
    code = f"import aioinfra.testing, sys; print([name for name in sys.modules if name.startswith({heavy})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_user_needs_no_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "import aioinfra.testing as kit\n"
        "[getattr(kit, name) for name in kit.__all__]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
