"""Each benchmark runs through the real entry point, at sizes that say nothing about speed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Answer, Goal, Metric, Question, Rounds, Spread, interleave
from benchmarks.peers import Peer, values

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


class Running:
    """One benchmark's process."""

    def __init__(self, directory: Path, name: str, *arguments: str) -> None:
        self._name, self._directory = name, directory
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command(directory, name, *arguments), cwd=ROOT, stdout=pipe, stderr=pipe, text=True
        )

    def published(self) -> tuple[str, dict[str, Any]]:
        """The printed text and the JSON, once it has ended."""
        text, errors = self.process.communicate(timeout=55)
        assert self.process.returncode == 0, errors
        path = self._directory / f"{self._name}.quick.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        assert found["header"]["cpu"]
        assert found["header"]["versions"]
        return text, found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """All of them at once: they mostly wait, and nothing is asserted about their speed."""
    directory = tmp_path_factory.mktemp("benchmarks")
    sizes = {
        "cache_get": "200",
        "hot_path": "20",
        "jobs_drain": "50",
        "jobs_pickup": "2",
        "jobs_recovery": "1",
    }
    started = {name: Running(directory, name, "--size", size) for name, size in sizes.items()}
    yield started
    for one in started.values():
        if one.process.poll() is None:
            one.process.terminate()
        one.process.communicate(timeout=30)


def assert_complete(text: str, found: dict[str, Any], contestants: set[str], figures: set[str]) -> None:
    """All contestants are in the table and, at every point, in the JSON with all their figures."""
    for name in contestants:
        assert name in text
    for rounds in found["points"].values():
        assert set(rounds) == contestants
        for of_one in rounds.values():
            assert all(figures <= set(one) for one in of_one["rounds"])


def test_cache_get(running: dict[str, Running]) -> None:
    text, found = running["cache_get"].published()
    lone = found["points"].pop("1 task, taking turns call by call")
    assert set(lone) == {"redis.asyncio", "aioinfra"}
    assert set(found["points"]) == {"1 task", "10 tasks", "100 tasks", "1000 tasks"}
    contestants = {"redis.asyncio", "BlockingConnectionPool(50)", "aioinfra"}
    assert_complete(text, found, contestants, {"rate", "p50_ms", "p99_ms", "cpu_us", "server_us"})


def test_hot_path(running: dict[str, Running]) -> None:
    text, found = running["hot_path"].published()
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


def test_jobs_drain(running: dict[str, Running]) -> None:
    text, found = running["jobs_drain"].published()
    contestants = {
        "arq, best setting",
        "arq, defaults",
        "aioinfra Service worker",
        "aioinfra ArqWorker, arq client",
    }
    assert_complete(text, found, contestants, {"rate", "worker_us", "server_us", "commands"})


def test_jobs_pickup(running: dict[str, Running]) -> None:
    text, found = running["jobs_pickup"].published()
    contestants = {
        "arq, best setting",
        "arq, defaults",
        "aioinfra Service worker",
        "aioinfra ArqWorker, arq client",
    }
    assert_complete(text, found, contestants, {"pickup_p99", "result_p99", "idle_commands"})


def test_jobs_recovery(running: dict[str, Running]) -> None:
    text, found = running["jobs_recovery"].published()
    assert_complete(text, found, {"aioinfra Service worker"}, {"all", "first"})


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
