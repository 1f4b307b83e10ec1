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
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from aioinfra.connection.file_lock import POLL, FileLock
from aioinfra.connection.server_binary import find_server_binary
from aioinfra.connection.state_dir import Running, StateDir
from aioinfra.errors import EmbeddedServerError, InvalidArgument

RECHECK: Final = 0.25  # seconds of waiting for the server between two looks whether its guardian lives
SLOWEST_REPLY: Final = 1.0  # seconds for one PING: a server that loads its data replies only now and then
_GUARDIAN: Final = Path(__file__).with_name("guardian.py")
_KEPT_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ", "LANG", "LC_ALL")
_CONFIG_NAME: Final = re.compile(r"[a-z][a-z0-9-]*")
_OWN_CONFIG: Final = frozenset(
    {
        "bind",
        "daemonize",
        "dir",
        "include",
        "logfile",
        "pidfile",
        "port",
        "requirepass",  # the socket is the user's alone, and the URL would lack it
        "supervised",
        "unixsocket",
        "unixsocketperm",
    }
)
_DAMAGED: Final = (
    "it cannot read its append-only file, which is damaged or of another server's format and was left as it is: "
    "mend it, or move the data directory away"
)
_REASONS: Final = (
    (b"reading the append only file", _DAMAGED),
    (b"FATAL CONFIG FILE ERROR", "it does not accept its configuration"),
    (b"bind: Address already in use", "its TCP port is taken"),
)


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """How the embedded server is started. All processes that share a state directory give the same.

    Attributes:
        state_dir: directory of its data, locks and log; created with mode 0700. One server each.
        start_timeout: seconds for everything: waiting for others, starting, loading the data.
        allow_path: without the wheel, use valkey-server or redis-server >= 7 from PATH.
        port: listen on 127.0.0.1 as well, without a password; 0 is the unix socket alone.
        config: more lines of valkey.conf, such as ``{"maxmemory": "64mb"}``; they win over ours.
    """

    state_dir: Path | str = ".aioinfra"
    start_timeout: float = 10.0
    allow_path: bool = False
    port: int = 0
    config: Mapping[str, str] = field(default_factory=dict, repr=False)  # a value may be a secret

    def __post_init__(self) -> None:
        _check_state_dir(self.state_dir)
        _check_timeout(self.start_timeout)
        _check_port(self.port)
        for name, value in self.config.items():
            _check_config(name, value)


def _check_state_dir(value: object) -> None:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise InvalidArgument("state_dir", "must be a path")


def _check_timeout(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument("start_timeout", "must be a number of seconds")
    if not math.isfinite(value) or value <= 0:
        raise InvalidArgument("start_timeout", "must be finite and positive")


def _check_port(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
        raise InvalidArgument("port", "must be a whole number from 0 to 65535")


def _check_config(name: object, value: object) -> None:
    if not isinstance(name, str) or not _CONFIG_NAME.fullmatch(name):
        raise InvalidArgument("config", "names are as in valkey.conf: lower-case letters, digits and '-'")
    if name in _OWN_CONFIG:
        raise InvalidArgument("config", f"{name} is set by aioinfra")
    if not isinstance(value, str) or not value.isprintable():
        raise InvalidArgument("config", f"{name} must be text on one line, as in valkey.conf")


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
        running = _Start(options, binary, state, users_lock).run()
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


class _Start:
    """One call of start_embedded: joins or starts, until the server answers or the time is up."""

    def __init__(self, options: EmbeddedOptions, binary: Path, state: StateDir, users_lock: FileLock) -> None:
        self._options = options
        self._binary = binary
        self._state = state
        self._users_lock = users_lock
        self._start_lock = FileLock(state.lock("start"))
        self._deadline = time.monotonic() + options.start_timeout
        self._loading = False  # the server has said that it is loading its data

    def run(self) -> Running:
        waited = False
        while True:
            if not self._start_lock.acquire(deadline=self._deadline):
                raise self._late("another process is busy starting or stopping it")
            try:
                running = self._join_or_start(waited=waited)
            finally:
                self._start_lock.release()
            answer = self._wait_for_answer(running.socket)
            if answer is _ANSWERS:
                return running
            if time.monotonic() >= self._deadline:
                raise self._late(answer)
            waited = True  # next round: has the guardian given up, or been killed?

    def _join_or_start(self, *, waited: bool) -> Running:
        """Become a user of a server that is guarded. The caller holds start.lock."""
        if not self._users_lock.acquire(deadline=self._deadline, shared=True):
            raise self._late("its users.lock is held exclusively")
        if self._guardian_lives():
            return self._checked(self._state.running())
        failure = self._state.failure()
        if waited and failure is not None:
            raise EmbeddedServerError(
                f"the embedded server cannot start: {self._explain(failure)}; {self._log}"
            )
        running = self._state.prepare_start(self._options.port, self._options.config)
        self._spawn_guardian(running)
        return running

    def _guardian_lives(self) -> bool:
        probe = FileLock(self._state.lock("guardian"))
        free = probe.try_acquire()
        probe.release()
        return not free

    def _checked(self, running: Running) -> Running:
        if (running.port, running.config) != (self._options.port, dict(self._options.config)):
            raise EmbeddedServerError(
                f"the server in {self._state.path} runs with another port or config: use another state_dir"
            )
        return running

    def _spawn_guardian(self, running: Running) -> None:
        arguments = (str(_GUARDIAN), str(self._state.path), str(self._binary), running.socket)
        log = os.open(self._state.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # It forks and ends, so that what guards is nobody's child and leaves no zombie with us.
            ended = subprocess.run(  # noqa: S603  # our own program
                (sys.executable, "-I", "-S", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
                start_new_session=True,
                timeout=max(0.001, self._deadline - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise self._late("its guardian did not start") from None
        finally:
            os.close(log)
        if ended.returncode:
            raise EmbeddedServerError(f"the guardian of the embedded server cannot start; {self._log}")

    def _wait_for_answer(self, path: str) -> str:
        """Ask until the server answers, for RECHECK seconds or one slow reply; says how it went."""
        until = min(self._deadline, time.monotonic() + RECHECK)
        while (answer := self._ask(path)) is not _ANSWERS and time.monotonic() < until:
            time.sleep(POLL)
        # A busy loader replies now and then only: what it said once explains its silence.
        return _LOADING if self._loading and answer is not _ANSWERS else answer

    def _ask(self, path: str) -> str:
        answer = _ask(path, max(POLL, min(SLOWEST_REPLY, self._deadline - time.monotonic())))
        self._loading = self._loading or answer is _LOADING
        return answer

    def _late(self, state: str) -> EmbeddedServerError:
        waited = f"within {self._options.start_timeout:g} s"
        return EmbeddedServerError(f"the embedded server did not answer {waited}: {state}; {self._log}")

    @property
    def _log(self) -> str:
        return f"see {self._state.log}"

    def _explain(self, failure: str) -> str:
        """The guardian's words, and ours for a known cause. Never the log's own lines: they quote secrets."""
        log = self._state.log.read_bytes() if self._state.log.exists() else b""
        return "; ".join((failure, *(text for mark, text in _REASONS if mark in log)))


_ANSWERS: Final = "it answers"
_LOADING: Final = "it is still loading its data; a longer start_timeout may help"


def _ask(path: str, timeout: float) -> str:
    """PING the server; one of a few sentences."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(timeout)
        try:
            probe.connect(path)
            probe.sendall(b"PING\r\n")
            reply = probe.recv(64)
        except TimeoutError:
            return "it accepts connections and does not reply"
        except OSError:
            return f"nothing listens on {path}"
    if reply.startswith(b"-LOADING"):
        return _LOADING
    return _ANSWERS if reply.startswith(b"+PONG") else "it refuses PING"
