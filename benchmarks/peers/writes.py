"""Counts what a worker process sends on its connections, in memory that the benchmark reads while it runs.

A client that sends again only when the replies are there makes one round trip a send, as all the contestants' do:
a pipeline or a transaction is one. What the kernel does not take at once is counted again, so that the count is
rather too high. Connecting counts too; the benchmark reads the count when the first job has started.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import Peer

FILE_VARIABLE: Final = "BENCH_WRITES_FILE"
_BYTES: Final = 8


class Writes:
    """The benchmark's end: a file of one number, new for each worker process."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_BYTES))
        self._path = path

    @property
    def environment(self) -> dict[str, str]:
        return {FILE_VARIABLE: str(self._path)}

    def count(self) -> int:
        """So far."""
        return int.from_bytes(self._path.read_bytes(), "little")


def counting(peer: Peer) -> Peer:
    """The same contestant, whose worker counts."""
    return Peer(
        peer.name,
        f"{__name__}:counted",
        {"factory": peer.factory, "options": dict(peer.options)},
        peer.packages,
        peer.python,
        peer.share,
    )


def counted(url: str, factory: str, options: Mapping[str, Any]) -> Any:
    """In the contestant's process: build it, and count if the benchmark gave a file for it."""
    from benchmarks.peers.run import build

    path = os.environ.get(FILE_VARIABLE)
    if path is not None:
        _install(path)
    return build(factory, json.dumps(dict(options)), url)


def _install(path: str) -> None:
    with Path(path).open("r+b") as file:
        memory = memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("Q")

    def counts(send: Callable[..., Any]) -> Callable[..., Any]:
        def counted_send(self: socket.socket, data: Any, *rest: Any) -> Any:
            if len(data) != 1:  # one byte is how an event loop wakes itself
                memory[0] += 1
            return send(self, data, *rest)

        return counted_send

    for name in ("send", "sendall", "sendmsg"):
        setattr(socket.socket, name, counts(getattr(socket.socket, name)))
