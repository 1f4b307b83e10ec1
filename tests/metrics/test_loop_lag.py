"""What blocks an event loop is measured and named, whatever loop it is and wherever it runs."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from aioinfra.config import RedisUrl, Settings
from aioinfra.errors import InvalidArgument, LifecycleError
from aioinfra.metrics.exposition import render_now
from aioinfra.metrics.loop_lag import LoopLag, LoopLagOptions
from aioinfra.metrics.registry import MetricsRegistry
from aioinfra.service import Service, ServiceOptions, WorkerSetup

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2-PLANTED"
PATIENCE = 30.0
EACH = LoopLagOptions(log_interval=0)


def sleeping() -> None:
    password = SECRET
    time.sleep(0.2)
    del password


def computing() -> None:
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        pass


def holding_the_interpreter() -> None:
    """One call of C that lets no other thread run until it returns."""
    end = time.monotonic() + 0.2
    count = 10_000_000
    while sum(range(count)) and time.monotonic() < end:
        count *= 2


def blocked(registry: MetricsRegistry) -> dict[str, float]:
    """Blocks by culprit."""
    slots = registry.counter("aioinfra_loop_blocked_total")._slots
    return {values[0]: slot.value for values, slot in slots.items()}


async def until(reached: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.005)


def all_blocked(registry: MetricsRegistry) -> float:
    return sum(blocked(registry).values())


async def until_blocked(registry: MetricsRegistry, wanted: float) -> None:
    await until(lambda: all_blocked(registry) >= wanted)


async def until_named(registry: MetricsRegistry, block: Callable[[], None]) -> None:
    """Block the loop until the watchdog was given the processor in time; at an idle machine, once."""
    culprit = f"{__name__}.{block.__qualname__}"
    for _ in range(50):
        wanted = all_blocked(registry) + 1
        block()
        await until_blocked(registry, wanted)
        if culprit in blocked(registry):
            return
    raise AssertionError(f"{culprit} is not among {blocked(registry)}")


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("block", [sleeping, computing, holding_the_interpreter])
def test_a_blocking_call_of_200_ms_is_measured_and_named(
    block: Callable[[], None], loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = MetricsRegistry()
    lags = registry.histogram("aioinfra_loop_lag_seconds").labels()

    async def main() -> None:
        async with LoopLag(registry, EACH) as watched:
            await until(lambda: sum(lags.counts) >= 2)
            await until_named(registry, block)
            assert watched.last_blocked is not None
            assert watched.last_blocked.ended

    with caplog.at_level(logging.INFO, "aioinfra.loop"):
        run(main(), loop)
    above_100_ms = sum(lags.counts[lags.bounds.index(0.1) + 1 :])
    assert above_100_ms >= 1
    assert lags.total >= 0.15, "200 ms, less the time to the next tick"
    seconds = registry.counter("aioinfra_loop_blocked_seconds_total")
    assert seconds.labels(f"{__name__}.{block.__qualname__}").value >= 0.15
    named = [record for record in caplog.records if block.__qualname__ in record.getMessage()]
    assert {record.levelname for record in named} == {"WARNING"}
    line = named[0].getMessage()
    assert f"{Path(__file__)}:" in line
    assert f" {block.__qualname__} < {Path(__file__)}:" in line, "who called it is named as well"
    assert "run_forever" not in line, "the loop's own frames are not shown"
    assert SECRET not in caplog.text


async def test_the_application_is_named_rather_than_the_library_it_called() -> None:
    registry = MetricsRegistry()

    def in_the_standard_library() -> None:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.2)"], check=True)

    async with LoopLag(registry, EACH) as watched:
        await until_named(registry, in_the_standard_library)
        found = watched.last_blocked
    assert found is not None
    assert "subprocess.py:" in found.stack.frames[0]


async def test_a_block_is_told_of_while_it_goes_on() -> None:
    """A deadlock has no end after which it could be told."""
    told = threading.Event()
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())
            if "still is" in lines[-1]:
                told.set()

    def deadlocked() -> None:
        assert told.wait(PATIENCE)

    logger, listener = logging.getLogger("aioinfra.loop"), Listener()
    logger.addHandler(listener)
    try:
        registry = MetricsRegistry()
        async with LoopLag(registry, EACH) as watched:
            await asyncio.sleep(0)
            deadlocked()
            assert watched.last_blocked is not None
            assert not watched.last_blocked.ended
            await until(lambda: blocked(registry))
    finally:
        logger.removeHandler(listener)
    (line,) = [line for line in lines if "still is" in line]
    assert f"{__name__}.test_a_block_is_told_of_while_it_goes_on.<locals>.deadlocked" in line
    assert sum(value for culprit, value in blocked(registry).items() if "deadlocked" in culprit) == 1


async def test_lines_are_limited_and_every_block_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    registry = MetricsRegistry()

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "aioinfra.loop"]

    with caplog.at_level(logging.INFO, "aioinfra.loop"):
        async with LoopLag(registry, LoopLagOptions(log_interval=3_600)) as watched:
            await asyncio.sleep(0)
            for count in (1, 2, 3):
                sleeping()
                await until_blocked(registry, count)
            watched._said_at = time.monotonic() - 3_600  # an hour later
            sleeping()
            await until(lambda: len(lines()) == 2)
    assert "more since" not in lines()[0]
    more = re.search(r"\((\d+) more since the last line\)", lines()[1])
    assert more is not None
    assert 2 <= int(more[1]) <= all_blocked(registry) - 2, "a busy machine may have added some since"


def test_a_loop_that_is_stopped_is_not_blocked() -> None:
    registry = MetricsRegistry()
    watched = LoopLag(registry, LoopLagOptions(threshold=2.0))

    async def start() -> None:
        watched.start()
        await asyncio.sleep(0.001)

    async def ticks() -> None:
        wanted = sum(registry.histogram("aioinfra_loop_lag_seconds").labels().counts) + 2
        await until(lambda: sum(registry.histogram("aioinfra_loop_lag_seconds").labels().counts) >= wanted)
        await watched.aclose()

    with asyncio.Runner() as runner:
        runner.run(start())
        end = time.monotonic() + PATIENCE
        while watched._beat.not_running is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        runner.run(ticks())
    assert blocked(registry) == {}
    assert registry.histogram("aioinfra_loop_lag_seconds").labels().total < 2.0


async def test_it_stops_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    watched = LoopLag(MetricsRegistry())
    await watched.aclose()  # never started
    watched.start()
    with pytest.raises(LifecycleError, match="LoopLag"):
        watched.start()
    assert "aioinfra-loop-watchdog" in {thread.name for thread in set(threading.enumerate()) - before}
    await watched.aclose()
    await watched.aclose()
    assert "aioinfra-loop-watchdog" not in {thread.name for thread in set(threading.enumerate()) - before}
    async with watched:  # and may be started again
        assert watched.last_blocked is None


def test_the_thread_of_a_loop_that_was_closed_ends_by_itself() -> None:
    watched = LoopLag(MetricsRegistry())

    async def start() -> None:
        watched.start()

    asyncio.run(start())
    assert watched._watchdog is not None
    watched._watchdog._thread.join(PATIENCE)
    assert not watched._watchdog._thread.is_alive()


FORKED = """
import asyncio, os, sys, time
from aioinfra.metrics.loop_lag import LoopLag
from aioinfra.metrics.registry import MetricsRegistry

def blocking():
    time.sleep(0.2)

async def child(inherited):
    await asyncio.wait_for(inherited.aclose(), 20)
    async with LoopLag(MetricsRegistry()) as own:
        for _ in range(50):
            await asyncio.sleep(0.1)
            blocking()
            await asyncio.sleep(0.1)
            if own.last_blocked is not None and own.last_blocked.stack.culprit == "__main__.blocking":
                return
        sys.exit("not named")

async def parent():
    async with LoopLag(MetricsRegistry()) as inherited:
        await asyncio.sleep(0.1)
        pid = os.fork()
        if pid == 0:
            asyncio.run(child(inherited))
            print("named", flush=True)
            os._exit(0)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0

asyncio.run(parent())
"""


def test_a_forked_child_watches_its_own_loop() -> None:
    ignored = ("-W", "ignore::DeprecationWarning")  # from 3.12 on, of a fork beside threads
    done = subprocess.run(
        [sys.executable, *ignored, "-c", FORKED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "named\n"), done.stderr


def service_with(url: str, options: LoopLagOptions | None) -> Service:
    settings = Settings(redis_url=RedisUrl(url))
    return Service(ServiceOptions(settings=settings, configure_logging=False, loop_lag=options))


async def test_a_service_watches_its_loop_while_it_is_open_and_in_its_workers(
    valkey_url: str, prefix: str
) -> None:
    service = service_with(valkey_url, EACH)
    culprit = f"{__name__}.{test_a_service_watches_its_loop_while_it_is_open_and_in_its_workers.__qualname__}"

    @service.task(name="blocks", queue=f"{prefix}queue")
    async def blocks() -> None:
        time.sleep(0.2)  # noqa: ASYNC251 - the mistake that is to be found

    async with service:
        await until_named(service.metrics, sleeping)
        for _ in range(20):
            await blocks.delay()
            worker = service.worker(WorkerSetup(burst=True), handle_signals=False)
            await asyncio.wait_for(worker.async_run(), PATIENCE)
            await worker.close()
            if f"{culprit}.<locals>.blocks" in blocked(service.metrics):
                break
    assert f"{culprit}.<locals>.blocks" in blocked(service.metrics)
    page = render_now(service.metrics).decode()
    assert f'aioinfra_loop_blocked_total{{culprit="{__name__}.sleeping"}}' in page
    assert service.loop_lag is not None
    assert service.loop_lag.last_blocked is not None, "it is still told after the end"


async def test_a_service_can_do_without(valkey_url: str) -> None:
    async with service_with(valkey_url, None) as service:
        assert service.loop_lag is None
        assert "aioinfra-loop-watchdog" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("interval", 0),
        ("interval", True),
        ("threshold", float("nan")),
        ("threshold", -1),
        ("frames", 0),
        ("frames", 2.5),
        ("log_interval", -0.1),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=argument):
        LoopLagOptions(**{argument: value})


def test_the_benchmark_of_its_cost_runs(tmp_path: Path) -> None:
    arguments = ("loop_lag", "--quick", "--rounds", "1", "--size", "500", "--json", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "loop_lag.quick.json").read_text())
    assert len(found["points"]) == 3
    assert len(found["goals"]) == 2
