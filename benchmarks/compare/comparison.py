"""What a comparison found: every round of every contestant, who could not take part, and why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.errors import BenchmarkError, CommandFailedError
from benchmarks.harness import Answer, Figures, Question, Rounds, Spread, progress
from benchmarks.peers import Peer
from benchmarks.peers.catalogue import Row

OURS: Final = "aioinfra"
TRACEBACK: Final = 12  # lines of it that are shown


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; ``size`` replaces the number of jobs, operations or passes."""

    family: str
    quick: bool = False
    rounds: int | None = None
    size: int | None = None

    def rounds_or(self, full: int, quick: int) -> int:
        return self.rounds or (quick if self.quick else full)

    def size_or(self, full: int, quick: int) -> int:
        return self.size or (quick if self.quick else full)


def summary(error: BaseException) -> str:
    """One line of it."""
    if isinstance(error, TimeoutError):
        return "took too long"
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@dataclass(slots=True)
class Field:
    """The contestants of a comparison, and those that fell out of it.

    Attributes:
        peers: by the order of the catalogue.
        versions: of a contestant's packages.
        failures: why a contestant has no figures.
    """

    peers: list[Peer]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def note(self, peer: Peer, error: BaseException, where: str) -> None:
        """One has failed at a point, or for good."""
        earlier = self.failures.get(peer.name)
        line = summary(error)
        while line.startswith(peer.name):
            line = line.removeprefix(peer.name).lstrip(": ")
        text = f"{where}: {line}" if where else line
        self.failures[peer.name] = f"{earlier}; {text}" if earlier else text
        tail = "\n".join(str(error).splitlines()[-TRACEBACK:])
        progress(f"{peer.name} has no figures: {text}\n{tail}")

    def drop(self, peer: Peer, error: BaseException) -> None:
        """Go on without one."""
        self.note(peer, error, "")
        self.peers = [other for other in self.peers if other.name != peer.name]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A family's answers."""

    request: Request
    header: Mapping[str, Any]
    rows: Sequence[Row]
    field: Field
    answers: Sequence[Answer]


def peer_of(row: Row, python: str) -> Peer:
    """How the harness starts a row's contestant."""
    return Peer(row.name, f"benchmarks.peers.{row.factory}", row.options, row.packages, python, row.share)


async def alternate(
    found: Field,
    rounds: int,
    measure: Callable[[Peer], Awaitable[Figures]],
    label: str,
) -> Rounds:
    """Measure every contestant once a round, another one going first each round.

    One that fails at a command has no figures here, but may at the next point; one whose process ended or took
    too long is out for good. The others go on.
    """
    peers = list(found.peers)
    results: Rounds = {peer.name: [] for peer in peers}
    for turn in range(rounds):
        shift = turn % max(1, len(peers))
        for peer in [*peers[shift:], *peers[:shift]]:
            progress(f"{label}, round {turn + 1}/{rounds}: {peer.name}")
            try:
                results[peer.name].append(await measure(peer))
            except CommandFailedError as error:
                found.note(peer, error, label)
            except (BenchmarkError, TimeoutError) as error:
                found.drop(peer, error)
            else:
                continue
            del results[peer.name]
            peers = [other for other in peers if other.name != peer.name]
    return results


def advantage(answer: Answer, point: str, contestant: str) -> Spread | None:
    """How many times better ours was than this contestant, by rounds; None for ours and without either's figure."""
    question, rounds = answer.question, answer.points[point]
    metric = next(metric for metric in question.metrics if metric.key == question.ratio_of)
    if contestant == OURS:
        return None
    pairs = [
        (ours[metric.key], theirs[metric.key])
        for ours, theirs in zip(rounds.get(OURS, []), rounds.get(contestant, []), strict=False)
        if metric.key in ours and metric.key in theirs
    ]
    if not pairs:
        return None
    return Spread.of([ours / theirs if metric.more_is_better else theirs / ours for ours, theirs in pairs])


def narrowed(question: Question, points: Mapping[str, Rounds]) -> Answer:
    """An answer to one of several questions that were measured together: its own figures only."""
    keys = {metric.key for metric in question.metrics}
    kept: dict[str, Rounds] = {
        point: {
            name: [{key: figures[key] for key in figures if key in keys} for figures in of_one]
            for name, of_one in rounds.items()
        }
        for point, rounds in points.items()
    }
    return Answer(question, {}, kept)
