"""A log file that starts anew every day, shared by any number of processes.

Everybody appends to one name; the first to see a new day renames the file to ``<name>.<day>`` under an exclusive
flock(2) on the directory, the others notice that the name leads to another inode. Nobody waits for that lock:
whoever does not get it goes on with the file in hand, whose lines stay where they are under the new name. A
dated name that is taken gets a number, so that a rename never replaces lines.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import time
from typing import Final, TypeAlias

Calendar: TypeAlias = Callable[[float], date]
"""The day of a moment given in seconds since the epoch."""

_MAX_NAMES: Final = 10_000  # of one day
_MODE: Final = 0o640
_SETTLED: Final = 1.0  # seconds after which nobody is amid a write: a size is seen to grow page by page
_NEWLINE: Final = ord("\n")
_DIRECTORY_MODE: Final = 0o750


def utc_day(moment: float) -> date:
    """The day in UTC, as the timestamps of JSON lines have it."""
    return datetime.fromtimestamp(moment, UTC).date()


def local_day(moment: float) -> date:
    """The day on this host's clock, as the timestamps of readable lines have it."""
    return datetime.fromtimestamp(moment).astimezone().date()


class DailyFile:
    """What a sink's writer thread appends to. Opened by the first write, with its directory; see `Target`.

    Files of ``keep_days`` past days are kept; older ones are deleted when a file is opened or renamed. Only regular
    files named ``<name>.<day>`` or ``<name>.<day>.<number>`` are.
    """

    def __init__(self, path: Path, calendar: Calendar, keep_days: int) -> None:
        self._path = path
        self._calendar = calendar
        self._keep = timedelta(days=keep_days)
        self._dated = re.compile(rf"{re.escape(path.name)}\.(\d{{4}}-\d\d-\d\d)(\.\d{{1,5}})?")
        self._descriptor = -1
        self._identity = (-1, -1)
        self._day = date.min
        self._amid = False  # in a line of which a part is written: the rest belongs into the same file

    def write(self, data: memoryview) -> int:
        """Append to today's file. Raises OSError."""
        if not self._amid:
            self._follow()
        written = os.write(self._descriptor, data)
        if written:
            self._amid = data[written - 1] != _NEWLINE
        return written

    def ready(self, timeout: float) -> bool:  # noqa: ARG002 - a file always is
        """True."""
        return True

    def write_at_once(self, data: bytes) -> int:
        """Append where the open file is today's; 0 else: a new one is more work than a caller should wait for."""
        if self._amid or self._descriptor < 0 or self._calendar(time()) != self._day:
            return 0
        return self.write(memoryview(data))

    def close(self) -> None:
        """Close the file; a later write opens it again. Not beside `write`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._identity, self._amid = -1, (-1, -1), False

    def _follow(self) -> None:
        """Have the file open that today's lines belong into."""
        today = self._calendar(time())
        if self._descriptor < 0 or not self._is_at_path():
            self._open()
        if self._day < today and self._rename():
            self._open()

    def _is_at_path(self) -> bool:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def _open(self) -> None:
        """Open what is at the path, or a new file. What was written on another day is of that day."""
        self.close()
        self._path.parent.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, _MODE)
        found = os.fstat(self._descriptor)
        self._identity = (found.st_dev, found.st_ino)
        today = self._calendar(time())  # now: the file may be one that others started since the last look
        self._day = min(today, self._calendar(found.st_mtime)) if found.st_size else today
        if found.st_size and time() - found.st_mtime > _SETTLED and not self._is_whole(found.st_size):
            os.write(self._descriptor, b"\n")  # somebody was killed, or ran out of space, amid a line
        self._delete_old(today)

    def _is_whole(self, size: int) -> bool:
        return os.pread(self._descriptor, 1, size - 1) in (b"\n", b"")

    def _rename(self) -> bool:
        """Give the open file its dated name; whether the path leads elsewhere now, by whomever."""
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            try:
                if self._is_at_path():
                    self._path.rename(self._free_name())
            finally:
                # Explicitly: a child forked meanwhile holds a duplicate, which would keep the lock.
                fcntl.flock(directory, fcntl.LOCK_UN)
        finally:
            os.close(directory)
        return True

    def _free_name(self) -> Path:
        dated = self._path.with_name(f"{self._path.name}.{self._day.isoformat()}")
        for number in range(_MAX_NAMES):
            path = dated.with_name(f"{dated.name}.{number}") if number else dated
            if not os.path.lexists(path):
                return path
        raise FileExistsError(f"{_MAX_NAMES} files named {dated.name}")

    def _delete_old(self, today: date) -> None:
        """Delete dated files of days before the kept ones. What cannot be deleted stays: lines matter more."""
        with suppress(OSError), os.scandir(self._path.parent) as entries:
            for entry in entries:
                found = self._dated.fullmatch(entry.name)
                if found is None or not _is_before(found[1], today, self._keep):
                    continue
                with suppress(OSError):
                    if entry.is_file(follow_symlinks=False):
                        Path(entry.path).unlink()


def _is_before(day: str, today: date, keep: timedelta) -> bool:
    try:
        return today - date.fromisoformat(day) > keep
    except ValueError:  # as 2026-02-31
        return False
