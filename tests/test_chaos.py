"""The long fault runs: what they know of their tests, how they go on, and what they write."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import chaos
from tests.faults.matrix import ROWS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", sorted({test for row in ROWS for test in row.tests}))
def test_every_test_of_the_matrix_exists(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert not function or function in functions


def test_a_run_continues_where_the_last_one_ended_and_starts_anew_with_other_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[chaos.Slice] = []

    def run(wanted: chaos.Slice) -> chaos.Slice:
        ran.append(wanted)
        passed = chaos.Slice(
            wanted.sources, wanted.test, wanted.seeds, passed=5, worst={"late, s": len(ran) / 4}
        )
        failed = chaos.Slice(
            wanted.sources, wanted.test, wanted.seeds, failed=1, replay=["python -m pytest x"]
        )
        return failed if len(ran) == 2 else passed

    page = tmp_path / "page.md"
    known = "| 2 | The server hangs | old | old | 40 | 0 | |"
    page.write_text(f"before\n<!-- chaos: begin -->\nSTALE ROW\n{known}\n<!-- chaos: end -->\nafter\n")
    monkeypatch.setattr(chaos, "run", run)
    monkeypatch.setattr(chaos, "STATE", tmp_path / "state" / "slices.jsonl")
    monkeypatch.setattr(chaos, "TABLE", page)
    monkeypatch.setattr(chaos, "fingerprint", lambda _root: "one")
    arguments = ["--rows", "1", "--seeds", "15", "--slice", "5"]
    assert chaos.main(arguments) == 1
    assert [wanted.seeds for wanted in ran] == ["1-5", "6-10", "11-15"]
    assert "| 1 | The server crashes |" in page.read_text()
    assert "| 11 | 1 |" in page.read_text()
    assert chaos.main(arguments) == 0
    assert [wanted.seeds for wanted in ran[3:]] == ["6-10"]
    text = page.read_text()
    assert "| 15 | 0 | late, s: 1 |" in text, "the worst of all that passed"
    [hangs] = [line for line in text.splitlines() if line.startswith("| 2 |")]
    assert hangs.endswith("| 40 (earlier sources) | 0 |  |"), "once, however often the page is written"
    assert "| 3 | The server hangs before the first connection |" in text
    assert "| not run | - |  |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "STALE ROW" not in text
    monkeypatch.setattr(chaos, "fingerprint", lambda _root: "two")
    assert chaos.main([*arguments, "--minutes", "-1"]) == 0
    assert len(ran) == 4
    assert chaos.main(arguments) == 0
    assert len(ran) == 7


def test_a_slice_counts_what_ran_and_finds_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_seeded(seed, request):\n"
        "    request.node.user_properties.append(('late', seed / 2))\n"
        "    assert seed != 3\n"
    )
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["aioinfra.testing.pytest_plugin"]\n')
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(chaos, "ROOT", tmp_path)
    monkeypatch.setattr(chaos, "STATE", tmp_path / "state" / "slices.jsonl")
    ran = chaos.run(chaos.Slice("x", "test_it.py", "1-5"))
    assert (ran.passed, ran.failed) == (4, 1)
    [command] = ran.replay
    assert command.endswith("--seed 3")
    [kept] = (tmp_path / "state").glob("*.txt")
    assert "assert 3 != 3" in kept.read_text()
    assert ran.worst == {"late": 2.5}
    alone = chaos.run(chaos.Slice("x", "test_it.py", "4-4"))
    assert (alone.passed, alone.worst) == (1, {"late": 2.0})
    assert chaos.run(chaos.Slice("x", "test_gone.py", "1-5")).failed == 1
