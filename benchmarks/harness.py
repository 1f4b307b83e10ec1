"""Interleaved rounds, medians, paired ratios, a table and JSON. The method is in README.md."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.errors import BenchmarkError
from benchmarks.peers import Peer

RESULTS: Final = Path(__file__).resolve().parent / "results"

Figures = Mapping[str, float]
Result = TypeVar("Result")
Rounds = dict[str, list[Figures]]


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured figure: its key in a round's figures, how it is printed, whether more of it is better."""

    key: str
    title: str
    digits: int = 0
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Spread:
    """The median over the rounds, and the lowest and highest round."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int) -> str:
        if self.low == self.high:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} [{self.low:,.{digits}f}-{self.high:,.{digits}f}]"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bar that a contestant has to reach at one point; ``key`` is a metric's key or "ratio"."""

    point: str
    contestant: str
    key: str
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    def text(self, value: float) -> str:
        bar = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        verdict = "met" if self.met(value) else "MISSED"
        where = f" at {self.point}" if self.point else ""
        return f"{verdict}: {self.contestant}{where}: {self.key} {value:.4g}, goal {bar}"


@dataclass(frozen=True, slots=True)
class Question:
    """What a benchmark asks.

    Attributes:
        name: of the benchmark and its JSON file.
        title: heading of the table.
        metrics: printed columns.
        ratio_of: key of the metric whose ratio is printed.
        baseline: names of contestants; every round's ratio is to the best of them in the same round.
        goals: bars, judged by medians.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    ratio_of: str
    baseline: tuple[str, ...]
    goals: tuple[Goal, ...] = ()


@dataclass(slots=True)
class Answer:
    """All rounds of all contestants, by point (a point is one setting, for instance the number of tasks)."""

    question: Question
    header: dict[str, Any]
    points: dict[str, Rounds] = field(default_factory=dict)

    def spread(self, point: str, contestant: str, key: str) -> Spread | None:
        """A metric's spread over the rounds; None when this contestant does not have it."""
        rounds = self.points[point].get(contestant, [])
        values = [figures[key] for figures in rounds if key in figures]
        return Spread.of(values) if values else None

    def ratio(self, point: str, contestant: str) -> Spread | None:
        """How many times better than the best baseline of the same round; None without a baseline."""
        rounds, question = self.points[point], self.question
        metric = next(metric for metric in question.metrics if metric.key == question.ratio_of)
        baselines = [rounds[name] for name in question.baseline if name in rounds]
        if not baselines or contestant not in rounds:
            return None
        ratios = []
        for index, figures in enumerate(rounds[contestant]):
            against = [baseline[index][metric.key] for baseline in baselines]
            mine = figures[metric.key]
            ratios.append(mine / max(against) if metric.more_is_better else min(against) / mine)
        return Spread.of(ratios)

    def verdicts(self) -> list[tuple[Goal, float]]:
        """Every goal that was measured, with its median."""
        judged = []
        for goal in self.question.goals:
            if goal.point not in self.points:
                continue
            if goal.key == "ratio":
                spread = self.ratio(goal.point, goal.contestant)
            else:
                spread = self.spread(goal.point, goal.contestant, goal.key)
            if spread is not None:
                judged.append((goal, spread.median))
        return judged


async def interleave(
    peers: Sequence[Peer], rounds: int, measure: Callable[[Peer], Awaitable[Figures]], label: str = ""
) -> Rounds:
    """Measure every contestant once a round, another one going first each round.

    Slow drifts of the machine then hit all of them alike, and ratios can be taken within a round.
    """
    found: Rounds = {peer.name: [] for peer in peers}
    for turn in range(rounds):
        shift = turn % len(peers)
        for peer in [*peers[shift:], *peers[:shift]]:
            progress(f"{label} round {turn + 1}/{rounds}: {peer.name}")
            found[peer.name].append(await measure(peer))
    return found


async def until_terminated(benchmark: Coroutine[Any, Any, Result]) -> Result:
    """Run a benchmark; SIGTERM cancels it, so that it stops its servers and workers."""
    task = asyncio.ensure_future(benchmark)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


class Bystanders:
    """How busy the machine is with what is not ours, from construction to `cores`."""

    def __init__(self) -> None:
        self._begun, self._busy, self._own = time.monotonic(), _busy_seconds(), sum(os.times()[:4])

    def cores(self) -> float:
        """Cores' worth of CPU that others used meanwhile. Counts as ours: this process, and children that ended."""
        elapsed = time.monotonic() - self._begun
        others = _busy_seconds() - self._busy - (sum(os.times()[:4]) - self._own)
        return max(0.0, others / elapsed)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system)


def progress(text: str) -> None:
    print(text.strip(), file=sys.stderr, flush=True)


def header(
    server_version: str, transport: str, versions: Mapping[str, str], **settings: Any
) -> dict[str, Any]:
    """What a reader needs to judge the numbers. Nothing that identifies the machine."""
    return {
        "taken": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": f"{os.cpu_count()} x {processor()}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "server": f"{server_version} over {transport}",
        "versions": dict(sorted(versions.items())),
        "settings": settings,
    }


def processor() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def as_table(answer: Answer, point: str) -> Table:
    """One point's contestants: medians with their spread, and the ratio to the baseline."""
    question = answer.question
    table = Table(title=f"{question.title}{': ' if point else ''}{point}", title_justify="left")
    table.add_column("contestant")
    for metric in question.metrics:
        table.add_column(metric.title, justify="right")
    if question.baseline:
        table.add_column("times better", justify="right")
    for contestant in answer.points[point]:
        cells = []
        for metric in question.metrics:
            spread = answer.spread(point, contestant, metric.key)
            cells.append(spread.text(metric.digits) if spread else "-")
        if question.baseline:
            ratio = answer.ratio(point, contestant)
            cells.append(ratio.text(2) if ratio else "-")
        table.add_row(contestant, *cells)
    return table


def as_text(answer: Answer) -> list[str]:
    """The lines around the tables: what was compared on what, and the verdicts."""
    top = answer.header
    versions = ", ".join(f"{name} {version}" for name, version in top["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in top["settings"].items())
    lines = [
        f"{top['taken']}; {top['cpu']}; {top['system']}; others used {top['others_cores']} cores meanwhile",
        f"Python {top['python']}; {top['server']}; {versions}",
        f"{settings}; medians [lowest-highest round]",
    ]
    if answer.question.baseline:
        best = " and ".join(answer.question.baseline)
        lines.append(f"times better: {answer.question.ratio_of}, in the same round, against {best}")
    return lines


def as_json(answer: Answer) -> dict[str, Any]:
    """Everything that was measured, every round of it."""
    question = answer.question
    return {
        "benchmark": question.name,
        "title": question.title,
        "header": answer.header,
        "baseline": list(question.baseline),
        "ratio_of": question.ratio_of,
        "points": {
            point: {
                name: {
                    "rounds": [dict(figures) for figures in figures_of],
                    "ratio": _plain(answer, point, name),
                }
                for name, figures_of in rounds.items()
            }
            for point, rounds in answer.points.items()
        },
        "goals": [{"text": goal.text(value), "met": goal.met(value)} for goal, value in answer.verdicts()],
    }


def _plain(answer: Answer, point: str, contestant: str) -> dict[str, float] | None:
    ratio = answer.ratio(point, contestant)
    return None if ratio is None else {"median": ratio.median, "low": ratio.low, "high": ratio.high}


def publish(answer: Answer, directory: Path, suffix: str, console: Console) -> Path:
    """Print the tables and the verdicts, write the JSON; its path.

    Raises:
        BenchmarkError: nothing was measured.
    """
    if not answer.points:
        raise BenchmarkError(f"{answer.question.name}: no contestant was measured")
    for line in as_text(answer):
        console.print(line, highlight=False, markup=False)
    for point in answer.points:
        console.print(as_table(answer, point))
    for goal, value in answer.verdicts():
        console.print(goal.text(value), highlight=False, markup=False)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{answer.question.name}{suffix}.json"
    path.write_text(json.dumps(as_json(answer), indent=1) + "\n", encoding="utf-8")
    return path
