"""``aioinfra worker --processes``: a supervisor that runs the same command without the supervisor's options."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from aioinfra.jobs.supervisor import Supervisor, SupervisorOptions
from aioinfra.logs.setup import current_logging, setup_logging

_OWN = frozenset({"target", "processes", "max_jobs_per_child", "max_rss"})


def supervise(options: Mapping[str, Any]) -> int:
    """Run ``aioinfra worker`` with its other options in several processes until told to stop; the exit status.

    SIGTERM and SIGINT stop, SIGHUP replaces the workers one after the other. The application is not imported
    here: a restart finds its newest code.
    """
    if current_logging() is None:
        setup_logging()
    rss = options["max_rss"]
    wanted = SupervisorOptions(
        options["processes"] or 1,
        options["max_jobs_per_child"],
        None if rss is None else rss << 20,
        options["grace"],
        options["burst"],
    )
    return asyncio.run(_run([sys.executable, "-m", "aioinfra", "worker", *_words(options)], wanted))


def _words(options: Mapping[str, Any]) -> list[str]:
    """The command line of one worker."""
    words: list[str] = [options["target"]]
    for name, value in options.items():
        if name in _OWN or value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return words


async def _run(command: Sequence[str], options: SupervisorOptions) -> int:
    supervisor = Supervisor(command, options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.restart)
    return await supervisor.run()
