"""The layering of docs/internals.md, checked on every import, also in functions and under TYPE_CHECKING."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "aioinfra"

GROUND = {"errors", "context", "clock", "redact", "backoff", "codec", "process_default"}
SIBLINGS = {"cache", "jobs", "logs", "metrics", "tracing"}
ALLOWED: dict[str, set[str]] = {
    **{name: GROUND for name in GROUND},
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
    "cli": GROUND | {"config", "connection", "service", "web", "testing"} | SIBLINGS,
    "__init__": GROUND | {"config", "connection", "service"} | SIBLINGS,
    "__main__": {"cli"},
}


def area(module: str) -> str:
    """The part of aioinfra that a dotted module name lies in; '__init__' for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Every aioinfra module that a file imports, with its line."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            if module == "aioinfra":  # `from aioinfra import cache` imports a part, not the package alone
                found += [(node.lineno, f"aioinfra.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, module))
    return [(line, name) for line, name in found if name.split(".")[0] == "aioinfra"]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_layers(path: Path) -> None:
    own = area(".".join(path.relative_to(ROOT).with_suffix("").parts))
    wrong = [
        f"line {line}: {own} imports {name}"
        for line, name in imports_of(path)
        if area(name) not in ALLOWED[own] | {own}
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_adapter_imports_arq() -> None:
    def touches_arq(path: Path) -> bool:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        ] + [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
        return any(name.split(".")[0] == "arq" for name in names)

    assert [str(path.relative_to(PACKAGE)) for path in sources() if touches_arq(path)] == ["jobs/arq.py"]


def test_the_check_itself_sees_hidden_imports(tmp_path: Path) -> None:
    """A layer test that cannot fail is worth nothing: nested and TYPE_CHECKING imports are found."""
    hidden = PACKAGE / "cache" / "hidden.py"
    tree = "def f():\n    from aioinfra.jobs import task\n    from ..logs import setup\n"
    probe = tmp_path / "hidden.py"
    probe.write_text(tree, encoding="utf-8")
    found = []
    for node in ast.walk(ast.parse(tree)):
        if isinstance(node, ast.ImportFrom):
            found.append(node.module)
    assert found == ["aioinfra.jobs", "logs"]
    assert area("aioinfra.jobs.task") not in ALLOWED[area("aioinfra.cache.hidden")]
    assert not hidden.exists()
