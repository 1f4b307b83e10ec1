"""Which module imports which: the import graph of a distribution, from its source, without running it."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

# CPython 3.11 counts the depth of a syntax tree for all threads together, so that two that parse at once can fail
# with "AST constructor recursion depth mismatch".
_ONE_PARSER = threading.Lock()


@dataclass(frozen=True, slots=True)
class ImportGraph:
    """Imports between a distribution's own modules, and the top-level packages of others that it uses."""

    modules: set[str] = field(default_factory=set)
    edges: set[tuple[str, str]] = field(default_factory=set)
    external: set[str] = field(default_factory=set)

    def read(self, sources: Iterable[tuple[str, Path]]) -> None:
        """Parse source files and add what they import. ``modules`` must be complete before.

        A file that is not valid Python of this version (a template, a Python 2 fixture) adds nothing.
        """
        for module, path in sources:
            try:
                source = path.read_bytes()
                with _ONE_PARSER:
                    tree = ast.parse(source, filename=str(path))
            except (SyntaxError, ValueError):
                continue
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            for target in _imported(tree, package):
                self._add(module, target)

    def _add(self, module: str, target: str) -> None:
        own = _longest_known(target, self.modules)
        if own is None:
            top = target.partition(".")[0]
            if top not in sys.stdlib_module_names:
                self.external.add(top)
        elif own != module:
            self.edges.add((module, own))


def modules_of(located: Iterable[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Dotted name and source of every module among a distribution's files."""
    return [
        (name, real)
        for recorded, real in located
        if recorded.endswith(".py") and (name := _module_name(PurePosixPath(recorded)))
    ]


def _module_name(path: PurePosixPath) -> str | None:
    """``rich/table.py`` is ``rich.table``; what cannot be imported has no name."""
    parts = path.with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) if parts and all(part.isidentifier() for part in parts) else None


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            for alias in node.names:
                yield f"{base}.{alias.name}" if base else alias.name


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Every statement, also nested ones; not the expressions, which are most of a tree."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, block, ())
        if isinstance(node, ast.stmt):
            yield node


def _base(node: ast.ImportFrom, package: str) -> str:
    """The absolute module of a ``from`` import; each dot after the first climbs one package."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    parents = parents[: len(parents) - node.level + 1]
    return ".".join([*parents, node.module] if node.module else parents)


def _longest_known(name: str, modules: set[str]) -> str | None:
    """``rich.table.Table`` is the module ``rich.table``, when that is one of ours."""
    while name:
        if name in modules:
            return name
        name = name.rpartition(".")[0]
    return None
