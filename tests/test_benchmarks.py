"""Each benchmark runs through the real entry point, at sizes that say nothing about speed."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import environments
from benchmarks.compare.__main__ import installed
from benchmarks.compare.comparison import Field, advantage, alternate
from benchmarks.environments import Environments, InstallError, complete, fingerprint, interpreter, reason
from benchmarks.errors import BenchmarkError, CommandFailedError
from benchmarks.harness import Answer, Goal, Metric, Question, Rounds, Spread, interleave
from benchmarks.peers import Peer, values
from benchmarks.peers.catalogue import CATALOGUE, ENVIRONMENTS, FAMILIES, OWN, Row, rows_of

ROOT = Path(__file__).resolve().parent.parent


class Liar:
    """A cache contestant that answers every get with the first record."""

    def __init__(self, _url: str) -> None:
        self._values: dict[str, Any] = {}

    async def open(self) -> None: ...

    async def store(self, values: dict[str, Any]) -> None:
        self._values = values

    async def get(self, _key: str) -> Any:
        return next(iter(self._values.values()))

    async def close(self) -> None: ...


def command(directory: Path, *arguments: str) -> list[str]:
    """A quick run of one round."""
    return [
        sys.executable,
        "-m",
        "benchmarks",
        *arguments,
        "--quick",
        "--rounds",
        "1",
        "--json",
        str(directory),
    ]


SIZES = {
    "cache_compression": "50",
    "cache_get": "200",
    "hot_path": "20",
    "jobs_drain": "50",
    "jobs_pickup": "2",
    "jobs_recovery": "1",
    "log_path": "200",
    "loop_lag": "200",
    "web_middleware": "60",
}


def published(directory: Path, name: str, *only: str) -> tuple[str, dict[str, Any]]:
    """The text that a benchmark prints, and its JSON; nothing is asserted about its speed."""
    chosen = [part for one in only for part in ("--only", one)]
    done = subprocess.run(
        command(directory, name, "--size", SIZES[name], *chosen),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((directory / f"{name}.quick.json").read_text(encoding="utf-8"))
    assert found["header"]["cpu"]
    assert found["header"]["versions"]
    return done.stdout, found


def assert_complete(text: str, found: dict[str, Any], contestants: set[str], figures: set[str]) -> None:
    """All contestants are in the table and, at every point, in the JSON with all their figures."""
    for name in contestants:
        assert name in text
    for rounds in found["points"].values():
        assert set(rounds) == contestants
        for of_one in rounds.values():
            assert all(figures <= set(one) for one in of_one["rounds"])


def test_cache_get(tmp_path: Path) -> None:
    text, found = published(tmp_path, "cache_get")
    lone = found["points"].pop("1 task, taking turns call by call")
    assert set(lone) == {"redis.asyncio", "aioinfra"}
    assert set(found["points"]) == {"1 task", "10 tasks", "100 tasks", "1000 tasks"}
    contestants = {"redis.asyncio", "BlockingConnectionPool(50)", "aioinfra"}
    assert_complete(text, found, contestants, {"rate", "p50_ms", "p99_ms", "cpu_us", "server_us"})


def test_cache_compression(tmp_path: Path) -> None:
    text, found = published(tmp_path, "cache_compression")
    sets = found["points"].pop("a set of 10 KB")
    assert all({"set_us", "times_floor"} <= set(one) for rounds in sets.values() for one in rounds["rounds"])
    assert_complete(text, found, {"zstd alone", "aioinfra, trained"}, {"saves", "seal_us", "open_us"})
    assert found["goals"][0]["met"]  # of sizes, which no other process changes


def test_hot_path(tmp_path: Path) -> None:
    text, found = published(tmp_path, "hot_path")
    points = found["points"]
    pages = points.pop("a page of 10,000 series")
    assert set(pages) == {"idle loop", "aioprometheus' page", "aioinfra"}
    assert {name for rounds in points.values() for name in rounds} == {
        "structlog + orjson",
        "aioinfra, redacted",
        "logging",
        "aioinfra",
        "an entry of a dict",
        "aioinfra inc",
        "aioinfra observe",
        "aioprometheus",
    }
    for rounds in points.values():
        found["points"] = {"": rounds}
        assert_complete(text, found, set(rounds), {"cpu_us", "process_us"})
    found["points"] = {"": pages}
    assert_complete(text, found, set(pages), {"gap_ms", "added_ms"})
    assert len(found["goals"]) == 6


def test_jobs_drain(tmp_path: Path) -> None:
    text, found = published(tmp_path, "jobs_drain")
    contestants = {
        "arq, best setting",
        "arq, defaults",
        "aioinfra Service worker",
        "aioinfra ArqWorker, arq client",
    }
    assert_complete(text, found, contestants, {"rate", "worker_us", "server_us", "commands"})


def test_jobs_pickup(tmp_path: Path) -> None:
    text, found = published(tmp_path, "jobs_pickup")
    busy = found["points"].pop("beside a busy neighbour")
    contestants = {"arq, best setting", "aioinfra Service worker", "aioinfra ArqWorker, arq client"}
    assert_complete(
        text, found, contestants | {"arq, defaults"}, {"pickup_p99", "result_p99", "idle_commands"}
    )
    found["points"] = {"": busy}
    assert_complete(text, found, contestants, {"pickup_p99", "result_p99"})


def test_jobs_recovery(tmp_path: Path) -> None:
    text, found = published(tmp_path, "jobs_recovery")
    assert_complete(text, found, {"aioinfra Service worker"}, {"all", "first"})


def test_log_path(tmp_path: Path) -> None:
    text, found = published(tmp_path, "log_path")
    contestants = {"idle loop", "structlog, BytesLogger", "aioinfra"}
    assert_complete(text, found, contestants, {"gap_ms", "added_ms", "written", "dropped"})
    (rounds,) = found["points"].values()
    (figures,) = rounds["aioinfra"]["rounds"]
    assert figures["written"] + figures["dropped"] == int(SIZES["log_path"])


def test_loop_lag(tmp_path: Path) -> None:
    text, found = published(tmp_path, "loop_lag")
    idle = found["points"].pop("a second of an idle loop")
    assert set(idle) == {"watched, idle"}
    debugged = found["points"].pop("a turn of asyncio")
    contestants = {"bare loop", "bare loop again", "watched loop"}
    figures = {"process_us", "added_percent", "beyond_noise_percent"}
    assert set(found["points"]) == {"a turn of uvloop"}
    assert_complete(text, found, contestants, figures)
    found["points"] = {"": debugged}
    assert_complete(text, found, contestants | {"asyncio's debug mode"}, figures)


def test_web_middleware(tmp_path: Path) -> None:
    """Without the pair, which would have to be installed."""
    text, found = published(tmp_path, "web_middleware", "no middleware", "aioinfra")
    measured = {"aioinfra", "aioinfra, access line"}
    assert set(found["points"]) == {"every route in turn", "the first route"}
    for rounds in found["points"].values():
        assert rounds.pop("no middleware")
    assert_complete(text, found, measured, {"cpu_us", "added_us"})


def test_unknown_name_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "cache_gat"), cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "cache_gat" in done.stderr


def test_a_wrong_answer_fails_the_run(tmp_path: Path) -> None:
    """A contestant that is fast because it answers nonsense must not get into a table."""
    code = (
        "import sys; from benchmarks import __main__, cache_get; from benchmarks.peers import Peer\n"
        "cache_get.PEERS = (Peer('liar', 'tests.test_benchmarks:Liar'),)\n"
        f"sys.exit(__main__.main(['cache_get', '--quick', '--json', {str(tmp_path)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 1
    assert "WrongAnswerError" in done.stderr
    assert not list(tmp_path.iterdir())


def test_stored_records_have_the_exact_size() -> None:
    for index, value in enumerate(values.records(1000, 300).values()):
        assert len(json.dumps(value, separators=(",", ":"))) == 300
        assert value["id"] == index


async def test_contestants_take_turns_in_going_first() -> None:
    peers = [Peer(name, "none:None") for name in "abc"]
    order: list[str] = []

    async def measure(peer: Peer) -> dict[str, float]:
        order.append(peer.name)
        return {"rate": 1.0}

    await interleave(peers, 3, measure)
    assert "".join(order) == "abcbcacab"


@pytest.fixture
def answer() -> Answer:
    """Two rounds on a machine that was half as fast in the second."""
    question = Question(
        "example",
        "example",
        (Metric("rate", "rate", more_is_better=True), Metric("seconds", "seconds")),
        ratio_of="rate",
        baseline=("one", "two"),
        goals=(Goal("", "ours", "ratio", at_least=4), Goal("", "ours", "seconds", at_most=1)),
    )
    rounds: Rounds = {
        "one": [{"rate": 100.0, "seconds": 1.0}, {"rate": 40.0, "seconds": 2.0}],
        "two": [{"rate": 80.0, "seconds": 1.0}, {"rate": 50.0, "seconds": 2.0}],
        "ours": [{"rate": 400.0, "seconds": 0.9}, {"rate": 200.0, "seconds": 1.3}],
    }
    return Answer(question, {}, {"": rounds})


def test_ratios_are_taken_within_a_round_against_the_best_baseline(answer: Answer) -> None:
    assert answer.ratio("", "ours") == Spread(4.0, 4.0, 4.0)
    assert answer.ratio("", "two") == Spread(0.9, 0.8, 1.0)


def test_goals_are_judged_by_medians(answer: Answer) -> None:
    verdicts = [(goal.key, goal.met(value)) for goal, value in answer.verdicts()]
    assert verdicts == [("ratio", True), ("seconds", False)]


def adapter_of(row: Row) -> Path:
    return ROOT / "benchmarks" / "peers" / f"{row.factory.partition(':')[0]}.py"


def test_names_are_unique_within_a_family() -> None:
    names = [(row.family, row.name) for row in CATALOGUE]
    assert len(names) == len(set(names))
    assert {row.family for row in CATALOGUE} == set(FAMILIES)
    assert all(any(row.name == "aioinfra" for row in rows_of(family)) for family in FAMILIES)


@pytest.mark.parametrize("row", CATALOGUE, ids=lambda row: f"{row.family}-{row.name}")
def test_a_row_of_the_catalogue_is_sound(row: Row) -> None:
    """Its adapter compiles and has the class, imports no aioinfra unless it is ours, and is in the README."""
    tree = ast.parse(adapter_of(row).read_text(encoding="utf-8"))
    assert row.factory.partition(":")[2] in {one.name for one in tree.body if isinstance(one, ast.ClassDef)}
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    foreign = row.environment != OWN
    assert not (foreign and any(name.split(".")[0] == "aioinfra" for name in imported))
    assert row.environment == OWN or row.environment in ENVIRONMENTS
    json.dumps(dict(row.options))
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    pins = ", ".join(ENVIRONMENTS.get(row.environment, ())) or "-"
    assert f"| {row.name} | {pins} | {row.setting} | {row.source or '-'} |" in readme


def test_requirements_are_pinned_and_used() -> None:
    for name, requirements in ENVIRONMENTS.items():
        assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", one) for one in requirements), name
    assert {row.environment for row in CATALOGUE} - {OWN} == set(ENVIRONMENTS) - {"charts"}


def test_contestants_are_chosen_by_parts_of_their_names() -> None:
    assert [row.name for row in rows_of("jobs", ("SAQ", "taskiq"))] == [
        "aioinfra",
        "saq",
        "taskiq stream",
        "taskiq list",
    ]
    with pytest.raises(LookupError, match="sidekiq"):
        rows_of("jobs", ("sidekiq",))


def test_an_environment_is_complete_only_with_the_same_requirements(tmp_path: Path) -> None:
    mark = fingerprint(("arq==1", "redis==5"))
    assert mark == fingerprint(("redis==5", "arq==1"))
    assert not complete(tmp_path, mark)
    interpreter(tmp_path).parent.mkdir()
    interpreter(tmp_path).touch()
    (tmp_path / "complete").write_text(mark)
    assert complete(tmp_path, mark)
    assert not complete(tmp_path, fingerprint(("arq==2", "redis==5")))


def test_the_installers_reason_names_no_address() -> None:
    output = "Looking in indexes: https://user:secret@index.example/simple\nERROR: none at https://u:p@index.example\n"
    assert reason(output) == "ERROR: none at <address>"


def test_what_cannot_be_installed_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_home: Path, _requirements: tuple[str, ...]) -> None:
        raise InstallError("no wheel for this Python")

    monkeypatch.setattr(environments, "make", fails)
    found = installed(rows_of("jobs", ("saq",)), Environments(tmp_path))
    assert [peer.name for peer in found.peers] == ["aioinfra"]
    assert found.failures == {"saq": "not installed: no wheel for this Python"}


async def test_a_failed_command_costs_one_point_and_a_dead_process_the_rest() -> None:
    found = Field([Peer(name, "none:None") for name in ("fine", "narrow", "dead")])

    async def measure(peer: Peer) -> dict[str, float]:
        if peer.name == "narrow":
            raise CommandFailedError("narrow failed at get: too many connections\nTraceback")
        if peer.name == "dead":
            raise BenchmarkError("dead ended during get")
        return {"rate": 1.0}

    first = await alternate(found, 2, measure, "get at 1000 tasks")
    assert first == {"fine": [{"rate": 1.0}, {"rate": 1.0}]}
    assert [peer.name for peer in found.peers] == ["fine", "narrow"]
    assert found.failures == {
        "narrow": "get at 1000 tasks: failed at get: too many connections",
        "dead": "ended during get",
    }


def test_the_advantage_is_taken_within_a_round() -> None:
    """On a machine that was half as fast in the second round."""
    question = Question("q", "q", (Metric("ms", "ms"),), "ms", ("aioinfra",))
    rounds: Rounds = {
        "aioinfra": [{"ms": 2.0}, {"ms": 4.0}],
        "slow": [{"ms": 6.0}, {"ms": 12.0}],
        "other": [{}, {}],
    }
    answer = Answer(question, {}, {"": rounds})
    assert advantage(answer, "", "slow") == Spread(3.0, 3.0, 3.0)
    assert advantage(answer, "", "other") is None
    assert advantage(answer, "", "aioinfra") is None


def bench(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`aioinfra bench` from a directory of its own, of aioinfra alone, which needs nothing installed."""
    return subprocess.run(
        [sys.executable, "-m", "aioinfra", "bench", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


@pytest.mark.parametrize(
    ("family", "questions"),
    [
        ("jobs", ["enqueue", "drain", "pickup", "result"]),
        ("cache", ["get", "set", "mget"]),
        ("local", ["lookup", "store", "decorated"]),
    ],
)
def test_bench_prints_and_writes_ours(tmp_path: Path, family: str, questions: list[str]) -> None:
    """The adapters' protocol with 20 jobs and 20 gets, by the front door."""
    size = "1" if family == "local" else "20"
    only = "dict" if family == "local" else "aioinfra"
    options = (
        "--quick",
        "--rounds",
        "1",
        "--size",
        size,
        "--only",
        only,
        "--no-charts",
        "--out",
        str(tmp_path),
    )
    done = bench(tmp_path, family, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / f"bench-{family}.quick.json").read_text(encoding="utf-8"))
    assert [question["name"] for question in found["questions"]] == questions
    for question in found["questions"]:
        assert question["title"][:40] in done.stdout
        for bars in question["points"].values():
            assert bars["aioinfra"]["median"] > 0
    assert {one["name"]: one["failure"] for one in found["contestants"]}["aioinfra"] is None
    assert not [path for path in (tmp_path / ".bench").glob("*") if path.is_dir()]


def test_bench_refuses_an_unknown_contestant(tmp_path: Path) -> None:
    done = bench(tmp_path, "jobs", "--only", "sidekiq")
    assert done.returncode == 2
    assert "sidekiq" in done.stderr


def test_bench_without_a_checkout_says_so(tmp_path: Path) -> None:
    """As from a wheel: the package alone."""
    shutil.copytree(ROOT / "aioinfra", tmp_path / "aioinfra", ignore=shutil.ignore_patterns("__pycache__"))
    done = bench(tmp_path, "jobs")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "source checkout" in done.stderr
