"""What a sink's writer thread writes to."""

from __future__ import annotations

import os
import select
from typing import Final, Protocol

_POLL: Final = 1.0  # seconds to wait for a non-blocking descriptor before looking again


class Target(Protocol):
    """What lines are written to. Only called from one thread at a time."""

    def write(self, data: memoryview) -> int:
        """Write some of ``data`` and return how many bytes; may block. OSError: try again later."""
        ...

    def ready(self) -> bool:
        """Whether a short write would not block."""
        ...


class Stream(Protocol):
    """A text stream without a file descriptor."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class DescriptorTarget:
    """A file descriptor that somebody else owns and closes."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # somebody made the terminal or pipe non-blocking
            self._poll(_POLL)
            return 0

    def ready(self) -> bool:
        return self._poll(0.0)

    def _poll(self, timeout: float) -> bool:
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        return bool(poller.poll(timeout * 1_000))


class StreamTarget:
    """A text stream in memory, or one that captures (notebooks, test runners)."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, data: memoryview) -> int:
        self._stream.write(str(data, "utf-8", "replace"))
        self._stream.flush()
        return len(data)

    def ready(self) -> bool:
        return True
