"""What ``aioinfra jobs`` prints: tables for people, JSON for machines.

Ids, names and texts come from a server that anybody may have written to: what a terminal would obey is escaped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from aioinfra.jobs.job import ErrorRecord, Job
    from aioinfra.jobs.letters import DeadDetails, DeadEntry
    from aioinfra.jobs.listing import JobDetails, JobEntry

_PIPE_WIDTH: Final = 200
"""Columns where there is no terminal: nothing is cut that a program may look for."""


def shown(text: str) -> str:
    """Text with everything escaped that is not printable."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def moment(seconds: float | None) -> str:
    """Unix seconds as UTC, or '' for none; times beyond the calendar as they are."""
    if seconds is None:
        return ""
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"


def print_json(value: object) -> None:
    """One JSON document on standard output, ASCII alone."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; numbers stand to the right. Without rows only the columns' names."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = (_column(name, rows, at) for at, name in enumerate(columns))
    table = Table(*names, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(shown(str(cell))) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        typer.echo(line.rstrip())  # the table fills its last column with blanks


def _column(name: str, rows: Sequence[Sequence[object]], at: int) -> Any:
    from rich.table import Column

    numbers = bool(rows) and all(isinstance(row[at], int) for row in rows)
    return Column(name, justify="right" if numbers else "left", overflow="fold")


def print_fields(fields: Mapping[str, object]) -> None:
    """Names and values, one a line; what is empty is left out."""
    kept = {name: shown(str(value)) for name, value in fields.items() if value not in ("", None)}
    width = max(map(len, kept), default=0)
    for name, value in kept.items():
        typer.echo(f"{name:{width}}  {value}")


# Jobs

JOB_COLUMNS: Final = ("id", "task", "status", "due", "try", "bytes")


def job_row(entry: JobEntry) -> tuple[object, ...]:
    """A job in a list."""
    name = entry.task or f"<{entry.unreadable}>"
    size = max(entry.size, 0)
    return entry.job_id, name, entry.status.value, moment(entry.due_at), entry.attempt, size


def job_data(entry: JobEntry) -> dict[str, object]:
    """A job for a machine."""
    return {
        "id": entry.job_id,
        "queue": entry.queue,
        "task": entry.task,
        "status": entry.status.value,
        "due_at": entry.due_at,
        "try": entry.attempt,
        "stalls": entry.stalls,
        "bytes": entry.size,
        "unreadable": entry.unreadable,
    }


def details_data(details: JobDetails, *, arguments: bool) -> dict[str, object]:
    """All of a job but its result's value."""
    data = job_data(details.entry) | {"abort_requested": details.abort_requested}
    data |= payload_data(details.job, arguments=arguments)
    result = details.result
    if result is not None:
        data["result"] = {
            "success": result.success,
            "started_at": result.started_ms / 1000,
            "finished_at": result.finished_ms / 1000,
            **({} if result.success else {"error": error_data(result.value)}),
        }
    return data


def print_details(details: JobDetails, *, arguments: bool) -> None:
    """All of a job but its result's value, to read."""
    entry, result = details.entry, details.result
    print_fields(
        {
            "id": entry.job_id,
            "queue": entry.queue,
            "task": entry.task,
            "unreadable": entry.unreadable,
            "status": entry.status.value + (", to be aborted" if details.abort_requested else ""),
            "due": moment(entry.due_at),
            "try": entry.attempt,
            "stalls": entry.stalls or "",
            **payload_fields(details.job, arguments=arguments),
            "started": moment(result.started_ms / 1000) if result and result.started_ms else "",
            "finished": moment(result.finished_ms / 1000) if result and result.finished_ms else "",
        }
    )
    if result is not None and not result.success:
        print_error(result.value)


# Dead letters

DEAD_COLUMNS: Final = ("died", "id", "task", "reason", "error", "try")


def dead_row(letter: DeadEntry) -> tuple[object, ...]:
    """A dead letter in a list."""
    return (
        moment(letter.died_at), letter.job_id, letter.task, letter.reason, letter.error.type, letter.attempt,
    )  # fmt: skip


def dead_data(letter: Any) -> dict[str, object]:
    """A dead letter for a machine, without its error's text."""
    return {
        "id": letter.job_id,
        "queue": letter.queue,
        "task": letter.task,
        "reason": letter.reason,
        "error": letter.error.type,
        "try": letter.attempt,
        "stalls": letter.stalls,
        "died_at": letter.died_at,
    }


def letter_data(details: DeadDetails, *, arguments: bool) -> dict[str, object]:
    """All of a dead letter."""
    data = dead_data(details.letter) | {"unreadable": details.unreadable}
    data["error"] = error_data(details.letter.error)
    return data | payload_data(details.job, arguments=arguments)


def print_letter(details: DeadDetails, *, arguments: bool) -> None:
    """All of a dead letter, to read."""
    letter = details.letter
    print_fields(
        {
            "id": letter.job_id,
            "queue": letter.queue,
            "task": letter.task,
            "died": moment(letter.died_at),
            "reason": letter.reason,
            "unreadable": details.unreadable,
            "try": letter.attempt,
            "stalls": letter.stalls or "",
            **payload_fields(details.job, arguments=arguments),
        }
    )
    print_error(letter.error)


# Parts

_HIDDEN: Final = ("reply", "nonce", "queue")
"""Headers that are the engine's own."""


def payload_data(job: Job | None, *, arguments: bool) -> dict[str, object]:
    """What a payload says, redacted."""
    if job is None:
        return {}
    data: dict[str, object] = {"enqueued_at": job.enqueued_ms / 1000, "headers": _headers(job)}
    return data | (_arguments(job) if arguments else {})


def payload_fields(job: Job | None, *, arguments: bool) -> dict[str, object]:
    """What a payload says, redacted, to read."""
    if job is None:
        return {}
    fields: dict[str, object] = {"enqueued": moment(job.enqueued_ms / 1000)}
    fields |= {f"header {name}": value for name, value in _headers(job).items()}
    if arguments:
        fields |= {name: json.dumps(value, default=str) for name, value in _arguments(job).items()}
    return fields


def _headers(job: Job) -> Mapping[str, Any]:
    from aioinfra.redact import DEFAULT_REDACTOR

    return DEFAULT_REDACTOR.mapping({name: text for name, text in job.headers.items() if name not in _HIDDEN})


def _arguments(job: Job) -> dict[str, object]:
    """Masked by name, and scanned: arguments that have none are only known by what they look like."""
    from aioinfra.redact import RedactOptions, Redactor

    redactor = Redactor(RedactOptions(scan_values=True))
    return {"args": redactor.value(list(job.args)), "kwargs": redactor.mapping(job.kwargs)}


def error_data(error: ErrorRecord | Any) -> object:
    """An error record; what a foreign worker stored instead is not shown, since it may be anything."""
    from aioinfra.jobs.job import ErrorRecord

    if not isinstance(error, ErrorRecord):
        return {"type": "unknown", "message": "", "traceback": []}
    return {"type": error.type, "message": error.message, "traceback": [list(one) for one in error.traceback]}


def print_error(error: ErrorRecord | Any) -> None:
    """An error with its frames, outermost first."""
    from aioinfra.jobs.job import ErrorRecord

    if not isinstance(error, ErrorRecord):
        return
    typer.echo(f"\n{shown(error.type)}: {shown(error.message)}")
    for file, line, function in error.traceback:
        typer.echo(f"  {shown(file)}:{line} in {shown(function)}")
