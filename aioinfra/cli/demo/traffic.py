"""The demo's visitors: who asks for what, how often, and what they were promised."""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from aioinfra.cli.demo.figures import HttpFigures
from aioinfra.cli.demo.http import Answer, HttpConnection
from aioinfra.cli.demo.ledger import Ledger, Promise
from aioinfra.clock import SYSTEM_CLOCK

CONNECTIONS: Final = 8
EASE_AFTER: Final = 300.0  # seconds; a demo left open overnight should not fill the disk with its logs
EASED: Final = 0.05  # share of the rate from then on
POLL: Final = 0.25  # seconds between two looks at the unfinished reports
_SLACK: Final = 0.25  # seconds of delay that are made up for; a longer stall is not followed by a burst
_EXPONENT: Final = 1.1  # of Zipf's law: popularity falls with rank as it does on package indexes


class Kind(enum.Enum):
    """What a visit is for; the value is how many of about a thousand are."""

    PACKAGE = 900
    LIST = 62
    ANALYTICS = 20
    MISSING = 10
    REPORT = 7
    CLEANUP = 1


@dataclass(frozen=True, slots=True)
class Visit:
    """One request, and the status that answers it when all is well."""

    kind: Kind
    method: str
    path: str
    expected: int = 200
    package: str = ""
    body: dict[str, Any] | None = None


class Visitors:
    """An endless stream of visits, the same one for the same seed and packages."""

    def __init__(self, packages: Sequence[str], seed: int) -> None:
        """``packages``: the names in the catalogue, at least one; which of them are popular is drawn."""
        self._random = random.Random(seed)  # noqa: S311 - made-up visitors need no secrecy
        self._packages = self._random.sample(list(packages), len(packages))
        self._popularity = list(accumulate(1 / rank**_EXPONENT for rank in range(1, len(packages) + 1)))
        self._mix = list(accumulate(kind.value for kind in Kind))
        self._readers = 0

    def draw(self) -> Visit:
        """The next visit."""
        return self.visit(self._random.choices(list(Kind), cum_weights=self._mix)[0])

    def visit(self, kind: Kind) -> Visit:
        """A visit of the given kind."""
        name = self._random.choices(self._packages, cum_weights=self._popularity)[0]
        match kind:
            case Kind.PACKAGE:
                return Visit(kind, "GET", f"/packages/{name}", package=name)
            case Kind.LIST:
                return Visit(kind, "GET", "/packages")
            case Kind.ANALYTICS:
                return Visit(kind, "GET", "/analytics")
            case Kind.MISSING:
                return Visit(kind, "GET", f"/packages/no-such-{name}", expected=404)
            case Kind.REPORT:
                self._readers += 1
                body = {"package": name, "email": f"reader-{self._readers}@example.org"}
                return Visit(kind, "POST", "/reports", expected=202, package=name, body=body)
            case Kind.CLEANUP:
                return Visit(kind, "POST", "/cleanup", expected=202)


class Pace:
    """Hands out turns at an even rate."""

    def __init__(self, rate: float) -> None:
        """``rate``: turns per second."""
        self._gap = 1 / rate
        self._start = self._next = SYSTEM_CLOCK.monotonic()

    @property
    def eased(self) -> bool:
        """Whether the rate has come down because the demo has run for long."""
        return SYSTEM_CLOCK.monotonic() - self._start > EASE_AFTER

    async def turn(self) -> None:
        """Return when it is the caller's turn."""
        now = SYSTEM_CLOCK.monotonic()
        due = max(self._next, now - _SLACK)
        self._next = due + (self._gap / EASED if self.eased else self._gap)
        await asyncio.sleep(max(0.0, due - now))


class Traffic:
    """Sends the visits and writes into the ledger what the answers promise."""

    def __init__(self, port: int, visitors: Visitors, ledger: Ledger, pace: Pace) -> None:
        self.figures = HttpFigures()
        self._port = port
        self._visitors = visitors
        self._ledger = ledger
        self._pace = pace

    async def run(self, stop: asyncio.Event) -> None:
        """Visit until ``stop`` is set. Requests under way are answered first: none is left in doubt."""
        async with HttpConnection(self._port) as connection:
            for kind in Kind:  # also the shortest run shows one of each
                await self._send(connection, self._visitors.visit(kind))
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._visit(stop))

    async def follow(self) -> None:
        """Look at the unfinished reports again and again, as their readers would; until cancelled."""
        async with HttpConnection(self._port) as connection:
            while True:
                for promise in self._ledger.unfinished():
                    await self._look(connection, promise)
                await asyncio.sleep(POLL)

    async def _visit(self, stop: asyncio.Event) -> None:
        async with HttpConnection(self._port) as connection:
            while not stop.is_set():
                await self._pace.turn()
                await self._send(connection, self._visitors.draw())

    async def _send(self, connection: HttpConnection, visit: Visit) -> None:
        answer = await self._request(connection, visit)
        if answer is None or answer.status != visit.expected:
            return
        if visit.kind is Kind.PACKAGE:
            self._ledger.views[visit.package] += 1
        elif visit.kind is Kind.CLEANUP:
            self._ledger.cleanups += 1
        elif visit.kind is Kind.REPORT and visit.body is not None:
            self._ledger.accept(
                Promise(
                    report_id=answer.json()["id"],
                    request_id=answer.headers.get("x-request-id", ""),
                    package=visit.package,
                    email=visit.body["email"],
                )
            )

    async def _look(self, connection: HttpConnection, promise: Promise) -> None:
        answer = await self._request(connection, Visit(Kind.REPORT, "GET", f"/reports/{promise.report_id}"))
        if answer is not None and answer.status == 200:
            seen = answer.json()
            promise.status, promise.done, promise.total = seen["status"], seen["done"], seen["total"]

    async def _request(self, connection: HttpConnection, visit: Visit) -> Answer | None:
        """The answer, counted; None when there was none."""
        started = SYSTEM_CLOCK.monotonic()
        try:
            answer = await connection.request(visit.method, visit.path, visit.body)
        except OSError as error:
            self.figures.failed(f"{visit.method} {visit.path}: {type(error).__name__}")
            return None
        self.figures.answered(answer.status, SYSTEM_CLOCK.monotonic() - started)
        if answer.status != visit.expected:
            self.figures.failed(f"{visit.method} {visit.path}: status {answer.status}, not {visit.expected}")
        return answer
