"""How ends reach the store: batches, bounds, repeats. The store here notes what it is told; the real one's
behaviour is in test_scripts.py and test_outage.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from aioinfra.backoff import Backoff
from aioinfra.errors import InvalidArgument, LifecycleError, StoreDenied, StoreFull, StoreUnavailable
from aioinfra.jobs.finish import Finisher
from aioinfra.jobs.job import Action, Claim, Finish
from aioinfra.jobs.store import FinishStatus, JobStore
from tests.jobs.kit import Recorder


class Notes:
    """Keeps the batches; raises what it is told to, or for a finish named 'bad'."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.batches: list[list[str]] = []
        self.nonces: list[str] = []

    async def finish(self, worker: str, nonce: str, finishes: Sequence[Finish]) -> list[FinishStatus]:
        await asyncio.sleep(0)
        self.nonces.append(nonce)
        if self.failures:
            raise self.failures.pop(0)
        names = [finish.claim.job_id for finish in finishes]
        if "bad" in names:
            raise InvalidArgument("command", "no such thing")
        self.batches.append(names)
        return [FinishStatus.FENCED if name == "fenced" else FinishStatus.RECORDED for name in names]


def end(name: str, size: int = 0) -> Finish:
    claim = Claim("q", name, 0, 1, 0, False, f"token-{name}", b"", 0)
    return Finish(claim, Action.DONE, b"x" * size, 1_000)


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


def finisher(store: Notes, seen: Recorder, settled: list[str] | None = None) -> Finisher:
    def tell(claims: Sequence[Claim]) -> None:
        if settled is not None:
            settled.extend(claim.job_id for claim in claims)

    return Finisher(cast("JobStore", store), seen, tell)


async def test_what_ends_together_leaves_together_within_the_bounds(seen: Recorder) -> None:
    store = Notes()
    ends = finisher(store, seen)
    for number in range(1_200):
        ends.submit(end(str(number)))
    for name in ("large", "larger"):
        ends.submit(end(name, 800_000))
    assert ends.outstanding == 1_202
    assert await ends.flush(5)
    assert [len(batch) for batch in store.batches] == [500, 500, 201, 1]
    assert [name for batch in store.batches for name in batch] == [*map(str, range(1_200)), "large", "larger"]
    assert ends.outstanding == 0
    assert seen.batches == [500, 500, 201, 1]


@pytest.mark.parametrize("failure", [StoreUnavailable("x"), StoreFull("OOM"), StoreDenied("NOAUTH")])
async def test_a_batch_is_repeated_under_its_nonce_until_the_store_has_it(
    seen: Recorder, failure: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioinfra.jobs.finish._RETRY", Backoff(base=0.03, jitter=False))
    store = Notes(failure, failure)
    settled: list[str] = []
    ends = finisher(store, seen, settled)
    told = ends.submit_and_tell(end("a"))
    await asyncio.sleep(0.01)
    assert (ends.troubled, settled) == (True, [])
    ends.submit(end("b"))
    assert await told is FinishStatus.RECORDED
    assert await ends.flush(5)
    assert (ends.troubled, store.batches) == (False, [["a"], ["b"]])
    first, *rest, last = store.nonces
    assert rest == [first, first]
    assert last != first
    assert settled == ["a", "b"]
    assert seen.errors["finish"] == 2
    assert caplog.text.count("cannot record finished jobs") == 1


async def test_one_that_cannot_be_sent_does_not_take_the_others_along(
    seen: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    store = Notes()
    settled: list[str] = []
    ends = finisher(store, seen, settled)
    told = [ends.submit_and_tell(end(name)) for name in ("a", "bad", "fenced", "b")]
    statuses = [await future for future in told]
    assert statuses == [FinishStatus.RECORDED, FinishStatus.LOST, FinishStatus.FENCED, FinishStatus.RECORDED]
    assert settled == ["a", "bad", "fenced", "b"]
    assert "could not be recorded (InvalidArgument)" in caplog.text
    assert "1 finishes refused" in caplog.text


async def test_whoever_waits_for_a_record_may_be_cancelled(seen: Recorder) -> None:
    store = Notes()
    ends = finisher(store, seen)
    told = ends.submit_and_tell(end("a"))
    told.cancel()
    assert await ends.flush(5)
    assert store.batches == [["a"]]


async def test_closing_records_what_it_can_in_its_time_and_tells_the_rest(seen: Recorder) -> None:
    store = Notes(*[StoreUnavailable("x")] * 100)
    ends = finisher(store, seen)
    told = ends.submit_and_tell(end("a"))
    async with asyncio.timeout(2):
        await ends.aclose(0.1)
    assert await told is FinishStatus.LOST
    with pytest.raises(LifecycleError):
        ends.submit(end("b"))
    fresh = finisher(Notes(), seen)
    recorded: Any = fresh.submit_and_tell(end("c"))
    await fresh.aclose(1)
    assert await recorded is FinishStatus.RECORDED
