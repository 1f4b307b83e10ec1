"""`python -m benchmarks [NAME ...]`: run benchmarks, print their tables, write their JSON."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks import (
    cache_compression,
    cache_eviction,
    cache_get,
    hot_path,
    jobs_drain,
    jobs_enqueue,
    jobs_pickup,
    jobs_recovery,
    log_path,
    loop_lag,
    web_middleware,
)
from benchmarks.errors import BenchmarkError
from benchmarks.harness import RESULTS, Answer, Bystanders, progress, publish, until_terminated
from benchmarks.plan import Plan
from benchmarks.server import SERVERS, TRANSPORTS, ServerOptions

BENCHMARKS: Final[dict[str, Callable[[Plan], Coroutine[Any, Any, Answer]]]] = {
    "cache_compression": cache_compression.run,
    "cache_eviction": cache_eviction.run,
    "cache_get": cache_get.run,
    "hot_path": hot_path.run,
    "jobs_drain": jobs_drain.run,
    "jobs_enqueue": jobs_enqueue.run,
    "jobs_pickup": jobs_pickup.run,
    "jobs_recovery": jobs_recovery.run,
    "log_path": log_path.run,
    "loop_lag": loop_lag.run,
    "web_middleware": web_middleware.run,
}


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side benchmarks.")
    made.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; default: all"
    )
    made.add_argument("--quick", action="store_true", help="small sizes and few rounds: a look, not a result")
    made.add_argument("--rounds", type=positive, help="rounds of every contestant")
    made.add_argument(
        "--size",
        type=positive,
        help="gets or requests a point, calls or pages a round, jobs a drain, jobs picked up a round",
    )
    made.add_argument(
        "--only", action="append", default=[], metavar="PART", help="contestants with this in their name"
    )
    made.add_argument("--server", choices=SERVERS, default="valkey")
    made.add_argument("--transport", choices=TRANSPORTS, default="tcp")
    made.add_argument("--json", type=Path, default=RESULTS, metavar="DIR", help="where the JSON goes")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; the exit status is 1 when a contestant failed or gave a wrong answer."""
    options = parser().parse_args(arguments)
    names = options.names or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser().error(f"no benchmark is called {', '.join(unknown)}")
    server = ServerOptions(options.server, options.transport)
    plan = Plan(options.quick, options.rounds, options.size, tuple(options.only), server)
    console = Console(width=None if sys.stdout.isatty() else 220)
    for name in names:
        try:
            bystanders = Bystanders()
            answer = asyncio.run(until_terminated(BENCHMARKS[name](plan)))
            answer.header["others_cores"] = round(bystanders.cores(), 2)
            path = publish(answer, options.json, ".quick" if plan.quick else "", console)
        except BenchmarkError as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        except asyncio.CancelledError:
            return 128 + signal.SIGTERM
        progress(f"{name}: written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
