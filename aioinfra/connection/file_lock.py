"""Advisory file locks that end with their process.

A flock belongs to an open file description, which every copy of the descriptor shares. `exec` closes our
copies (they are not inheritable), but a plain fork hands them to the child: then the lock would outlive the
process that took it. So a forked child closes its copies at once and holds nothing.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Final

POLL: Final = 0.005  # seconds between two tries; flock itself cannot wait with a time limit


class FileLock:
    """One lock on one file; two of them on the same file exclude each other, also within one process."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        return self._fd is not None

    def acquire(self, *, deadline: float, shared: bool = False) -> bool:
        """Take the lock, trying until ``deadline`` (monotonic seconds); True when it is held.

        Raises:
            OSError: the file cannot be opened, or its file system has no locks.
        """
        while not self.try_acquire(shared=shared):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL)
        return True

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free (``shared``: if nobody has it exclusively); True when it is held."""
        if self._fd is not None:
            return True
        with _HELD.guard:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            except BaseException:
                os.close(fd)
                raise
            self._fd = fd
            _HELD.add(self)
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        with _HELD.guard:
            fd, self._fd = self._fd, None
            _HELD.locks.discard(self)
        if fd is not None:
            fcntl.flock(fd, fcntl.LOCK_UN)  # closing alone would leave it to a copy that we do not know of
            os.close(fd)

    def abandon(self) -> None:
        """In a forked child: close the copy. Unlocking it would take the lock from the parent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


class _Held:
    """The locks of this process, for the child of a fork to abandon. Process-wide, as descriptors are.

    The references are strong on purpose: a lock whose owner was dropped without release() is still held.
    """

    def __init__(self) -> None:
        self.locks: set[FileLock] = set()
        self.guard = threading.RLock()  # no fork between opening a file and its entry here
        self._hooked = False

    def add(self, lock: FileLock) -> None:
        if not self._hooked:
            # Not at import, and not before the first lock: until then a fork is none of our business.
            os.register_at_fork(
                before=lambda: self.guard.acquire(),  # noqa: PLW0108  # the child replaces the guard
                after_in_parent=lambda: self.guard.release(),  # noqa: PLW0108  # as above
                after_in_child=self._abandon_all,
            )
            self._hooked = True
        self.locks.add(lock)

    def _abandon_all(self) -> None:
        self.guard = threading.RLock()
        locks, self.locks = self.locks, set()
        for lock in locks:
            lock.abandon()


_HELD: Final = _Held()
