"""How often each package was looked at: a small SQLite file that several workers write.

A job may run more than once (its worker can die between the work and the record of it), so a view is counted
under the id of its job: the second run of one job finds its id and changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS counted (job_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS views (package TEXT PRIMARY KEY, total INTEGER NOT NULL) WITHOUT ROWID;
"""
_COUNT = "INSERT INTO views VALUES (?, 1) ON CONFLICT (package) DO UPDATE SET total = total + 1"


def count(path: Path, package: str, job_id: str) -> bool:
    """Count one view, once per ``job_id``. True when it was counted now, False when it was before."""
    with _open(path) as database, database:  # one transaction: the count and the proof that it was counted
        new = database.execute("INSERT OR IGNORE INTO counted VALUES (?)", (job_id,)).rowcount == 1
        if new:
            database.execute(_COUNT, (package,))
    return new


def totals(path: Path) -> dict[str, int]:
    """Views by package, the most viewed first."""
    with _open(path) as database:
        return dict(database.execute("SELECT package, total FROM views ORDER BY total DESC, package"))


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(path, timeout=10.0)  # seconds to wait for another worker's transaction
    try:
        database.executescript(_SCHEMA)
        yield database
    finally:
        database.close()
