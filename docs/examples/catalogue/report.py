"""A report is one HTML file that opens anywhere: no script, no link to another host."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from catalogue import pages
from catalogue.distributions import File, Package
from catalogue.imports import ImportGraph

DRAWN = 28  # modules in the picture of the import graph: those with the most imports, in or out
RADIUS = 150.0
LABEL = 26  # characters of a module's name that fit beside the circle


@dataclass(frozen=True, slots=True)
class Origin:
    """What asked for a report: shown in it, so that a file can be followed back to its log lines."""

    report_id: str
    request_id: str
    worker: int
    written: str


@dataclass(frozen=True, slots=True)
class Node:
    """A module on the circle; ``turn`` is its angle in degrees."""

    module: str
    label: str
    x: float
    y: float
    degree: int
    turn: float


@dataclass(frozen=True, slots=True)
class Drawing:
    nodes: list[Node]
    curves: list[str]


def render(package: Package, files: list[File], graph: ImportGraph, origin: Origin) -> str:
    """The report as well-formed HTML; every value in it is escaped by the template."""
    by_type = Counter[str]()
    for file in files:
        by_type[PurePosixPath(file.path).suffix or "other"] += file.size
    return (
        pages.environment()
        .get_template("report.html")
        .render(
            package=package,
            graph=graph,
            origin=origin,
            by_type=by_type.most_common(6),
            drawing=draw(graph),
        )
    )


def write(path: Path, html: str) -> None:
    """Store a report so that it is either there and complete, or not there."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(path)


def draw(graph: ImportGraph) -> Drawing:
    """Lay the busiest modules out on a circle, with a curve through its middle for each import."""
    degree = Counter(module for edge in graph.edges for module in edge)
    chosen = sorted(module for module, _ in degree.most_common(DRAWN))
    places: dict[str, Node] = {}
    for index, module in enumerate(chosen):
        angle = 2 * math.pi * index / len(chosen)
        x, y = RADIUS * math.cos(angle), RADIUS * math.sin(angle)
        label = module if len(module) <= LABEL else f"…{module[1 - LABEL :]}"
        turn = round(math.degrees(angle), 1)
        places[module] = Node(module, label, round(x, 1), round(y, 1), degree[module], turn)
    curves = [
        f"M{a.x} {a.y}Q0 0 {b.x} {b.y}"
        for a, b in sorted(
            ((places[a], places[b]) for a, b in graph.edges if a in places and b in places),
            key=lambda pair: (pair[0].module, pair[1].module),
        )
    ]
    return Drawing(list(places.values()), curves)
