"""Bar charts from a comparison's JSON: `python -m benchmarks.compare.draw FILE.json`. Runs where matplotlib is.

One PNG a question beside the JSON, a panel a point. Prints the paths, one a line.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl  # type: ignore[import-not-found]  # in the environment of the charts only
from matplotlib.figure import Figure  # type: ignore[import-not-found]  # as above

OURS: Final = "aioinfra"
OURS_COLOUR: Final = "#0b7a75"
OTHER_COLOUR: Final = "#b9c2cc"
INK: Final = "#22272e"
FAINT: Final = "#6b7580"
LOGARITHMIC: Final = 25  # times between the shortest and the longest bar
COLUMNS: Final = 2
LETTERS: Final = 17.5  # of the footer in an inch
STYLE: Final = {
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": INK,
}


def number(value: float) -> str:
    """Three digits that matter, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value >= 1 else f"{value:.2g}"


def label_of(name: str, contestants: Mapping[str, Any]) -> str:
    """The contestant and the version of its first package; a major version in the name becomes that."""
    versions = list(contestants[name]["versions"].values())
    if not versions:
        return name
    told, times = re.subn(rf"(?<= ){re.escape(versions[0].partition('.')[0])}\b", versions[0], name)
    return told if times else f"{name}  {versions[0]}"


def panel(axes: Any, title: str, bars: Mapping[str, Any], document: Mapping[str, Any], question: Any) -> None:
    """One point's bars, the best on top, with their figures and a whisker from the lowest to the highest round."""
    contestants = {one["name"]: one for one in document["contestants"]}
    names = list(bars)
    medians = [bars[name]["median"] for name in names]
    lows = [max(0.0, bars[name]["median"] - bars[name]["low"]) for name in names]
    highs = [max(0.0, bars[name]["high"] - bars[name]["median"]) for name in names]
    places = list(range(len(names)))
    colours = [OURS_COLOUR if name.startswith(OURS) else OTHER_COLOUR for name in names]
    axes.barh(places, medians, color=colours, height=0.72, zorder=2)
    axes.errorbar(
        medians, places, xerr=[lows, highs], fmt="none", ecolor=INK, elinewidth=0.9, capsize=2, zorder=3
    )
    scale(axes, medians, [bars[name]["high"] for name in names])
    for place, name in zip(places, names, strict=True):
        figure = number(bars[name]["median"])
        axes.annotate(
            figure,
            (bars[name]["high"], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            fontweight="bold" if name == OURS else "normal",
        )
    axes.set_yticks(places, [label_of(name, contestants) for name in names], fontsize=9)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name.startswith(OURS) else "normal")
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    better = "more is better" if question["more_is_better"] else "less is better"
    log = ", logarithmic" if axes.get_xscale() == "log" else ""
    axes.set_xlabel(f"{question['metric']['title']} ({better}{log})", fontsize=8.5)
    axes.grid(axis="x", color="#e4e8ec", linewidth=0.8, zorder=0)
    axes.tick_params(axis="both", which="both", length=0, labelsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def scale(axes: Any, medians: list[float], highs: list[float]) -> None:
    """A logarithmic axis where a linear one would hide the small ones; room for the figures at the bars."""
    if min(medians) > 0 and max(medians) / min(medians) > LOGARITHMIC:
        axes.set_xscale("log")
        low, high = min(medians) / 2, max(highs)
        axes.set_xlim(low, high * (high / low) ** 0.14)
        axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        return
    axes.set_xlim(0, max(highs) * 1.16)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))


def footer(document: Mapping[str, Any], width: int) -> str:
    """Machine, server, versions and sizes; who is missing; what the figures are worth."""
    top = document["header"]
    settings = ", ".join(f"{name} {value}" for name, value in top["settings"].items())
    machine = f"{top['cpu']}, {top['system']}, Python {top['python']}, {top['server']}."
    what = f"{top['taken']}; {settings}. Bars: medians; whiskers: lowest and highest round."
    parts = [f"{machine} {what}"]
    missing = [f"{one['name']} ({one['failure']})" for one in document["contestants"] if one["failure"]]
    if missing:
        parts.append("Without figures: " + "; ".join(missing) + ".")
    if document["quick"]:
        parts.append(
            "QUICK RUN: small sizes, few rounds. It shows that all of it runs, not how fast anything is."
        )
    return "\n".join(line for part in parts for line in textwrap.wrap(part, width))


def chart(document: Mapping[str, Any], question: Mapping[str, Any]) -> Any:
    """A question's figure; None when nobody has figures."""
    points = {point: bars for point, bars in question["points"].items() if bars}
    if not points:
        return None
    columns = min(COLUMNS, len(points))
    rows = -(-len(points) // columns)
    most = max(len(bars) for bars in points.values())
    inches = 11.5 if columns == 1 else 14.0
    text = footer(document, int(inches * LETTERS))
    lines = text.count("\n") + 1
    body, head, foot = rows * (0.34 * most + 0.95), 0.62, 0.25 + 0.17 * lines
    height = head + body + foot
    figure = Figure(figsize=(inches, height), dpi=130, layout="constrained")
    figure.get_layout_engine().set(rect=(0.008, foot / height, 0.984, body / height), hspace=0.06)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (point, bars) in zip(grid, points.items(), strict=False):
        panel(axes, point, bars, document, question)
    for axes in grid[len(points) :]:
        axes.set_visible(False)
    left = 0.014
    figure.text(left, 1 - 0.2 / height, question["title"], fontsize=14, fontweight="bold", va="top")
    figure.text(left, 0.1 / height, text, fontsize=7.5, color=FAINT, va="bottom", linespacing=1.35)
    return figure


def main() -> None:
    source = Path(sys.argv[1])
    document = json.loads(source.read_text(encoding="utf-8"))
    for question in document["questions"]:
        with mpl.rc_context(STYLE):
            figure = chart(document, question)
            if figure is None:
                continue
            path = source.with_name(source.name.removesuffix(".json") + f".{question['name']}.png")
            figure.savefig(path, facecolor="white")
        print(path)


if __name__ == "__main__":
    main()
