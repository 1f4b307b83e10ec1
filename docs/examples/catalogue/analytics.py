"""How often each package was looked at: a small SQLite file that several workers write.

A job may run more than once (its worker can die between the work and the record of it), so a view is counted
under the id of its job: the second run of one job finds its id and changes nothing.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from functools import cache
from pathlib import Path

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS counted (job_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS views (package TEXT PRIMARY KEY, total INTEGER NOT NULL) WITHOUT ROWID;
"""
_COUNT = "INSERT INTO views VALUES (?, 1) ON CONFLICT (package) DO UPDATE SET total = total + 1"
_TOTALS = "SELECT package, total FROM views ORDER BY total DESC, package"


class Analytics:
    """One connection, shared by the threads of a process: opening it costs more than counting."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        # timeout: seconds to wait for another process' transaction
        self._database = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
        self._database.executescript(_SCHEMA)

    def count(self, package: str, job_id: str) -> bool:
        """Count one view, once per ``job_id``. True when it was counted now, False when it was before."""
        # One transaction: the count and the proof that it was counted.
        with self._lock, self._database as database:
            new = database.execute("INSERT OR IGNORE INTO counted VALUES (?)", (job_id,)).rowcount == 1
            if new:
                database.execute(_COUNT, (package,))
        return new

    def totals(self) -> dict[str, int]:
        """Views by package, the most viewed first."""
        with self._lock, closing(self._database.execute(_TOTALS)) as rows:
            return dict(rows)

    def close(self) -> None:
        with self._lock:
            self._database.close()


@cache
def opened(path: Path) -> Analytics:
    """The one of this process, opened at first use and kept."""
    return Analytics(path)
