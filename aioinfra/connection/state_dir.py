"""The embedded server's places on disk: its state directory, and the directory of its unix socket.

Both belong to one user alone. What is in the state directory:

    data/          the append-only files
    *.lock         the protocol of guardian.py
    server.conf    what the server was started with          server.json  the same for who joins it
    server.log     guardian and server, this run             server.log.1 the run before
    failure        why the guardian gave up; absent when it did not
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aioinfra.errors import EmbeddedServerError

SOCKET_NAME: Final = "s"
LONGEST_SOCKET: Final = 103  # bytes that the address of a unix socket may have: 107 on Linux, 103 on macOS

_LONGEST_FAILURE: Final = 1_000  # characters

_ROLES: Final[Mapping[str, str]] = {
    "start.lock": "the lock of who starts the server",
    "users.lock": "the lock of who uses the server",
    "guardian.lock": "the lock of the server's guardian",
    "data.lock": "the lock on the server's data",
    "server.conf": "the server's configuration",
    "server.json": "which says where the running server listens",
    "server.log": "the server's log",
    "server.log.1": "the log of the run before",
    "failure": "which says why the server could not start",
}
"""The files of a state directory, each with what it is, for whoever has to remove one."""

DEFAULTS: Final[Mapping[str, str]] = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "aof-load-truncated": "yes",
    "save": '""',
    "maxmemory-policy": "noeviction",
    "loglevel": "warning",
}


@dataclass(frozen=True, slots=True)
class Running:
    """What a process that joins has to know of the server that runs."""

    socket: str
    port: int
    config: Mapping[str, str]


class StateDir:
    """A state directory that exists, is ours and is closed to others."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        """Create it when it is missing.

        Raises:
            EmbeddedServerError: it is not a directory, somebody else's, or open to others.
        """
        try:
            self.path = path.absolute()
            self._prepare()
        except OSError as error:
            raise EmbeddedServerError(f"cannot use {path} as state_dir: {error.strerror}") from error

    def _prepare(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.path.stat()
        if found.st_uid != os.geteuid():
            raise EmbeddedServerError(f"{self.path} belongs to another user: use another state_dir")
        if stat.S_IMODE(found.st_mode) & 0o077:
            # Ours to close when we made it or nobody has put anything in; never somebody's home directory.
            if not self.lock("start").exists() and any(self.path.iterdir()):
                raise EmbeddedServerError(f"{self.path} is open to other users: chmod 700 it")
            self.path.chmod(0o700)
        for name, role in _ROLES.items():
            _check_file(self.path / name, role)
        with suppress(FileExistsError):
            self.data.mkdir(mode=0o700)
        if not self.data.is_dir():
            raise EmbeddedServerError(
                f"{self.data}, where the server keeps its data, is no directory: remove it"
            )
        ignore = self.path / ".gitignore"
        if not os.path.lexists(ignore):
            ignore.write_text("*\n", encoding="ascii")

    @property
    def log(self) -> Path:
        return self.path / "server.log"

    @property
    def data(self) -> Path:
        return self.path / "data"

    def lock(self, name: str) -> Path:
        return self.path / f"{name}.lock"

    def failure(self) -> str | None:
        """Why the last guardian gave up; None when it did not."""
        try:
            text = (self.path / "failure").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        return ascii(text[:_LONGEST_FAILURE])[1:-1]

    def running(self) -> Running:
        """What the last start left for others. Only to be trusted while a guardian lives."""
        path = self.path / "server.json"
        try:
            return _running(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            # Not mended here: the server runs, and only what was written at its start says where.
            raise EmbeddedServerError(
                f"{path}, {_ROLES['server.json']}, is damaged: "
                "end the processes that use this state_dir; the next start writes it anew"
            ) from error

    def prepare_start(self, port: int, config: Mapping[str, str]) -> Running:
        """Write the files that a guardian needs. The caller holds start.lock and knows that none lives."""
        socket = self._socket_place()
        # A server whose guardian was killed may answer a moment longer: nobody shall find it any more.
        if socket.is_dir() and not socket.is_symlink():
            raise EmbeddedServerError(
                f"{socket}, where the server's socket belongs, is a directory: remove it"
            )
        socket.unlink(missing_ok=True)
        (self.path / "failure").unlink(missing_ok=True)
        if os.path.lexists(self.log):
            self.log.replace(self.path / "server.log.1")
        running = Running(str(socket), port, dict(config))
        facts = {"socket": running.socket, "port": port, "config": running.config}
        self._write("server.json", json.dumps(facts))
        self._write("server.conf", self._configuration(running))
        return running

    def _configuration(self, running: Running) -> str:
        lines = {
            "daemonize": "no",
            "dir": quote(str(self.data)),
            "unixsocket": quote(running.socket),
            "unixsocketperm": "700",
            "bind": "127.0.0.1",
            "port": str(running.port),
            "logfile": '""',
            **DEFAULTS,
            **running.config,
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def _write(self, name: str, text: str) -> None:
        path = self.path / name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)

    def _socket_place(self) -> Path:
        # By the directory's identity, not its path: a deleted and recreated one is another server's, while
        # the old server may still run.
        found = self.path.stat()
        name = hashlib.sha256(f"{found.st_dev}:{found.st_ino}".encode()).hexdigest()[:12]
        folder = _runtime_directory(longest=LONGEST_SOCKET - len(name) - len(SOCKET_NAME) - 2) / name
        _make_private(folder)
        return folder / SOCKET_NAME


def _check_file(path: Path, role: str) -> None:
    """Refuse what is no file of ours before anything is read from it: reading a pipe would wait for ever.

    What a file holds does not matter here: those that a start writes, it writes anew.
    """
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        if not path.is_symlink():
            return  # there is none, or another process has just moved it
        is_file = False
    except OSError:  # a link to itself
        is_file = False
    if not is_file:
        raise EmbeddedServerError(f"{path}, {role}, is no file: remove it")
    if not os.access(path, os.R_OK | os.W_OK) and path.exists():
        raise EmbeddedServerError(f"{path}, {role}, cannot be read and written: chmod 600 it, or remove it")


def _running(facts: Any) -> Running:
    """What server.json says. Raises ValueError, TypeError or KeyError when that is not ours."""
    socket, port, config = facts["socket"], facts["port"], facts["config"]
    if not isinstance(socket, str) or "\0" in socket or not 0 < len(os.fsencode(socket)) <= LONGEST_SOCKET:
        raise ValueError("socket")
    if type(port) is not int or not 0 <= port <= 65535:
        raise ValueError("port")
    if not all(isinstance(text, str) for pair in dict(config).items() for text in pair):
        raise ValueError("config")
    return Running(socket, port, dict(config))


def quote(text: str) -> str:
    """One argument of a line of server.conf: in quotes, everything but plain ASCII as hexadecimal bytes."""
    plain = (
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02x}"
        for byte in os.fsencode(text)
    )
    return f'"{"".join(plain)}"'


def _runtime_directory(longest: int) -> Path:
    """A directory of this user for sockets, on this machine and short enough.

    Raises:
        EmbeddedServerError: the one under /tmp is not ours, or open to others.
    """
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    fits = given.startswith("/") and len(os.fsencode(given)) + len("/aioinfra") <= longest
    if fits and _is_private(Path(given)):
        folder = Path(given) / "aioinfra"
    else:
        folder = Path("/tmp") / f"aioinfra-{os.geteuid()}"  # noqa: S108  # checked by _make_private
    _make_private(folder)
    return folder


def _make_private(folder: Path) -> None:
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_private(folder):
        raise EmbeddedServerError(f"{folder} must be a directory of yours with mode 0700; remove or mend it")


def _is_private(folder: Path) -> bool:
    """True for a directory of ours, not a link to one, that nobody else may enter."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    mine = found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode)
    return mine and not stat.S_IMODE(found.st_mode) & 0o077
