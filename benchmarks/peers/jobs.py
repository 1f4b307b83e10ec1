"""The job contestants that several benchmarks share."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.peers import Peer

ARQ: Final = "benchmarks.peers.arq_stock:ArqStock"
SERVICE: Final = "benchmarks.peers.aioinfra_service:ServiceJobs"
DROP_IN: Final = "benchmarks.peers.aioinfra_arq:DropIn"
PACKAGES: Final = ("arq", "redis", "hiredis")


def arq_default(share: float = 1.0) -> Peer:
    """arq's own defaults: 10 jobs at a time, a poll every 0.5 s."""
    return Peer("arq, defaults", ARQ, packages=PACKAGES, share=share)


def arq_best(**settings: Any) -> Peer:
    """arq at its best setting here: 100 jobs at a time, a poll every 10 ms."""
    chosen = {"max_jobs": 100, "poll_delay": 0.01, **settings}
    return Peer("arq, best setting", ARQ, {"settings": chosen, "result_poll": 0.01}, PACKAGES)


def service(concurrency: int = 100, **options: Any) -> Peer:
    """A Service worker and our client, metrics and correlation on."""
    return Peer("aioinfra Service worker", SERVICE, {"concurrency": concurrency, **options}, ("aioinfra",))


def drop_in(**settings: Any) -> Peer:
    """ArqWorker with arq's functions, fed by arq's own client."""
    chosen = {"max_jobs": 100, **settings}
    return Peer(
        "aioinfra ArqWorker, arq client", DROP_IN, {"settings": chosen, "result_poll": 0.01}, ("aioinfra",)
    )
