"""Where rendered lines go: a ring bounded in bytes, and one thread that empties it.

`Sink.put` never waits for the outside and never raises. The thread owns the target; it is the only place
where a write may block, and it holds the interpreter lock for microseconds a batch. A full ring drops the
newest line; a part of it is kept for ERROR and above. Every line given to `put` is in the end either written
or counted as dropped.

A process killed outright loses what its lines waited for: at most `SinkOptions.interval` seconds of them
while the target takes what it is given. After a flush, which tells that an end may be near, the next lines do not
wait: servers write theirs after the application has closed, and then end by the signal that stopped them.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aioinfra.logs.forks import watch_forks
from aioinfra.logs.sink_options import SinkFigures, SinkOptions
from aioinfra.logs.target import PIPE_BUF, Target

__all__ = ["Sink", "SinkFigures", "SinkOptions"]

_LINE_OVERHEAD: Final = 64  # bytes that a waiting line costs beyond its text; many short lines are not free
_NEVER: Final = sys.maxsize
_AFTER_FLUSH: Final = 1_000  # lines that their callers write at once, where that is possible without waiting
_RETRY_FIRST: Final = 0.05
_RETRY_CAP: Final = 1.0
_QUIET: Final = 60.0  # seconds between two reports of trouble


class Sink:
    """A bounded ring and its writer thread, which starts with the first line.

    ``notice`` renders the one line that reports a loss, from the count and the time (seconds since the
    epoch) of the first lost line; it is called on the writer thread and its line is not counted.
    ``trouble`` is told, on the writer thread, of the first of the errors that keep the target from being written:
    once until a write has succeeded again, and at most once a minute.
    """

    def __init__(
        self,
        target: Target,
        options: SinkOptions | None = None,
        *,
        notice: Callable[[int, float], bytes] | None = None,
        trouble: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._target = target
        self._options = options = options or SinkOptions()
        self._notice = notice
        self._trouble = trouble
        self._full = options.capacity
        self._full_for_most = options.capacity - options.reserve
        self._final = False
        self._patient_until = 0.0
        self._left_behind = False
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        # Reentrant: a signal handler or a finalizer that logs may interrupt `put` itself.
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._lines: deque[bytes] = deque()
        self._used = 0
        self._wake_at = 1  # bytes waiting at which `put` wakes the writer: any, a batch, or never
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._at_once = 0  # lines that need not wait for the thread
        self._writing_at_once = False
        self._hurry = 0  # callers of `flush`: no waiting for company meanwhile
        self._in_flight = 0
        self._settled = 0  # lines that have left the ring for good, in order
        self._written = self._dropped = self._errors = 0
        self._unreported = 0
        self._lost_since = 0.0
        self._in_trouble = False
        self._quiet_until = 0.0  # by the monotonic clock

    def put(self, line: bytes, level: int) -> bool:
        """Take a line for writing; False when it had to be dropped. O(1), never blocks, never raises."""
        with self._lock:
            if self._at_once:
                line = self._write_at_once(line)
                if not line:
                    return True
            size = len(line) + _LINE_OVERHEAD
            if self._used + size > (self._full_for_most if level < logging.ERROR else self._full):
                self._drop(1)
                return False
            self._lines.append(line)
            self._used += size
            if self._used >= self._wake_at:
                self._wake()
        return True

    def figures(self) -> SinkFigures:
        """The counts so far."""
        with self._lock:
            waiting = len(self._lines) + self._in_flight
            return SinkFigures(self._written, self._dropped, waiting, self._used, self._errors)

    @property
    def is_running(self) -> bool:
        """Whether a thread may be writing to the target, one that was given up included."""
        return self._thread is not None or self._left_behind

    def flush(self, timeout: float) -> bool:
        """Wait until every line given so far is written or dropped; False when that took too long.

        Blocks the calling thread for at most ``timeout`` seconds. Not for an event loop: see `aflush`.
        """
        with self._lock:
            aim = self._settled + self._in_flight + len(self._lines)
            self._hurry += 1
            if self._lines:
                self._wake()
            try:
                return self._done.wait_for(lambda: self._settled >= aim, timeout)
            finally:
                self._hurry -= 1
                self._at_once = _AFTER_FLUSH

    async def aflush(self, timeout: float) -> bool:
        """`flush` beside the event loop."""
        return await asyncio.to_thread(self.flush, timeout)

    def close(self, timeout: float | None = None, *, final: bool = False) -> None:
        """Write what waits and end the thread, within ``timeout`` seconds; the rest is counted as dropped.

        A later line starts the thread again; after ``final`` (the interpreter ends) it is written by its
        caller instead, who waits for the target no longer than `SinkOptions.exit_timeout` in all.
        """
        thread = self.stop(final=final)
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._options.exit_timeout if timeout is None else timeout)
        with self._lock:
            self._stopping = False
            self._at_once = _AFTER_FLUSH
            if thread is not None and self._thread is thread:
                self._leave_behind()
            elif self._lines and self._thread is None:
                self._wake()

    def stop(self, *, final: bool = False) -> threading.Thread | None:
        """Ask the thread to write what waits and end, and return it; `close` has to follow."""
        with self._lock:
            if final and not self._final:
                self._final = True
                self._patient_until = time.monotonic() + self._options.exit_timeout
            self._stopping = True
            self._work.notify()
            return self._thread

    async def aclose(self, timeout: float | None = None) -> None:
        """`close` beside the event loop."""
        await asyncio.to_thread(self.close, timeout)

    def _leave_behind(self) -> None:
        """Give up a thread whose write is stuck; it is a daemon and ends when it finds itself replaced."""
        self._thread = None
        self._left_behind = True
        self._wake_at = 1
        left = self._in_flight + len(self._lines)
        self._lines.clear()
        self._used = self._in_flight = 0
        self._settle(left, written=False)

    def _settle(self, lines: int, *, written: bool) -> None:
        self._settled += lines
        if written:
            self._written += lines
        else:
            self._drop(lines)
        if self._hurry:
            self._done.notify_all()

    def _drop(self, lines: int) -> None:
        if lines and not self._unreported:
            self._lost_since = time.time()
        self._dropped += lines
        self._unreported += lines

    def _wake(self) -> None:
        self._wake_at = _NEVER
        if self._thread is not None:
            self._work.notify()
        elif self._final or not self._start():
            self._write_here()

    def _start(self) -> bool:
        self._thread = threading.Thread(target=self._run, name="aioinfra-logs", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread to be had: the limit is reached, or the interpreter ends
            self._thread = None
            return False
        return True

    def _write_at_once(self, line: bytes) -> bytes:
        """Write a line that no other line waits before; what is left of it."""
        if self._lines or self._in_flight or self._unreported or self._writing_at_once:
            return line
        self._at_once -= 1
        self._writing_at_once = True  # a signal handler that logs now must not take the room that was seen
        try:
            rest = line[self._target.write_at_once(line) :]
        except Exception:  # noqa: BLE001 - whatever a target raises, `put` does not
            self._errors += 1
            return line
        finally:
            self._writing_at_once = False
        if not rest:
            self._settle(1, written=True)
        return rest

    def _write_here(self) -> None:
        """Write without a thread, in pieces that a ready pipe takes whole; wait only when the process ends."""
        self._wake_at = 1
        data, lines = self._take(self._full)
        rest = memoryview(data)
        try:
            while rest and self._target.ready(max(0.0, self._patient_until - time.monotonic())):
                rest = rest[self._target.write(rest[:PIPE_BUF]) :]
        except Exception:  # noqa: BLE001 - whatever a stream raises, `put` does not
            self._errors += 1
        self._in_flight = 0
        self._settle(lines, written=not rest)

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._lock:
                if not self._wait_for_lines():
                    self._thread = None
                    self._wake_at = 1
                    return
                data, lines = self._take(self._options.batch)
            written = self._write(data, me)
            with self._lock:
                if self._thread is not me:  # left behind: these lines are already counted as dropped
                    return
                self._in_flight = 0
                self._settle(lines, written=written)

    def _wait_for_lines(self) -> bool:
        """Wait for a line, then for others to share its write; False when the sink stops and is empty."""
        while not self._lines and not self._stopping:
            self._wake_at = 1
            self._work.wait()
        if self._used < self._options.batch and not self._stopping and not self._hurry:
            self._wake_at = self._options.batch
            self._work.wait(self._options.interval)
        self._wake_at = _NEVER
        return bool(self._lines)

    def _take(self, limit: int) -> tuple[bytes, int]:
        """About ``limit`` bytes of lines from the ring, and their count; a due notice comes first."""
        taken: list[bytes] = []
        lines = size = 0
        while self._lines and size < limit:
            line = self._lines.popleft()
            taken.append(line)
            size += len(line)
            lines += 1
        self._used -= size + lines * _LINE_OVERHEAD
        self._in_flight = lines
        if self._unreported and self._used <= self._full_for_most // 2:
            taken.append(self._report())
        return b"".join(taken), lines

    def _report(self) -> bytes:
        lost, self._unreported = self._unreported, 0
        try:
            return b"" if self._notice is None else self._notice(lost, self._lost_since)
        except Exception:  # noqa: BLE001 - the writer thread must not die of a report
            return b""

    def _write(self, data: bytes, me: threading.Thread) -> bool:
        """Write all of ``data``, waiting out errors such as a full disk, but not when the sink stops."""
        rest, delay = memoryview(data), _RETRY_FIRST
        while rest and self._thread is me:
            try:
                rest = rest[self._target.write(rest) :]
                delay = _RETRY_FIRST
            except Exception as error:  # noqa: BLE001 - the writer thread must not die of what a stream raises
                with self._lock:
                    self._errors += 1
                self._tell(error)
                if self._stopping:
                    return False
                time.sleep(delay)
                delay = min(_RETRY_CAP, delay * 2)
        self._in_trouble = bool(rest)
        return not rest

    def _tell(self, error: BaseException) -> None:
        now = time.monotonic()
        if self._trouble is None or self._in_trouble or now < self._quiet_until:
            return
        self._in_trouble, self._quiet_until = True, now + _QUIET
        with suppress(Exception):  # the writer thread must not die of a report
            self._trouble(error)

    def after_fork(self) -> None:
        """In the child: the parent's thread writes the parent's lines; this process starts afresh."""
        self._reset()
