"""The layering of docs/internals.md, checked on every import, also in functions and under TYPE_CHECKING."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "aioinfra"

ADAPTER = "aioinfra.jobs.arq"
GROUND = {"errors", "context", "clock", "redact", "backoff", "codec", "process_default", "qualified_name"}
SIBLINGS = {"cache", "jobs", "logs", "metrics", "tracing"}
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(GROUND, GROUND),
    "config": GROUND,
    "connection": GROUND | {"config"},
    "cache": GROUND | {"config", "connection"},
    "jobs": GROUND | {"config", "connection"},
    "logs": GROUND | {"config"},
    "metrics": GROUND | {"config"},
    "tracing": GROUND | {"config"},
    "service": GROUND | {"config", "connection"} | SIBLINGS,
    "testing": GROUND | {"config", "connection", "service"} | SIBLINGS,
    "web": GROUND | {"config", "connection", "service"} | SIBLINGS,
    "cli": GROUND | {"__init__", "config", "connection", "service", "web", "testing"} | SIBLINGS,
    "__init__": GROUND | {"config", "connection", "service"} | SIBLINGS,
    "__main__": {"cli"},
}


def area(module: str) -> str:
    """The part of aioinfra that a dotted name lies in; '__init__' for the package and what it defines itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ALLOWED else "__init__"


def imports_of(source: str, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """Every module that a source imports, wherever the import stands, with its line."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            if module == "aioinfra":  # `from aioinfra import cache` imports a part, not the package alone
                found += [(node.lineno, f"aioinfra.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, module))
    return found


def violations(source: str, module: str) -> list[str]:
    """The imports of a module's source that the layers forbid."""
    package, own = tuple(module.split(".")[:-1]), area(module)
    return [
        f"line {line}: {own} imports {name}"
        for line, name in imports_of(source, package)
        if name.split(".")[0] == "aioinfra" and area(name) not in ALLOWED[own] | {own}
    ]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_layers(path: Path) -> None:
    wrong = violations(path.read_text(encoding="utf-8"), module_of(path))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "from aioinfra.jobs import task",
        "import aioinfra.jobs.task",
        "from aioinfra import jobs",
        "def f():\n    from ..jobs import task",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from aioinfra.service import Service",
    ],
)
def test_a_forbidden_import_is_found_wherever_it_hides(source: str) -> None:
    assert violations(source, "aioinfra.cache.manager")


def test_only_the_adapter_imports_arq() -> None:
    importers = [
        module_of(path)
        for path in sources()
        if any(name.split(".")[0] == "arq" for _, name in imports_of(path.read_text(encoding="utf-8"), ()))
    ]
    assert importers
    assert all(name == ADAPTER or name.startswith(f"{ADAPTER}.") for name in importers), importers


def test_the_package_alone_loads_nothing_heavy() -> None:
    code = "import aioinfra, sys; print([name for name in sys.modules if name.split('.')[0] in %r])"
    heavy = ("pydantic", "pydantic_settings", "psutil", "typer", "rich", "redis", "arq", "structlog")
    done = subprocess.run([sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
