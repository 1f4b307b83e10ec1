"""aioinfra's drop-in for arq's Worker: arq's functions, client, codec and settings around it."""

from __future__ import annotations

from aioinfra.jobs.arq import ArqWorker
from benchmarks.peers.arq_stock import FUNCTIONS, ArqStock


class DropIn(ArqStock):
    """Everything but the worker is arq's own."""

    def work(self) -> None:
        ArqWorker(FUNCTIONS, redis_settings=self._where, **self._settings).run()
