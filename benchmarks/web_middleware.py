"""What does a request pay for its id, its metrics and its access line?

FastAPI applications of 60 routes, without sockets: the ASGI callable is awaited, so that what differs between the
contestants is their middleware. They take turns in this process, and the CPU time of its one thread is compared,
less that of the same application without any middleware. The usual pair of packages is installed under ``.bench/``
and imported from there; FastAPI and Starlette are one and the same for all.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI

from aioinfra import Service, setup_logging
from aioinfra.logs import LoggingOptions, SinkOptions
from aioinfra.web import App, ServiceMiddleware
from benchmarks.environments import DIRECTORY, STAMP, complete, fingerprint, interpreter, make
from benchmarks.errors import BenchmarkError, WrongAnswerError
from benchmarks.harness import Answer, Figures, Goal, Metric, Question, Rounds, header, interleave
from benchmarks.in_process import expect
from benchmarks.peers import Peer
from benchmarks.plan import Plan

PAIR_REQUIREMENTS: Final = ("asgi-correlation-id==5.0.1", "prometheus-fastapi-instrumentator==8.1.0")
ROUTES: Final = 60
HEADERS: Final = (
    (b"host", b"shop.example"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"accept-language", b"en-GB,en;q=0.5"),
    (b"connection", b"keep-alive"),
)

PLAIN: Final = Peer("no middleware", "", packages=("fastapi", "starlette"))
PAIR: Final = Peer(
    "correlation-id + instrumentator",
    "",
    packages=("asgi-correlation-id", "prometheus-fastapi-instrumentator", "prometheus_client"),
)
OURS: Final = Peer("aioinfra", "", packages=("aioinfra",))
OURS_LOGGED: Final = Peer("aioinfra, access line", "", packages=("aioinfra",))
PEERS: Final = (PLAIN, PAIR, OURS, OURS_LOGGED)

EVERY: Final = "every route in turn"
FIRST: Final = "the first route"
POINTS: Final = {EVERY: tuple(range(ROUTES)), FIRST: (0,)}

QUESTION: Final = Question(
    name="web_middleware",
    title=f"A request's middleware, {ROUTES} routes",
    metrics=(
        Metric("cpu_us", "CPU us/request", 1),
        Metric("added_us", "added us", 1),
        Metric("share", "of what the pair adds", 2),
    ),
    ratio_of="cpu_us",
    baseline=(PAIR.name,),
    goals=tuple(Goal(point, OURS.name, "share", at_most=0.3) for point in POINTS),
)


async def run(plan: Plan) -> Answer:
    """Measure all points in this process."""
    chosen, rounds = plan.chosen(PEERS), plan.rounds_or(15, 5)
    if PAIR in chosen:
        add_pair()
    versions = {name: importlib.metadata.version(name) for peer in chosen for name in peer.packages}
    size = plan.size_or(1_200, 600)
    answer = Answer(QUESTION, header("", "", versions, rounds=rounds) | {"server": "no server"})
    for point, routes in POINTS.items():
        answer.points[point] = with_shares(await costs(chosen, rounds, [*routes] * (size // len(routes))))
    return answer


def add_pair() -> None:
    """Let the pair be imported; what this environment has itself comes first.

    Raises:
        InstallError: it could not be installed.
    """
    home, mark = Path(DIRECTORY).absolute() / "web", fingerprint(PAIR_REQUIREMENTS)
    if not complete(home, mark):
        make(home, PAIR_REQUIREMENTS)
        (home / STAMP).write_text(mark, encoding="ascii")
    (packages,) = interpreter(home).parent.parent.glob("lib/python*/site-packages")
    if str(packages) not in sys.path:
        sys.path.append(str(packages))


async def costs(peers: Sequence[Peer], rounds: int, routes: Sequence[int]) -> Rounds:
    """CPU time of every contestant's requests; what they did is checked in the end."""
    if not routes:
        raise BenchmarkError(f"the size must be at least {ROUTES}")
    with ExitStack() as stack:
        made = {peer.name: stack.enter_context(closing(CONTESTANTS[peer.name]())) for peer in peers}
        scopes = [request(route) for route in routes]
        for contestant in made.values():
            await contestant.cpu(scopes)  # warms up

        async def measure(peer: Peer) -> Figures:
            return {"cpu_us": await made[peer.name].cpu(scopes) / len(scopes) / 1e3}

        found = await interleave(peers, rounds, measure, f"{len(set(routes))} routes")
        for contestant in made.values():
            contestant.check(len(scopes) * (rounds + 1), len(set(routes)))
    return found


def with_shares(found: Rounds) -> Rounds:
    """Beside each round's figures, what they have above those of the plain application in the same round."""
    plain, pair = found.get(PLAIN.name), found.get(PAIR.name)
    for name, of_one in found.items():
        if plain is None or name == PLAIN.name:
            continue
        for index, figures in enumerate(of_one):
            base = plain[index]["cpu_us"]
            added = {"added_us": figures["cpu_us"] - base}
            if pair is not None:
                added["share"] = added["added_us"] / (pair[index]["cpu_us"] - base)
            of_one[index] = {**figures, **added}
    return found


def request(route: int) -> dict[str, Any]:
    """The scope of a request, as uvicorn makes it. Whoever calls an application gives it a copy."""
    path = f"/resource{route}/7"
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 40000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": list(HEADERS),
    }


def application() -> FastAPI:
    """Sixty routes with a parameter each, whose endpoints await nothing."""
    app = FastAPI()
    for index in range(ROUTES):

        async def show(item: int) -> dict[str, int]:
            return {"item": item}

        app.get(f"/resource{index}/{{item}}", name=f"show{index}")(show)
    return app


class Plain:
    """The application alone."""

    def __init__(self) -> None:
        self.app: App = application()
        self.answered = 0
        self.with_id = 0

    async def cpu(self, scopes: Sequence[dict[str, Any]]) -> int:
        """CPU nanoseconds of one request after the other."""
        app, receive, send = self.app, self._receive, self._send
        began = time.thread_time_ns()
        for scope in scopes:
            await app(scope.copy(), receive, send)
        return time.thread_time_ns() - began

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.answered += message["status"] == 200
            self.with_id += message["headers"][-1][0].lower() == b"x-request-id"

    def check(self, made: int, routes: int) -> None:
        """Raises WrongAnswerError when that many requests to so many routes are not what it did."""
        expect("answers", self.answered, made)
        expect("answers with an id", self.with_id, made if self._counted(routes, made) else 0)

    def _counted(self, _routes: int, _made: int) -> bool:
        """Whether it gives ids; checks what it counted."""
        return False

    def close(self) -> None:
        """Put back what the contestant changed in this process."""


class Pair(Plain):
    """As the two READMEs say."""

    def __init__(self) -> None:
        super().__init__()
        # Not of this environment: from ``.bench/``.
        correlation: Any = importlib.import_module("asgi_correlation_id")
        instrumentator: Any = importlib.import_module("prometheus_fastapi_instrumentator")
        clients: Any = importlib.import_module("prometheus_client")
        self._registry = clients.CollectorRegistry()
        app: Any = self.app
        instrumentator.Instrumentator(registry=self._registry).instrument(app)
        app.add_middleware(correlation.CorrelationIdMiddleware)

    def _counted(self, routes: int, made: int) -> bool:
        counts = [
            sample.value
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == "http_requests_total"
        ]
        expect("counted requests", (len(counts), sum(counts)), (routes, made))
        return True


class Ours(Plain):
    """Outermost, as the README says; no access line."""

    access_log = False

    def __init__(self) -> None:
        super().__init__()
        self._service = Service()
        self.app = ServiceMiddleware(self.app, self._service, access_log=self.access_log)

    def _counted(self, routes: int, made: int) -> bool:
        slots = self._service.metrics.counter("aioinfra_http_requests_total").slots()
        expect("counted requests", (len(slots), sum(slot.value for slot in slots)), (routes, made))
        return True


class OursLogged(Ours):
    """With a line of JSON a request, to a file."""

    access_log = True

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        self._path = Path(self._directory.name) / "log"
        self._file = self._path.open("w")
        sink = SinkOptions(capacity=64 << 20)  # a round fits: none is dropped, the disk is not measured
        options = LoggingOptions(sink=sink)
        self._logging = setup_logging("info", log_format="json", stream=self._file, options=options)

    async def cpu(self, scopes: Sequence[dict[str, Any]]) -> int:
        spent = await super().cpu(scopes)
        if not self._logging.flush(30):
            raise BenchmarkError("the lines were not written in time")
        return spent

    def check(self, made: int, routes: int) -> None:
        super().check(made, routes)
        lines = self._path.read_bytes().splitlines()
        expect("access lines", len(lines), made)
        line = json.loads(lines[-1])
        if line["status"] != 200 or not line["route"].endswith("/{item}") or not line["request_id"]:
            raise WrongAnswerError(f"an access line does not say what was asked: {sorted(line)}")

    def close(self) -> None:
        self._logging.uninstall()
        self._file.close()
        self._directory.cleanup()


CONTESTANTS: Final[dict[str, type[Plain]]] = {
    PLAIN.name: Plain,
    PAIR.name: Pair,
    OURS.name: Ours,
    OURS_LOGGED.name: OursLogged,
}
