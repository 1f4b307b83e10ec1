"""The thread that keeps leases: when it renews, when it stops, and what it survives."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from aioinfra.errors import StoreUnavailable
from aioinfra.jobs.job import Claim
from aioinfra.jobs.lease import LeaseKeeper, LeaseOptions
from tests.jobs.kit import until


class Leases:
    """Notes what is renewed, in which thread; fails and loses on demand."""

    def __init__(self) -> None:
        self.renewed: list[tuple[float, list[str], bool]] = []
        self.threads: set[str] = set()
        self.lost: set[str] = set()
        self.failure: Exception | None = None
        self.opened = 0
        self.closed = 0

    def open(self) -> Leases:
        self.opened += 1
        return self

    def renew(self, claims: Sequence[Claim], lease: float, *, move: bool) -> list[Claim]:
        self.threads.add(threading.current_thread().name)
        if self.failure is not None:
            raise self.failure
        self.renewed.append((time.monotonic(), [claim.job_id for claim in claims], move))
        return [claim for claim in claims if claim.job_id in self.lost]

    def close(self) -> None:
        self.closed += 1


def claim(name: str) -> Claim:
    return Claim("q", name, 0, 1, 0, False, f"token-{name}", b"", 0)


@pytest.fixture
def store() -> Leases:
    return Leases()


@pytest.fixture
def keeper(store: Leases) -> Callable[..., LeaseKeeper]:
    def make(duration: float = 0.5, stall_limit: float = 60.0, **more: Any) -> LeaseKeeper:
        told = {"on_lost": lambda claims: None, "on_error": lambda: None, **more}
        return LeaseKeeper(store.open, LeaseOptions(duration, stall_limit), **told)

    return make


async def test_leases_are_renewed_by_a_thread_before_they_end(
    keeper: Callable[..., LeaseKeeper], store: Leases
) -> None:
    leases = keeper()
    leases.start()
    kept, dropped = claim("kept"), claim("dropped")
    began = time.monotonic()
    leases.hold([kept, dropped])
    leases.drop([dropped])
    await until(lambda: len(store.renewed) >= 6)
    await leases.aclose()
    times = [at for at, _, _ in store.renewed]
    gaps = [later - earlier for earlier, later in zip([began, *times], times, strict=False)]
    assert max(gaps) < 0.45  # a quarter of the lease, and what a busy machine adds
    assert {tuple(names) for _, names, _ in store.renewed} == {("kept",)}
    assert store.threads == {"aioinfra-leases"}
    moves = [at for at, _, move in store.renewed if move]
    assert 1 <= len(moves) < len(times)  # scores move seldom: that wakes every worker
    assert store.closed == store.opened == 1


async def test_a_blocked_loop_keeps_its_leases_until_the_stall_limit(
    keeper: Callable[..., LeaseKeeper], store: Leases, caplog: pytest.LogCaptureFixture
) -> None:
    leases = keeper(stall_limit=1.0)
    leases.start()
    leases.hold([claim("a")])
    began = time.monotonic()
    time.sleep(1.7)  # noqa: ASYNC251 - blocking the loop is the test
    last = store.renewed[-1][0] - began
    assert 0.7 < last < 1.4
    assert "the event loop has not moved for 1 s: 1 leases are no longer renewed" in caplog.text
    leases.beat()
    await until(lambda: store.renewed[-1][0] - began > 1.7)  # it moves again: so do they
    await leases.aclose()


async def test_a_failure_is_told_once_tried_again_soon_and_with_a_new_connection(
    keeper: Callable[..., LeaseKeeper], store: Leases, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[int] = []
    leases = keeper(on_error=lambda: errors.append(1))
    store.failure = StoreUnavailable("gone")
    leases.start()
    leases.hold([claim("a")])
    await until(lambda: len(errors) >= 3)
    store.failure = RuntimeError("a bug of ours")  # not even that ends the thread
    await until(lambda: len(errors) >= 5)
    store.failure = None
    await until(lambda: store.renewed)
    assert caplog.text.count("leases not renewed") == 1
    assert store.opened >= 5
    await leases.aclose()
    assert store.closed == store.opened


async def test_a_lost_claim_is_told_once_and_left_alone(
    keeper: Callable[..., LeaseKeeper], store: Leases
) -> None:
    lost: list[str] = []
    leases = keeper(on_lost=lambda claims: lost.extend(one.job_id for one in claims))
    store.lost = {"b"}
    leases.start()
    leases.hold([claim("a"), claim("b")])
    await until(lambda: len(store.renewed) >= 4)
    await leases.aclose()
    assert lost == ["b"]
    assert store.renewed[-1][1] == ["a"]


async def test_closing_does_not_wait_for_threads_of_others(
    keeper: Callable[..., LeaseKeeper], store: Leases
) -> None:
    """Jobs may have filled the default executor with threads that hang."""
    go_on = threading.Event()
    loop = asyncio.get_running_loop()
    hanging = [loop.run_in_executor(None, go_on.wait) for _ in range(64)]
    leases = keeper()
    leases.start()
    async with asyncio.timeout(1):
        await leases.aclose()
    go_on.set()
    await asyncio.gather(*hanging)
    never_started = keeper()
    await never_started.aclose()
