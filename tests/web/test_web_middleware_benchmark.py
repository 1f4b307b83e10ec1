"""The benchmark of the middleware runs, and says when an answer is not what it should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import web_middleware
from benchmarks.errors import WrongAnswerError
from benchmarks.plan import Plan

OWN = ("no middleware", "aioinfra")
"""What needs nothing installed: not the pair."""


async def test_ours_is_measured_beside_the_application_without_middleware(tmp_path: Path) -> None:
    answer = await web_middleware.run(Plan(quick=True, rounds=2, size=60, only=OWN))
    assert set(answer.points) == {web_middleware.EVERY, web_middleware.FIRST}
    for rounds in answer.points.values():
        assert set(rounds) == {"no middleware", "aioinfra", "aioinfra, access line"}
        assert all("cpu_us" in figures for of_one in rounds.values() for figures in of_one)
        assert all("added_us" in figures for figures in rounds["aioinfra"])
    assert json.dumps(answer.header)


async def test_an_application_that_counts_wrongly_is_no_contestant(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(web_middleware.Ours):
        def _counted(self, routes: int, made: int) -> bool:
            return super()._counted(routes, made + 1)

    monkeypatch.setitem(web_middleware.CONTESTANTS, web_middleware.OURS.name, Forgetful)
    with pytest.raises(WrongAnswerError, match="counted requests"):
        await web_middleware.run(Plan(quick=True, rounds=1, size=60, only=OWN))
