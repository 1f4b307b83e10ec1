"""The list by which one Prometheus finds every process of a service.

Format: https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config

The list is a view. Each process keeps a file of its own beside it, with its entry, and holds a lock on that file
for as long as it lives; whoever writes the list takes the entries whose locks are held and removes the rest. So a
killed process needs nobody to say goodbye for it, and a number that the system has given to another process
misleads nobody. The list is replaced as a whole: a reader never sees half of it.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from aioinfra.connection.file_lock import FileLock

_PATIENCE: Final = 2.0
"""Seconds to wait for the other writers; each needs some milliseconds."""
_ALIVE: Final = ".alive"

logger = logging.getLogger("aioinfra.web")


class ScrapeTarget:
    """One process' entry in the list. Methods do file I/O of a few milliseconds: call them in a thread.

    Args:
        path: of the list; its directory is made. All processes that share it run as one user.
        address: ``host:port`` where Prometheus finds this process.
        labels: of everything scraped there.
    """

    def __init__(self, path: Path, address: str, labels: Mapping[str, str]) -> None:
        self._path = path
        self._entry = msgspec.json.encode({"targets": [address], "labels": dict(labels)})
        self._own = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_ALIVE}")
        self._lock = FileLock(self._own)

    def enter(self) -> None:
        """Put the entry on the list; a warning when that cannot be written. `refresh` tries again."""
        with _warned():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._only_writer(_PATIENCE):
                self._stand_for_it()
                self._write()

    def refresh(self) -> None:
        """Take dead processes off the list; nothing when another process is about it. Called at every scrape.

        Raises:
            OSError: the files cannot be written.
        """
        with contextlib.suppress(BlockingIOError), self._only_writer(0):
            if not self._own.exists():  # somebody has tidied up
                self._lock.release()
                self._stand_for_it()
            self._write()

    def leave(self) -> None:
        """Take the entry off the list; a warning when that cannot be: the process' end does the same."""
        try:
            with _warned(), self._only_writer(_PATIENCE):
                self._own.unlink(missing_ok=True)
                self._write()
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def _only_writer(self, patience: float) -> Iterator[None]:
        """Raises BlockingIOError when the others take longer."""
        lock = FileLock(self._path.with_name(f"{self._path.name}.lock"))
        if not lock.acquire(deadline=time.monotonic() + patience):
            raise BlockingIOError
        try:
            yield
        finally:
            lock.release()

    def _stand_for_it(self) -> None:
        """As the only writer: others take an entry without a lock for a dead one."""
        self._lock.try_acquire()  # nobody else knows its name
        self._own.write_bytes(self._entry)

    def _write(self) -> None:
        entries = sorted(self._living())
        wanted = b"[" + b",\n ".join(entries) + b"]\n"
        with contextlib.suppress(FileNotFoundError):
            if self._path.read_bytes() == wanted:
                return  # Prometheus reads it anew whenever it is replaced
        new = self._path.with_name(f"{self._path.name}.new")
        new.write_bytes(wanted)
        new.replace(self._path)

    def _living(self) -> Iterator[bytes]:
        for path in self._path.parent.glob(f"{self._path.name}.*{_ALIVE}"):
            lock = FileLock(path)
            if lock.try_acquire():  # also its own, where that is not held
                path.unlink(missing_ok=True)
                lock.release()
            else:
                yield path.read_bytes()


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        logger.warning("the list of metrics pages cannot be written: %s", error.strerror or "others hold it")
