"""A comparison as tables and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.compare.comparison import OURS, Comparison, advantage
from benchmarks.harness import Answer, Metric, Spread
from benchmarks.peers.catalogue import ENVIRONMENTS, Row


def leading(answer: Answer) -> Metric:
    """The metric by which contestants are ordered and compared."""
    return next(metric for metric in answer.question.metrics if metric.key == answer.question.ratio_of)


def ordered(answer: Answer, point: str) -> list[str]:
    """The contestants that have figures at a point, the best first."""
    metric = leading(answer)
    medians = {
        name: spread.median
        for name in answer.points[point]
        if (spread := answer.spread(point, name, metric.key)) is not None
    }
    return sorted(medians, key=lambda name: medians[name], reverse=metric.more_is_better)


def as_table(answer: Answer, point: str) -> Table:
    """One point: medians, the leading one with its spread, and how many times better aioinfra was."""
    metrics = answer.question.metrics
    table = Table(
        title=f"{answer.question.title} {point}".strip(), title_justify="left", title_style="bold italic"
    )
    table.add_column("contestant", no_wrap=True)
    for metric in metrics:
        table.add_column(metric.title, justify="right", no_wrap=True)
    table.add_column("aioinfra is times better", justify="right")
    for name in ordered(answer, point):
        spreads = [answer.spread(point, name, metric.key) for metric in metrics]
        cells = [
            cell(metric, spread, metric is leading(answer))
            for metric, spread in zip(metrics, spreads, strict=True)
        ]
        ratio = advantage(answer, point, name)
        table.add_row(
            name, *cells, ratio.text(2) if ratio else "", style="bold green" if name == OURS else None
        )
    return table


def cell(metric: Metric, spread: Spread | None, whole: bool) -> str:
    """The median, with its spread where ``whole``: a table has room for one; the JSON has all."""
    if spread is None:
        return "-"
    return spread.text(metric.digits) if whole else f"{spread.median:,.{metric.digits}f}"


def print_tables(comparison: Comparison, console: Console) -> None:
    """What was compared on what, the tables, and who is missing."""
    top = comparison.header
    lines = [
        f"{top['taken']}; {top['cpu']}; {top['system']}; others used {top['others_cores']} cores meanwhile",
        f"Python {top['python']}; {top['server']}",
        ", ".join(f"{name} {value}" for name, value in top["settings"].items())
        + "; medians [lowest-highest round]; ratios within a round",
    ]
    if comparison.request.quick:
        lines.append("a quick run: it shows that all of it runs, its figures are worth little")
    for line in lines:
        console.print(line, highlight=False, markup=False)
    for answer in comparison.answers:
        for point in answer.points:
            console.print(as_table(answer, point))
    console.print(settings_table(comparison))
    for name, why in comparison.field.failures.items():
        console.print(f"{name}: {why}", style="yellow", highlight=False, markup=False)


def settings_table(comparison: Comparison) -> Table:
    """Every contestant with its versions and setting."""
    table = Table(title="Settings", title_justify="left", title_style="bold italic")
    for title in ("contestant", "versions", "setting", "its documentation"):
        table.add_column(title)
    for row in comparison.rows:
        table.add_row(row.name, versions_text(comparison, row), row.setting, row.source)
    return table


def versions_text(comparison: Comparison, row: Row) -> str:
    found = comparison.field.versions.get(row.name, {})
    return ", ".join(f"{name} {version}" for name, version in found.items())


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything that was measured, every round of it."""
    return {
        "family": comparison.request.family,
        "quick": comparison.request.quick,
        "header": dict(comparison.header),
        "contestants": [
            {
                "name": row.name,
                "requirements": list(ENVIRONMENTS.get(row.environment, ())),
                "versions": comparison.field.versions.get(row.name, {}),
                "setting": row.setting,
                "source": row.source,
                "failure": comparison.field.failures.get(row.name),
            }
            for row in comparison.rows
        ],
        "questions": [answer_json(answer) for answer in comparison.answers],
    }


def answer_json(answer: Answer) -> dict[str, Any]:
    metric = leading(answer)
    return {
        "name": answer.question.name,
        "title": answer.question.title,
        "metric": {"key": metric.key, "title": metric.title},
        "more_is_better": metric.more_is_better,
        "points": {
            point: {
                name: {
                    "rounds": [dict(figures) for figures in answer.points[point][name]],
                    **_spread(answer.spread(point, name, metric.key)),
                    "aioinfra_times_better": _spread(advantage(answer, point, name)) or None,
                }
                for name in ordered(answer, point)
            }
            for point in answer.points
        },
    }


def _spread(spread: Spread | None) -> dict[str, float]:
    return {} if spread is None else {"median": spread.median, "low": spread.low, "high": spread.high}


def write(comparison: Comparison, directory: Path) -> Path:
    """Write the JSON; its path. A quick run's never replaces a full run's."""
    directory.mkdir(parents=True, exist_ok=True)
    suffix = ".quick" if comparison.request.quick else ""
    path = directory / f"bench-{comparison.request.family}{suffix}.json"
    path.write_text(json.dumps(as_json(comparison), indent=1) + "\n", encoding="utf-8")
    return path
