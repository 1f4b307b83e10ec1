"""Where a server is and how to greet it, from its URL."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis
from redis.asyncio import connection as redis_connection

from aioinfra.errors import InvalidArgument

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)

_TLS_ARGUMENTS: Final = frozenset(
    {"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_ciphers"}
)
_ARGUMENTS: Final = frozenset({"db", "username", "password", "client_name"})
_CERT_REQS: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_NO_HOST: Final = re.compile(r"[^\w.:%-]")
_LONGEST_DATABASE: Final = 9  # digits
_FALSE: Final = frozenset({"0", "f", "false", "n", "no"})


@dataclass(frozen=True, slots=True)
class Address:
    """One server: where it listens, how to authenticate, which database.

    ``path`` is set for a unix socket, ``tls`` for rediss: the ``ssl_*`` arguments under redis-py's names.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    client_name: str | None = None
    tls: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def location(self) -> str:
        """The URL without credentials and options."""
        if self.path is not None:
            return f"unix://{self.path}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'redis' if self.tls is None else 'rediss'}://{host}:{self.port}/{self.db}"

    def greeting(self) -> list[tuple[str | int, ...]]:
        """The commands that a new connection starts with."""
        commands: list[tuple[str | int, ...]] = []
        if self.username:
            commands.append(("AUTH", self.username, self.password or ""))
        elif self.password:
            commands.append(("AUTH", self.password))
        if self.client_name:
            commands.append(("CLIENT", "SETNAME", self.client_name))
        if self.db:
            commands.append(("SELECT", self.db))
        return commands

    async def open(
        self, protocol: Callable[[], _ProtocolT], tls: ssl.SSLContext | None
    ) -> tuple[asyncio.Transport, _ProtocolT]:
        """Connect and return the transport with its protocol; no greeting yet. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            return await loop.create_unix_connection(protocol, self.path)
        return await loop.create_connection(protocol, self.host, self.port, ssl=tls)

    def tls_context(self) -> ssl.SSLContext | None:
        """A context for rediss, verifying the host name unless the URL says otherwise. Reads files: slow."""
        if self.tls is None:
            return None
        context = ssl.create_default_context(cafile=self.tls.get("ssl_ca_certs"))
        context.check_hostname = self.tls["ssl_check_hostname"]
        context.verify_mode = _CERT_REQS[self.tls["ssl_cert_reqs"]]
        if "ssl_certfile" in self.tls:
            context.load_cert_chain(self.tls["ssl_certfile"], self.tls.get("ssl_keyfile"))
        if "ssl_ciphers" in self.tls:
            context.set_ciphers(self.tls["ssl_ciphers"])
        return context

    def async_connection(self) -> tuple[type[redis_connection.AbstractConnection], dict[str, Any]]:
        """redis-py's asyncio connection class for this address and its arguments."""
        if self.path is not None:
            return redis_connection.UnixDomainSocketConnection, self._arguments()
        plain, tls = redis_connection.Connection, redis_connection.SSLConnection
        return (plain if self.tls is None else tls), self._arguments()

    def sync_connection(self) -> tuple[type[redis.connection.AbstractConnection], dict[str, Any]]:
        """redis-py's synchronous connection class for this address and its arguments."""
        if self.path is not None:
            return redis.UnixDomainSocketConnection, self._arguments()
        return (redis.Connection if self.tls is None else redis.SSLConnection), self._arguments()

    def _arguments(self) -> dict[str, Any]:
        where = {"path": self.path} if self.path is not None else {"host": self.host, "port": self.port}
        return {
            **where,
            **(self.tls or {}),
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "client_name": self.client_name,
            "protocol": 2,
        }


def parse_address(url: str) -> Address:
    """Read ``redis://``, ``rediss://`` or ``unix://`` URLs as redis-py does, but refuse what it ignores.

    Query arguments: ``db``, ``username``, ``password``, ``client_name``, and for rediss ``ssl_*``.

    Raises:
        InvalidArgument: the URL does not name a server. The message never repeats the URL.
    """
    parts, port = _split(url)
    query = _query(parts.query, allow_tls=parts.scheme == "rediss")
    username = unquote(parts.username) if parts.username else query.get("username")
    password = unquote(parts.password) if parts.password else query.get("password")
    shared: dict[str, Any] = {
        "username": username,
        "password": password,
        "client_name": query.get("client_name"),
    }
    if parts.scheme == "unix":
        if not parts.path or (parts.netloc and not parts.netloc.endswith("@")):
            raise InvalidArgument("url", "unix:// needs the path of a socket, after nothing but a login")
        return Address(path=unquote(parts.path), db=_database(query.get("db", "0")), **shared)
    return Address(
        host=_host(parts),
        port=6379 if port is None else port,
        db=_database(query.get("db") or unquote(parts.path).strip("/") or "0"),
        tls=_tls(query) if parts.scheme == "rediss" else None,
        **shared,
    )


def _split(url: str) -> tuple[SplitResult, int | None]:
    """The URL's parts and its port. Where the URL is malformed, nobody can say which part is the password."""
    if not isinstance(url, str):
        raise InvalidArgument("url", "must be a string")
    if not url.isprintable():
        raise InvalidArgument("url", "must hold no control characters")
    if "#" in url:
        raise InvalidArgument("url", "has a '#': in a password it is written %23")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts = None
    if parts is None:  # outside of the handler: the ValueError in __context__ would quote the URL
        raise InvalidArgument(
            "url",
            "is not a URL with a port from 0 to 65535; in a password '/', '?', '@' are written %2F, %3F, %40",
        )
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise InvalidArgument("url", "must start with redis://, rediss:// or unix://")
    return parts, port


def _host(parts: SplitResult) -> str:
    host = unquote(parts.hostname or "localhost")
    # The host is shown in logs: what is no host's name may be a login that was escaped once too often.
    if _NO_HOST.search(host) or (":" in host and "[" not in parts.netloc.rpartition("@")[2]):
        raise InvalidArgument("url", "has characters in its host name that no host has")
    return host


def _query(text: str, *, allow_tls: bool) -> dict[str, str]:
    known = _ARGUMENTS | _TLS_ARGUMENTS if allow_tls else _ARGUMENTS
    found: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in known:
            # An unknown name may be a mistyped password: not repeated.
            raise InvalidArgument("url", f"has a query argument other than {', '.join(sorted(known))}")
        if value:
            found[name] = value
    return found


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_DATABASE):
        raise InvalidArgument("url", "the database must be a whole number of at least 0")
    return int(text)


def _tls(query: Mapping[str, str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {name: query[name] for name in _TLS_ARGUMENTS if name in query}
    requirement = chosen.setdefault("ssl_cert_reqs", "required")
    if requirement not in _CERT_REQS:
        raise InvalidArgument("url", "ssl_cert_reqs must be none, optional or required")
    check = chosen.get("ssl_check_hostname")
    # redis-py's own default is not to check, which accepts any valid certificate from anyone.
    chosen["ssl_check_hostname"] = requirement != "none" if check is None else check.lower() not in _FALSE
    if requirement == "none" and chosen["ssl_check_hostname"]:
        raise InvalidArgument("url", "ssl_check_hostname needs ssl_cert_reqs of optional or required")
    return chosen
