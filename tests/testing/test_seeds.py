"""Seeds: which run, what a failure says, and that its command replays it. Real pytest runs in a directory."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aioinfra.errors import InvalidArgument
from aioinfra.testing.seeds import parse_seed, parse_seeds, replay_command

ROOT = Path(__file__).resolve().parents[2]

FAILS_WITH_7 = """
import pytest

def test_plain(seed):
    assert seed != 7

@pytest.mark.parametrize("kind", ["a b", "c"])
def test_kinds(kind, seed):
    assert (kind, seed) != ("a b", 7)

@pytest.mark.parametrize("seed", [100])
def test_own(seed):
    assert seed == 100

def test_without():
    pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that has opted in."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\ntestpaths = ['tests']\n")
    (tmp_path / "tests" / "conftest.py").write_text('pytest_plugins = ["aioinfra.testing.pytest_plugin"]\n')
    (tmp_path / "tests" / "test_faults.py").write_text(FAILS_WITH_7)
    return tmp_path


def run(project: Path, *arguments: str) -> str:
    """What pytest said, its exit code in the last line."""
    # Without the plugins that are installed here: they take most of a second to import.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", *arguments]
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    return f"{done.stdout}{done.stderr}\nexit {done.returncode}"


def test_a_few_seeds_run_by_default_and_more_when_asked_for(project: Path) -> None:
    said = run(project, "--collect-only", "-q")
    assert "test_plain[seed1]" in said
    assert "test_plain[seed2]" in said
    assert "seed3" not in said
    assert "test_own[100]" in said
    assert "test_without" in said
    said = run(project, "--collect-only", "-q", "--seeds", "21-23")
    assert re.findall(r"test_plain\[seed(\d+)\]", said) == ["21", "22", "23"]
    assert "test_own[100]" in said
    said = run(project, "--collect-only", "-q", "--seed", "12345")
    assert re.findall(r"test_plain\[seed(\d+)\]", said) == ["12345"]


def test_a_failure_shows_the_command_that_replays_it(project: Path) -> None:
    said = run(project, "--seeds", "8")
    assert said.count("seed 7, replay with") == 2
    commands = re.findall(r"^python -m pytest .*$", said, re.MULTILINE)
    assert commands == [
        "python -m pytest tests/test_faults.py::test_plain --seed 7",
        "python -m pytest 'tests/test_faults.py::test_kinds[seed7-a b]' --seed 7",
    ]
    for command in commands:
        said = run(project, *shlex.split(command)[3:])
        assert "1 failed" in said
        assert "passed" not in said


def test_a_failing_setup_shows_it_too(project: Path) -> None:
    (project / "tests" / "test_faults.py").write_text(
        "import pytest\n@pytest.fixture\ndef broken(seed):\n    assert seed != 2\n"
        "def test_it(broken, seed):\n    pass\n"
    )
    said = run(project)
    assert "python -m pytest tests/test_faults.py::test_it --seed 2" in said
    assert "1 passed, 1 error" in said


def test_a_parallel_run_has_the_same_seeds_and_shows_the_same_command(project: Path) -> None:
    said = run(project, "-p", "xdist", "-n", "2", "--seeds", "8")
    assert "2 failed, 24 passed" in said
    assert set(re.findall(r"^python -m pytest .*$", said, re.MULTILINE)) == {
        "python -m pytest tests/test_faults.py::test_plain --seed 7",
        "python -m pytest 'tests/test_faults.py::test_kinds[seed7-a b]' --seed 7",
    }


def test_a_module_may_opt_in_by_itself(project: Path) -> None:
    (project / "tests" / "conftest.py").unlink()
    module = project / "tests" / "test_faults.py"
    module.write_text(
        'pytest_plugins = ["aioinfra.testing.pytest_plugin"]\ndef test_it(seed):\n    assert seed != 2\n'
    )
    said = run(project)
    [command] = re.findall(r"^python -m pytest .*$", said, re.MULTILINE)
    assert command == (
        "python -m pytest -p aioinfra.testing.pytest_plugin tests/test_faults.py::test_it --seed 2"
    )
    said = run(project, *shlex.split(command)[3:])
    assert "1 failed" in said
    assert "passed" not in said


def test_a_project_s_own_seed_fixture_is_left_alone(project: Path) -> None:
    (project / "tests" / "test_faults.py").write_text(
        "import pytest\n@pytest.fixture\ndef seed():\n    return 'theirs'\n"
        "def test_it(seed):\n    assert seed == 'theirs'\n"
    )
    assert "1 passed" in run(project)


def test_without_opting_in_nothing_is_added(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    assert "unrecognized arguments: --seeds" in run(tmp_path, "--seeds", "3")


@pytest.mark.parametrize(
    "options", [("--seeds", "0"), ("--seeds", "9-3"), ("--seeds", "x"), ("--seed", "-1")]
)
def test_impossible_seeds_are_a_usage_error(project: Path, options: tuple[str, str]) -> None:
    said = run(project, "=".join(options))
    assert said.endswith("exit 4")
    assert options[0] in said


@pytest.mark.parametrize("text", ["", "0", "3-1", "a", "1-", "-5", "1-99999999999"])
def test_what_is_no_choice_of_seeds(text: str) -> None:
    with pytest.raises(InvalidArgument, match="seeds"):
        parse_seeds(text)


def test_seeds_are_read() -> None:
    assert list(parse_seeds("3")) == [1, 2, 3]
    assert list(parse_seeds("7-7")) == [7]
    assert parse_seed("0") == 0
    for text in ("", "-1", "1.5", str(1 << 63)):
        with pytest.raises(InvalidArgument, match="seed"):
            parse_seed(text)


def test_a_command_is_safe_to_paste() -> None:
    assert replay_command("t.py::test_x[$(rm)-seed3]", 3) == (
        "python -m pytest 't.py::test_x[$(rm)-seed3]' --seed 3"
    )
