"""Reading the children's log files: one JSON object a line, followed as they grow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_CHUNK: Final = 1 << 20  # bytes read at a look


@dataclass(frozen=True, slots=True)
class LogLine:
    """What the demo needs of a line. ``source`` is the process that wrote it."""

    source: str
    time: str
    level: str
    request_id: str
    message: str
    fields: dict[str, Any]


class LogFollower:
    """Reads what was added to a log file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> Iterator[LogLine]:
        """The new whole lines; at most a megabyte a call, so that a look stays short."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            chunk = file.read(_CHUNK)
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._offset += len(whole) if whole or len(chunk) < _CHUNK else len(chunk)  # a line beyond all bounds
        for line in whole.splitlines():
            parsed = parse_line(self._path.stem, line)
            if parsed is not None:
                yield parsed


def parse_line(source: str, line: bytes) -> LogLine | None:
    """A JSON log line, or None for anything else that a process printed."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    return LogLine(
        source=source,
        time=str(fields.pop("timestamp", "")),
        level=str(fields.pop("level", "")),
        request_id=str(fields.pop("request_id", None) or ""),
        message=str(fields.pop("message", "")),
        fields=fields,
    )


def read_all(path: Path) -> Iterator[LogLine]:
    """Every JSON line of a file."""
    with path.open("rb") as file:
        for line in file:
            parsed = parse_line(path.stem, line)
            if parsed is not None:
                yield parsed
