"""Looks at the running demo from outside: its HTTP API, its workers' metrics, its files and logs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from typing import Any, Final

from aioinfra.cli.demo.figures import Rate, Sample, parse_metrics
from aioinfra.cli.demo.http import HttpConnection
from aioinfra.cli.demo.ledger import Ledger
from aioinfra.cli.demo.logs import LogFollower, LogLine
from aioinfra.cli.demo.picture import Mail, Picture, QueuePicture
from aioinfra.cli.demo.traffic import Traffic
from aioinfra.clock import SYSTEM_CLOCK

EVERY: Final = 0.5  # seconds between two looks
FINISHED_JOBS: Final = "aioinfra_jobs_finished_total"

_REPORTS_SHOWN: Final = 12
_ENDED: Final = frozenset({"succeeded", "failed", "dead", "aborted"})  # other runs are followed by another


@dataclass(frozen=True, slots=True)
class Watched:
    """What there is to look at: the service's port, the workers' metrics ports and log files."""

    port: int
    metrics_ports: list[int]
    worker_logs: list[Path]


class Monitor:
    """Keeps the picture up to date, one look at a time."""

    def __init__(self, picture: Picture, watched: Watched, traffic: Traffic, ledger: Ledger) -> None:
        self._picture = picture
        self._traffic = traffic
        self._ledger = ledger
        self._service = HttpConnection(watched.port)
        self._workers = [HttpConnection(port) for port in watched.metrics_ports]
        self._logs = [LogFollower(path) for path in watched.worker_logs]
        self._rates: dict[str, Rate] = {}
        self._mail_seen: set[str] = set()
        self._reads = (0, 0)
        self._started = SYSTEM_CLOCK.monotonic()

    async def look(self) -> None:
        """Bring the picture up to date.

        Raises:
            OSError: the service or a worker does not answer.
            ValueError: what it answers is not what it promised, such as a metrics page that does not parse.
        """
        now = SYSTEM_CLOCK.monotonic()
        self._picture.elapsed = now - self._started
        self._look_at_traffic(now)
        stats = await self._service.request("GET", "/stats")
        if stats.status != 200:
            raise ValueError(f"GET /stats answered {stats.status}")
        self._look_at_cache(stats.json()["cache"])
        self._look_at_queues(now, stats.json()["queues"], await self._jobs_done())
        self._look_at_files()
        new = [line for log in self._logs for line in log.read() if _is_shown(line)]
        self._picture.lines.extend(sorted(new, key=lambda line: line.time))

    async def metrics_page(self) -> list[Sample]:
        """The service's own /metrics, parsed."""
        answer = await self._service.request("GET", "/metrics")
        return list(parse_metrics(answer.body.decode()))

    def close(self) -> None:
        """Drop the connections."""
        for connection in (self._service, *self._workers):
            connection.close()

    def _look_at_traffic(self, now: float) -> None:
        figures, http = self._traffic.figures, self._picture.http
        http.rate.add(self._rate("http", now, figures.answers))
        recent = figures.turn()
        if recent.count:
            http.p50, http.p99 = recent.quantile(0.5), recent.quantile(0.99)
        http.answers, http.failures = figures.answers, figures.failures

    def _look_at_cache(self, stats: dict[str, Any]) -> None:
        cache = self._picture.cache
        cache.hits, cache.misses = stats["hits"], stats["misses"]
        hits, misses = cache.hits - self._reads[0], cache.misses - self._reads[1]
        if hits + misses:
            cache.recent.add(hits / (hits + misses))
            self._reads = (cache.hits, cache.misses)

    def _look_at_queues(self, now: float, depths: dict[str, dict[str, int]], done: Counter[str]) -> None:
        for name, depth in depths.items():
            queue = self._picture.queues.setdefault(name, QueuePicture())
            queue.waiting, queue.running, queue.done = depth["waiting"], depth["running"], done[name]
            queue.rate.add(self._rate(name, now, queue.done))

    async def _jobs_done(self) -> Counter[str]:
        """Finished jobs by queue, over all workers."""
        done = Counter[str]()
        for worker in self._workers:
            answer = await worker.request("GET", "/metrics")
            for sample in parse_metrics(answer.body.decode()):
                if sample.name == FINISHED_JOBS and sample.labels["outcome"] in _ENDED:
                    done[sample.labels["queue"]] += int(sample.value)
        return done

    def _look_at_files(self) -> None:
        promises = list(self._ledger.promises.values())
        self._picture.reports = promises[: -_REPORTS_SHOWN - 1 : -1]
        new = self._picture.directory / "maildir" / "new"
        for path in new.iterdir() if new.is_dir() else ():
            if path.name not in self._mail_seen:
                self._mail_seen.add(path.name)
                message = message_from_bytes(path.read_bytes())
                self._picture.mails.append(Mail(message["To"], message["Subject"], path))

    def _rate(self, name: str, now: float, value: float) -> float:
        rate = self._rates.setdefault(name, Rate())
        rate.sample(now, value)
        return rate.value


def _is_shown(line: LogLine) -> bool:
    """Lines that belong to a request; not those of the hundreds of views a second, which would hide the others."""
    return bool(line.request_id) and line.fields.get("queue") != "analytics"
