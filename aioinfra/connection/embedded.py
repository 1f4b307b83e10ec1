"""The embedded server: a Valkey of one's own for development and tests, shared by a project's processes.

    start_embedded -> lock out other starters -> become a user -> a guardian lives?  join its server
                                                               -> none: start one  (guardian.py)
                   -> wait until the server answers PING

Who uses the server says so with a shared lock on a file, which the kernel takes back when the process ends,
however it ends; the guardian stops the server once nobody holds it. See guardian.py for the protocol.

Processes and forks: a handle belongs to the process that started it. The child of a fork does not keep the
server alive (its copy of the lock is closed at once) and need not close anything. It may use the URL while
its parent lives; when it may outlive the parent it calls `start_embedded` itself, as a spawned process does.
A handle that is dropped without `close()` keeps the server until its process ends.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from aioinfra.connection.embedded_options import EmbeddedOptions
from aioinfra.connection.embedded_start import Start
from aioinfra.connection.file_lock import FileLock
from aioinfra.connection.server_binary import find_server_binary
from aioinfra.connection.state_dir import Running, StateDir
from aioinfra.errors import EmbeddedServerError

__all__ = ["EmbeddedOptions", "EmbeddedServer", "start_embedded", "start_embedded_async"]


class EmbeddedServer:
    """One use of an embedded server, until `close()`. Get one from `start_embedded`.

    Attributes:
        url: ``unix://`` URL, database 0.
        tcp_url: ``redis://`` URL, when a port was asked for.
        state_dir: where its data is.
        log_path: what it and its guardian said.
    """

    __slots__ = ("_users_lock", "log_path", "state_dir", "tcp_url", "url")

    def __init__(self, state: StateDir, running: Running, users_lock: FileLock) -> None:
        self.url = f"unix://{quote(running.socket)}?db=0"
        self.tcp_url = f"redis://127.0.0.1:{running.port}/0" if running.port else None
        self.state_dir = state.path
        self.log_path = state.log
        self._users_lock = users_lock

    @property
    def closed(self) -> bool:
        """True after `close()`, and in the child of a fork."""
        return not self._users_lock.held

    def close(self) -> None:
        """Stop using it. The server ends within 2 s unless somebody else uses it. Never waits."""
        self._users_lock.release()

    async def aclose(self) -> None:
        """As `close()`."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EmbeddedServer(url={self.url!r}, closed={self.closed})"


def start_embedded(options: EmbeddedOptions | None = None) -> EmbeddedServer:
    """Join the server of ``options.state_dir``, and start it when nobody has. Returns when it answers.

    Blocks for up to ``start_timeout`` seconds; a start takes about 0.1 s. Each call is a use of its own.

    Raises:
        EmbeddedServerError: no server program, a directory that is not safe, a server that does not come up
            (the message names its log), or one that runs with other options.
    """
    options = options or EmbeddedOptions()
    binary = find_server_binary(allow_path=options.allow_path)
    state = StateDir(Path(options.state_dir))
    users_lock = FileLock(state.lock("users"))
    try:
        running = Start(options, binary, state, users_lock).run()
    except OSError as error:
        users_lock.release()
        raise EmbeddedServerError(f"cannot start the embedded server in {state.path}: {error}") from error
    except BaseException:
        users_lock.release()
        raise
    return EmbeddedServer(state, running, users_lock)


async def start_embedded_async(options: EmbeddedOptions | None = None) -> EmbeddedServer:
    """As `start_embedded`, in a thread. A cancelled caller's server is released once it is up."""
    starting = asyncio.get_running_loop().run_in_executor(None, start_embedded, options)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_close_unclaimed)
        raise


def _close_unclaimed(started: asyncio.Future[EmbeddedServer]) -> None:
    if not started.cancelled() and started.exception() is None:
        started.result().close()
