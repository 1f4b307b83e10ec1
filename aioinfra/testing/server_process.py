"""A Redis or Valkey server process of one's own, to be killed, stopped and restarted.

`ServerProcess` is what the standalone server, the Sentinels and the Cluster nodes have in common.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from aioinfra.connection.server_binary import find_server_binary
from aioinfra.errors import EmbeddedServerError, InvalidArgument, LifecycleError, StoreError
from aioinfra.testing.child_process import ChildOptions, ChildProcess
from aioinfra.testing.raw_command import Address, Word, ask, ask_blocking

HOST: Final = "127.0.0.1"
READY_WITHIN: Final = 10.0
"""Seconds for a start; it takes 10 to 50 ms on an idle machine."""

_PORTS: Final = (15_000, 32_000)
"""Below the kernel's ephemeral range: a client that keeps connecting to a dead server's port there may be given
that very port as its own end, connect to itself, and keep the server from coming back."""
_LOOK_EVERY: Final = 0.004
_LOG_TAIL: Final = 4_000


def free_ports(count: int) -> list[int]:
    """Different TCP ports of 127.0.0.1 on which nobody listens right now.

    Raises:
        OSError: too few were found in a hundred attempts each.
    """
    found: list[int] = []
    for _ in range(100 * count):
        port = _PORTS[0] + secrets.randbelow(_PORTS[1] - _PORTS[0])
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            if port not in found:
                found.append(port)
        if len(found) == count:
            return found
    raise OSError("no free port was found")


def server_binary(binary: Path | str | None) -> Path:
    """The program to run: the embedded Valkey, or what the caller names, looked up on PATH.

    Raises:
        InvalidArgument: there is no such program.
        EmbeddedServerError: there is no embedded one.
    """
    if binary is None:
        return find_server_binary(allow_path=True)
    found = shutil.which(binary)
    if found is None:
        raise InvalidArgument("binary", f"there is no program {os.fspath(binary)!r}")
    return Path(found).absolute()


class ServerProcess:
    """One server with a private directory. Constructing takes a port, and makes nothing that needs an end.

    Args:
        binary: valkey-server or redis-server.
        config: lines of its configuration file, which is written once: a server may rewrite it.
        unix: listen on a unix socket alone.
        port: TCP port, or None for a free one; without ``unix``.
        password: for `admin`, when the server asks for one.
        arguments: after the configuration file, such as ``--sentinel``.
    """

    def __init__(
        self,
        binary: Path,
        config: Sequence[str] = (),
        *,
        unix: bool = False,
        port: int | None = None,
        password: str | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.directory = Path(tempfile.gettempdir()) / f"aioinfra-{secrets.token_hex(6)}"
        self.port = 0 if unix else free_ports(1)[0] if port is None else port
        self.socket_path = self.directory / "socket" if unix else None
        self._binary = binary
        self._config = tuple(config)
        self._password = password
        self._arguments = tuple(arguments)
        self._child: ChildProcess | None = None
        self._frozen = False

    @property
    def address(self) -> Address:
        """Host and port, or the unix socket."""
        return self.socket_path or (HOST, self.port)

    @property
    def pid(self) -> int:
        """Process id of the server. Raises LifecycleError when it has never been started."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process exists, stopped or not."""
        return self._child is not None and self._child.running

    @property
    def frozen(self) -> bool:
        """Whether it was told to `freeze`, and not to `thaw` since."""
        return self.running and self._frozen

    @property
    def log(self) -> str:
        """The end of what the server has written, at most 4,000 characters; empty before the first start."""
        path = self.directory / "log"
        return path.read_text(errors="replace")[-_LOG_TAIL:] if path.exists() else ""

    def _started(self) -> ChildProcess:
        if self._child is None:
            raise LifecycleError("the server has not been started")
        return self._child

    # Without waiting, or blocking for milliseconds

    def launch(self) -> None:
        """Start the process, on the data that is there, and return at once.

        Raises:
            LifecycleError: it runs.
        """
        if self.running:
            raise LifecycleError("the server runs already")
        self._close_child()
        self._frozen = False
        if not self.directory.exists():
            self._prepare()
        with (self.directory / "log").open("ab") as log:
            self._child = ChildProcess(
                [str(self._binary), "server.conf", *self._arguments],
                ChildOptions(log.fileno(), cwd=self.directory, remove=self.directory),
            )

    def _prepare(self) -> None:
        self.directory.mkdir(mode=0o700)
        where = [f"port {self.port}", f"bind {HOST}"]
        if self.socket_path is not None:
            where = ["port 0", f"unixsocket {self.socket_path}", "unixsocketperm 700"]
        lines = ["daemonize no", f"dir {self.directory}", *where, *self._config]
        path = self.directory / "server.conf"
        path.touch(mode=0o600)  # it may hold a password
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def freeze(self) -> None:
        """SIGSTOP: it answers nothing, and its connections stay open. Returns when it stands still."""
        self._started().freeze()
        self._frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self._started().thaw()
        self._frozen = False

    def answers(self, timeout: float = 0.2) -> bool:
        """Whether PING is answered within ``timeout`` seconds: it is up and has loaded its data. Blocks."""
        try:
            return bool(ask_blocking(self.address, ("PING",), password=self._password, timeout=timeout))
        except StoreError:
            return False

    def wait_until_ready(self, timeout: float = READY_WITHIN) -> None:
        """As `wait_ready`, blocking the thread."""
        deadline = time.monotonic() + timeout
        while not self.answers():
            self._check_alive()
            if time.monotonic() > deadline:
                raise self._not_ready(timeout)
            time.sleep(_LOOK_EVERY)

    def end(self, number: signal.Signals = signal.SIGKILL, timeout: float = READY_WITHIN) -> None:
        """As `kill` or, with SIGTERM, `terminate`, blocking the thread."""
        if self.running:
            self._started().send(number)
            self._started().wait(timeout)

    def close(self) -> None:
        """End it for good and remove its directory. Blocks for milliseconds; may be repeated."""
        self._close_child()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _close_child(self) -> None:
        if self._child is not None:
            self._child.close()

    # For the event loop

    async def start(self, timeout: float = READY_WITHIN) -> None:
        """Start it, on the data that is there, and return when it answers. Raises as `wait_ready`."""
        self.launch()
        await self.wait_ready(timeout)

    async def wait_ready(self, timeout: float = READY_WITHIN) -> None:
        """Return when PING is answered: the server is up and has loaded its data.

        Raises:
            EmbeddedServerError: it ended, with the end of its log.
            TimeoutError: it did not answer within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not await self._answers():
            self._check_alive()
            if time.monotonic() > deadline:
                raise self._not_ready(timeout)
            await asyncio.sleep(_LOOK_EVERY)

    async def _answers(self) -> bool:
        try:
            return bool(await self.admin("PING", timeout=0.2))
        except StoreError:
            return False

    def _check_alive(self) -> None:
        if not self.running:
            raise EmbeddedServerError(f"the server ended:\n{self.log}")

    def _not_ready(self, timeout: float) -> TimeoutError:
        return TimeoutError(f"the server did not answer in {timeout:g} s:\n{self.log}")

    async def kill(self) -> None:
        """SIGKILL, and wait for the end; nothing when it does not run."""
        await self._end(signal.SIGKILL, READY_WITHIN)

    async def terminate(self, timeout: float = READY_WITHIN) -> None:
        """SIGTERM: it saves what its configuration says and ends. Raises TimeoutError when it does not."""
        await self._end(signal.SIGTERM, timeout)

    async def _end(self, number: signal.Signals, timeout: float) -> None:
        if self.running:
            self._started().send(number)
            await self._started().exited(timeout)

    async def restart(self, timeout: float = READY_WITHIN) -> None:
        """SIGKILL when it runs, then start it with its data where it was. Raises as `wait_ready`."""
        await self.kill()
        await self.start(timeout)

    async def admin(self, *command: Word, timeout: float = 2.0) -> Any:
        """One command on a connection of its own, past pools and proxies; the raw reply.

        Raises:
            StoreError: the server answered with an error.
            StoreUnavailable: it does not answer within ``timeout`` seconds.
        """
        return await ask(self.address, command, password=self._password, timeout=timeout)


async def start_together(servers: Sequence[ServerProcess], timeout: float = READY_WITHIN) -> None:
    """Start servers side by side. When one does not come up all are closed; raises as `ServerProcess.start`."""
    try:
        for server in servers:
            server.launch()
        await asyncio.gather(*(server.wait_ready(timeout) for server in servers))
    except BaseException:
        close_together(servers)
        raise


def close_together(servers: Sequence[ServerProcess]) -> None:
    """Close them all."""
    for server in servers:
        server.close()


async def wait_for(
    holds: Callable[[], Awaitable[bool]], timeout: float, what: str, *, every: float = 0.02
) -> None:
    """Look until a condition of servers holds; an error of theirs means that it does not yet.

    Raises:
        TimeoutError: not within ``timeout`` seconds; the message says what.
    """
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(StoreError):
            if await holds():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {timeout:g} s")
        await asyncio.sleep(every)
