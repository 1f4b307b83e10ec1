"""`make chaos`: the fault tests with many seeds, in slices that a later run continues.

    python -m tests.chaos                       20 seeds of every fault
    python -m tests.chaos --rows 1,5 --seeds 100
    python -m tests.chaos --minutes 30          start nothing new after that; say it again to go on

What has passed is remembered in .chaos/, for the sources as they are: a changed line starts anew. So is what pytest
said of a failure. The table goes
to docs/reliability.md, where faults that were not tried keep what earlier sources showed, marked as such; a failure
prints the command that replays it, and the run ends with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.faults.matrix import ROWS, Row

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".chaos" / "slices.jsonl"
TABLE = ROOT / "docs" / "reliability.md"
_BEGIN, _END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
_SLICE_TIMEOUT = 900.0
_NOT_RUN, _EARLIER = "not run", " (earlier sources)"
_COLUMNS = 7


@dataclass(frozen=True)
class Slice:
    """Some seeds of one test, and how they went."""

    sources: str
    test: str
    seeds: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    replay: list[str] = field(default_factory=list)
    worst: dict[str, float] = field(default_factory=dict)
    """The largest of each figure that the tests gave as a user property."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.sources, self.test, self.seeds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what has not passed yet; 1 when anything failed."""
    options = _options().parse_args(arguments)
    rows = [row for row in ROWS if not options.rows or str(row.number) in options.rows.split(",")]
    sources, done = fingerprint(ROOT), {past.key: past for past in remembered()}
    deadline = time.monotonic() + options.minutes * 60
    left = 0
    for wanted in slices(rows, sources, options.seeds, options.slice):
        past = done.get(wanted.key)
        if past is not None and not past.failed and past.passed:
            continue
        if time.monotonic() > deadline:
            left += 1
            continue
        ran = run(wanted)
        done[ran.key] = ran
        remember(ran)
        print(
            f"{ran.test} seeds {ran.seeds}: {ran.passed} passed, {ran.failed} failed, {ran.seconds:.0f} s",
            flush=True,
        )
        for name, figure in ran.worst.items():
            print(f"    {name}: {figure:g} at most", flush=True)
        for command in ran.replay:
            print(f"    replay: {command}", flush=True)
    now = [past for past in done.values() if past.sources == sources]
    write_table(TABLE, now)
    if left:
        print(f"{left} slices are left: run it again to go on")
    return 1 if any(past.failed for past in now) else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds each test runs with")
    parser.add_argument("--slice", type=int, default=5, help="seeds a slice")
    parser.add_argument(
        "--rows", default="", help="numbers of the faults, with commas; all of them by default"
    )
    parser.add_argument("--minutes", type=float, default=120.0, help="start no slice after so many minutes")
    return parser


def slices(rows: Sequence[Row], sources: str, seeds: int, size: int) -> Iterator[Slice]:
    """Every slice, each test's first before any test's second: a short run sees all faults."""
    tests = list(dict.fromkeys(test for row in rows for test in row.tests))
    for first in range(1, seeds + 1, size):
        for test in tests:
            yield Slice(sources, test, f"{first}-{min(first + size - 1, seeds)}")


def fingerprint(root: Path) -> str:
    """Of all Python and Lua sources: results of other ones say nothing about these."""
    digest = hashlib.sha256()
    for path in sorted([*root.glob("aioinfra/**/*"), *root.glob("tests/**/*.py")]):
        if path.suffix in (".py", ".lua"):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def remembered() -> list[Slice]:
    """What earlier runs wrote; a line that was cut off is not there."""
    found = []
    for line in STATE.read_text().splitlines() if STATE.exists() else ():
        try:
            found.append(Slice(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def remember(ran: Slice) -> None:
    """Add a slice to what later runs find."""
    STATE.parent.mkdir(exist_ok=True)
    with STATE.open("a") as file:
        file.write(json.dumps(asdict(ran)) + "\n")


def run(wanted: Slice) -> Slice:
    """One pytest process; whatever it does not report as passed has failed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", wanted.test]
        first, _, last = wanted.seeds.partition("-")
        # One seed by its name: the tests then do all that they do for many.
        command += ["--seed", first] if first == last else ["--seeds", wanted.seeds]
        command += [f"--junitxml={report}", "-o", "junit_logging=no"]
        try:
            ended = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=_SLICE_TIMEOUT, check=False
            )
            output, status = ended.stdout, ended.returncode
        except subprocess.TimeoutExpired:
            output, status = "", -1
        counts, worst = _counts(report), _worst(report)
    failed = max(counts["failures"] + counts["errors"], int(status != 0))
    if failed:
        keep(wanted, output)
    return Slice(
        wanted.sources,
        wanted.test,
        wanted.seeds,
        passed=counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"],
        failed=failed,
        skipped=counts["skipped"],
        seconds=round(time.monotonic() - began, 1),
        replay=re.findall(r"^python -m pytest .*--seed \d+$", output, re.MULTILINE),
        worst=worst,
    )


def keep(failed: Slice, output: str) -> None:
    """What pytest said of a slice that failed, beside the results."""
    STATE.parent.mkdir(exist_ok=True)
    name = re.sub(r"\W+", "-", f"{Path(failed.test).stem} {failed.test.partition('::')[2]} {failed.seeds}")
    (STATE.parent / f"{name[:150]}.txt").write_text(output, encoding="utf-8")


def _counts(report: Path) -> dict[str, int]:
    names = ("tests", "failures", "errors", "skipped")
    if not report.exists():
        return dict.fromkeys(names, 0)
    suites = ET.parse(report).getroot().iter("testsuite")  # noqa: S314 - pytest wrote it just now
    totals = dict.fromkeys(names, 0)
    for suite in suites:
        for name in names:
            totals[name] += int(suite.get(name, 0))
    return totals


def _worst(report: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    if report.exists():
        for given in ET.parse(report).getroot().iter("property"):  # noqa: S314 - pytest wrote it just now
            name, figure = given.get("name", ""), float(given.get("value", ""))
            found[name] = max(figure, found.get(name, figure))
    return found


def write_table(path: Path, done: Sequence[Slice]) -> None:
    """Replace what stands between the two marks of the page; a row without runs keeps its earlier ones."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    table, _, after = rest.partition(_END)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    earlier = {row[0]: row[4:] for row in cells if len(row) == _COLUMNS}
    lines = ["| # | fault | how | what must hold | runs | failed | worst |", "|---|---|---|---|---|---|---|"]
    for row in ROWS:
        told = _told([past for past in done if past.test in row.tests], earlier.get(str(row.number)))
        lines.append(f"| {row.number} | {row.fault} | {row.injection} | {row.promise} | {' | '.join(told)} |")
    path.write_text(f"{before}{_BEGIN}\n" + "\n".join(lines) + f"\n{_END}{after}", encoding="utf-8")


def _told(mine: Sequence[Slice], earlier: Sequence[str] | None) -> Sequence[str]:
    """A row's last cells: how many runs, how many failed, and the figures."""
    runs, failed = sum(past.passed + past.failed for past in mine), sum(past.failed for past in mine)
    if runs:
        names = dict.fromkeys(name for past in mine for name in past.worst)
        worst = {name: max(past.worst.get(name, 0.0) for past in mine) for name in names}
        return str(runs), str(failed), "; ".join(f"{name}: {figure:g}" for name, figure in worst.items())
    if earlier is None or earlier[0] == _NOT_RUN:
        return _NOT_RUN, "-", ""
    return (earlier[0] if earlier[0].endswith(_EARLIER) else earlier[0] + _EARLIER), *earlier[1:]


if __name__ == "__main__":
    sys.exit(main())
