"""What the demo was promised, held against what is there in the end.

The ledger believes nobody: it counts from the answers that its own client got, and looks for the reports,
messages and log lines in the files themselves.
"""

from __future__ import annotations

import mailbox
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from xml.etree import ElementTree as ET

from aioinfra.cli.demo.logs import LogLine

FINISHED = frozenset({"succeeded", "failed"})
_SHOWN = 3  # examples named in a loss


@dataclass(slots=True)
class Promise:
    """A report that the service accepted, and how far it was when last seen."""

    report_id: str
    request_id: str
    package: str
    email: str
    status: str = "queued"
    done: float = 0
    total: float = 0


@dataclass(slots=True)
class Ledger:
    """Everything that was promised: views that were answered, reports and cleanups that were accepted."""

    views: Counter[str] = field(default_factory=Counter)
    promises: dict[str, Promise] = field(default_factory=dict)
    cleanups: int = 0
    repeated: list[str] = field(default_factory=list)

    def accept(self, promise: Promise) -> None:
        """Note an accepted report; an id handed out twice is a fault of its own."""
        if promise.report_id in self.promises:
            self.repeated.append(promise.report_id)
        self.promises[promise.report_id] = promise

    def unfinished(self) -> list[Promise]:
        """The accepted reports that were not seen finished yet."""
        return [promise for promise in self.promises.values() if promise.status not in FINISHED]

    def lost_reports(self, directory: Path) -> list[str]:
        """Accepted reports without a file, or with one that is not that report, whole and well-formed."""
        faults = defaultdict[str, list[str]](list)
        for promise in self.promises.values():
            fault = _report_fault(directory / f"{promise.report_id}.html", promise)
            if fault:
                faults[fault].append(promise.report_id)
        if self.repeated:
            faults["given an id that another report has"] = self.repeated
        return [_loss(len(ids), "report", fault, ids) for fault, ids in faults.items()]

    def lost_messages(self, maildir: Path) -> list[str]:
        """Accepted reports whose reader got no message, or more than one."""
        received = Counter[str]()
        for message in read_messages(maildir):
            received[message.get("To", "")] += 1
        none = [promise.report_id for promise in self.promises.values() if not received[promise.email]]
        many = [promise.report_id for promise in self.promises.values() if received[promise.email] > 1]
        losses = [("not delivered, for report", none), ("delivered more than once, for report", many)]
        return [_loss(len(ids), "message", fault, ids) for fault, ids in losses if ids]

    def lost_views(self, counted: Mapping[str, int]) -> list[str]:
        """Packages whose views, as counted by the jobs, are not those that were answered."""
        wrong = [
            f"{package} {counted.get(package, 0)}, not {self.views[package]}"
            for package in sorted(self.views.keys() | counted.keys())
            if counted.get(package, 0) != self.views[package]
        ]
        return [_loss(len(wrong), "package", "with wrong analytics", wrong)] if wrong else []

    def lost_lines(self, worker_lines: Iterable[LogLine]) -> list[str]:
        """Accepted reports whose request id is in no log line of a worker."""
        seen = {line.request_id for line in worker_lines}
        mute = [promise.report_id for promise in self.promises.values() if promise.request_id not in seen]
        return [_loss(len(mute), "report", "without a worker's log line", mute)] if mute else []


def read_messages(maildir: Path) -> list[Message]:
    """The messages of a maildir, in the order of their names."""
    return [message for _, message in sorted(mailbox.Maildir(maildir, create=False).items())]


def _report_fault(path: Path, promise: Promise) -> str:
    """What is wrong with a report's file; empty when nothing is."""
    try:
        root = ET.fromstring(path.read_bytes())  # noqa: S314 - our own worker wrote it
    except FileNotFoundError:
        return "not written"
    except ET.ParseError:
        return "not well-formed"
    named = {meta.get("name"): meta.get("content") for meta in root.iter("meta")}
    wanted = {
        "report-id": promise.report_id,
        "request-id": promise.request_id,
        "package": promise.package,
    }
    wrong = [name for name, value in wanted.items() if named.get(name) != value]
    return f"with the wrong {' and '.join(wrong)}" if wrong else ""


def _loss(count: int, what: str, fault: str, examples: list[str]) -> str:
    more = ", ..." if len(examples) > _SHOWN else ""
    return f"{count} {what}{'s' if count > 1 else ''} {fault}: {', '.join(examples[:_SHOWN])}{more}"
