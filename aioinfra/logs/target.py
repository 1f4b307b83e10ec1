"""What a sink's writer thread writes to."""

from __future__ import annotations

import os
import select
import stat
from typing import Final, Protocol

PIPE_BUF: Final = 4096
"""Bytes that a pipe takes at once, or not at all; and without blocking when it polls writable (Linux)."""

_POLL: Final = 1.0  # seconds to wait for a non-blocking descriptor before looking again


class Target(Protocol):
    """What lines are written to. Only called from one thread at a time."""

    def write(self, data: memoryview) -> int:
        """Write some of ``data`` and return how many bytes; may block. OSError: try again later."""
        ...

    def ready(self, timeout: float) -> bool:
        """Whether a short write would not block, now or within ``timeout`` seconds."""
        ...

    def write_at_once(self, data: bytes) -> int:
        """Write what can be written without waiting, and return how many bytes; 0 when that cannot be known."""
        ...


class Stream(Protocol):
    """A text stream without a file descriptor."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class DescriptorTarget:
    """A file descriptor that somebody else owns and closes.

    A pipe or socket gets whole lines of at most PIPE_BUF bytes a write: POSIX makes such writes to a pipe
    atomic, so that lines of processes that share it (forked workers on one stdout) do not break each other.
    Files take any length in one piece.
    """

    __slots__ = ("_descriptor", "_in_pieces")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._in_pieces = stat.S_ISFIFO(mode := os.fstat(descriptor).st_mode) or stat.S_ISSOCK(mode)

    def write(self, data: memoryview) -> int:
        if self._in_pieces and len(data) > PIPE_BUF:
            # A longer line goes out in one write, too, which is the best that can be done for it.
            end = bytes(data[:PIPE_BUF]).rfind(b"\n") + 1 or bytes(data).find(b"\n") + 1
            data = data[: end or len(data)]
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # somebody made the terminal or pipe non-blocking
            self.ready(_POLL)
            return 0

    def ready(self, timeout: float) -> bool:
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        return bool(poller.poll(timeout * 1_000))

    def write_at_once(self, data: bytes) -> int:
        if len(data) > PIPE_BUF or not self.ready(0):
            return 0
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0


class StreamTarget:
    """A text stream in memory, or one that captures (notebooks, test runners)."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, data: memoryview) -> int:
        self._stream.write(str(data, "utf-8", "replace"))
        self._stream.flush()
        return len(data)

    def ready(self, timeout: float) -> bool:  # noqa: ARG002 - memory is always ready
        return True

    def write_at_once(self, data: bytes) -> int:  # noqa: ARG002 - whoever made the stream may wait in it
        return 0
