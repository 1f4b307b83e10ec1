"""What a running job may say of itself."""

from __future__ import annotations

from typing import Any

import pytest

from aioinfra.errors import InvalidArgument
from aioinfra.jobs.context import JobContext
from aioinfra.jobs.job import Progress


@pytest.mark.parametrize(
    ("args", "argument"),
    [
        ((10**400,), "done"),
        ((2**63,), "done"),
        ((True,), "done"),
        (("1",), "done"),
        ((1, float("nan")), "total"),
        ((1, -(10**400)), "total"),
        ((1, 1, "\ud800"), "message"),
        ((1, 1, "x" * 1_001), "message"),
    ],
)
async def test_progress_that_cannot_be_stored_is_refused_by_name(args: Any, argument: str) -> None:
    told: list[Progress] = []

    async def sink(job_id: str, progress: Progress) -> None:
        assert job_id == "id"
        told.append(progress)

    context = JobContext("id", "q", "t", 1, 0, 0.0, {}, sink)
    with pytest.raises(InvalidArgument) as refused:
        await context.progress(*args)
    assert refused.value.argument == argument
    assert not told
    await context.progress(2**62, 1e300, "half \U0001f600")
    assert told == [Progress(2**62, 1e300, "half \U0001f600")]
