"""A standalone server for tests: start it, fill it, crash it, bring it back with its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from aioinfra.errors import InvalidArgument
from aioinfra.testing.server_process import HOST, ServerProcess, server_binary


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a test server is like. The defaults lose no acknowledged write to a SIGKILL, and never evict.

    Attributes:
        binary: path or name of a server program; None is the embedded Valkey, else one on PATH.
        port: TCP port on 127.0.0.1; None is a free one.
        unix: listen on a unix socket instead.
        append_only: keep an append-only file, so that a restart finds the data.
        append_fsync: ``always``, ``everysec`` or ``no``; the latter two may lose acknowledged writes.
        maxmemory: bytes, 0 for no limit.
        maxmemory_policy: what is evicted at the limit.
        password: asked of every client.
        lines: more lines of the configuration file, such as ``"maxclients 20"``; they win.
    """

    binary: Path | str | None = None
    port: int | None = None
    unix: bool = False
    append_only: bool = True
    append_fsync: str = "always"
    maxmemory: int = 0
    maxmemory_policy: str = "noeviction"
    password: str | None = field(default=None, repr=False)
    lines: Sequence[str] = field(default=(), repr=False)  # they may hold a secret

    def __post_init__(self) -> None:
        _check_port(self.port)
        if self.unix and self.port is not None:
            raise InvalidArgument("port", "a server on a unix socket has none")
        if self.append_fsync not in ("always", "everysec", "no"):
            raise InvalidArgument("append_fsync", "must be 'always', 'everysec' or 'no'")
        memory: object = self.maxmemory
        if isinstance(memory, bool) or not isinstance(memory, int) or memory < 0:
            raise InvalidArgument("maxmemory", "must be a number of bytes, 0 for no limit")
        check_lines(self.lines)
        if self.password is not None and (not self.password or not self.password.isprintable()):
            raise InvalidArgument("password", "must be printable and not empty")

    def config(self) -> list[str]:
        """The configuration file's lines, without where it listens."""
        lines = [
            'save ""',
            "loglevel notice",
            "enable-debug-command local",
            f"appendonly {'yes' if self.append_only else 'no'}",
            f"appendfsync {self.append_fsync}",
            f"maxmemory {self.maxmemory}",
            f"maxmemory-policy {self.maxmemory_policy}",
        ]
        if self.password is not None:
            lines += [f"{name} {quoted(self.password)}" for name in ("requirepass", "masterauth")]
        return [*lines, *self.lines]

    def with_lines(self, *lines: str) -> ServerOptions:
        """The same with further lines, over which those that were there win."""
        return replace(self, lines=(*lines, *self.lines))


def _check_port(port: object) -> None:
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65_536):
        raise InvalidArgument("port", "must be a whole number from 1 to 65535")


def check_lines(lines: object) -> None:
    """Raise InvalidArgument unless these are lines of a configuration file."""
    if isinstance(lines, str) or not isinstance(lines, Sequence):
        raise InvalidArgument("lines", "must be a list of lines, not one string")
    for line in lines:
        if not isinstance(line, str) or not line.strip() or not line.isprintable():
            raise InvalidArgument("lines", "each must be one line of printable text")


def check_member(server: ServerOptions) -> None:
    """Raise InvalidArgument unless these can be the options of several servers."""
    if server.unix or server.port is not None:
        raise InvalidArgument("server", "several servers listen on free TCP ports: neither port nor unix")


def check_count(argument: str, count: object, least: int, most: int) -> None:
    """Raise InvalidArgument unless ``count`` is a whole number in these bounds."""
    if isinstance(count, bool) or not isinstance(count, int) or not least <= count <= most:
        raise InvalidArgument(argument, f"must be a whole number from {least} to {most}")


def check_time(argument: str, seconds: object) -> None:
    """Raise InvalidArgument unless ``seconds`` can be a server's timeout: 50 ms to an hour."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.05 <= seconds <= 3_600:
        raise InvalidArgument(argument, "must be 0.05 to 3,600 seconds")


def quoted(text: str) -> str:
    """Text as one word of a configuration file."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class RedisServer(ServerProcess):
    """One server, from the beginning to the end of a ``with`` or ``async with`` block, whatever happens in it.

    It ends with the process that started it, also when that one is SIGKILLed. Outside of a block: `start` and
    `close`.

    Args:
        options: see `ServerOptions`.

    Raises:
        InvalidArgument: names what does not fit.
        EmbeddedServerError: no server program was found; from the start: it ended, with the end of its log.

    Example::

        async with RedisServer() as server:
            await server.kill()
            await server.restart()
    """

    def __init__(self, options: ServerOptions = ServerOptions()) -> None:
        super().__init__(
            server_binary(options.binary),
            options.config(),
            unix=options.unix,
            port=options.port,
            password=options.password,
        )
        self.options = options

    @property
    def url(self) -> str:
        """``redis://`` or ``unix://``, with the password if there is one; known before the start."""
        secret = "" if self.options.password is None else quote(self.options.password, safe="")
        if self.socket_path is not None:
            return f"unix://{self.socket_path}?db=0" + (f"&password={secret}" if secret else "")
        login = f":{secret}@" if secret else ""
        return f"redis://{login}{HOST}:{self.port}/0"

    def __repr__(self) -> str:
        return f"RedisServer({self.socket_path or self.port}, running={self.running})"

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __enter__(self) -> Self:
        try:
            self.launch()
            self.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
