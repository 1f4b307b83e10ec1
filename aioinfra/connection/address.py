"""Where a server is and how to greet it, from its URL.

A Sentinel URL names the Sentinels, the master and its database, as prefect, docket and redisvl write it::

    redis+sentinel://[user:password@]host1[:26379],host2,.../<master name>[/<db>][?sentinel_password=...]

The login is the master's; ``sentinel_username`` and ``sentinel_password`` are the Sentinels'. ``rediss+sentinel``
is TLS to both. Also understood: ``sentinel://``, ``?master_name=`` or ``?service_name=`` with the database as the
path, and Celery's list of URLs with ``;`` between them.

A Cluster URL names some of its nodes and a hash tag, which the client's keys hold; see `connection.cluster`::

    redis+cluster://[user:password@]host1[:6379],host2,.../<hash tag>
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis
from redis.asyncio import connection as redis_connection

from aioinfra.connection import master_connection
from aioinfra.connection.cluster import SlotMaster
from aioinfra.connection.master import Master, Place
from aioinfra.errors import InvalidArgument

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)

_TLS_ARGUMENTS: Final = frozenset(
    {"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_ciphers"}
)
_ARGUMENTS: Final = frozenset({"db", "username", "password", "client_name"})
_SENTINEL_SCHEMES: Final = {
    "redis+sentinel": "redis",
    "sentinel": "redis",
    "rediss+sentinel": "rediss",
}
_SENTINEL_ARGUMENTS: Final = frozenset(
    {"sentinel_username", "sentinel_password", "master_name", "service_name"}
)
_CLUSTER_SCHEMES: Final = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_SENTINEL_PORT: Final = 26379
_MASTER_NAME: Final = re.compile(r"[\w.-]+", re.ASCII)
_CERT_REQS: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_NO_HOST: Final = re.compile(r"[^\w.:%-]")
_LONGEST_DATABASE: Final = 9  # digits
_FALSE: Final = frozenset({"0", "f", "false", "n", "no"})


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Who knows where a master is: at least one Sentinel, and the master's name among them."""

    master_name: str
    members: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Some of its nodes, and the hash tag whose slot is meant."""

    tag: str
    members: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """One server: where it listens, how to authenticate, which database.

    ``path`` is set for a unix socket, ``tls`` for rediss: the ``ssl_*`` arguments under redis-py's names. With
    ``sentinels`` or a ``cluster`` it is whichever server they name; ``host`` and ``port`` mean nothing: see `at`.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    client_name: str | None = None
    tls: Mapping[str, Any] | None = field(default=None, repr=False)
    sentinels: Sentinels | None = None
    cluster: Cluster | None = None

    @property
    def members(self) -> tuple[Address, ...]:
        """Whom to ask for the server; empty where it is given."""
        group = self.sentinels or self.cluster
        return group.members if group is not None else ()

    @property
    def location(self) -> str:
        """The URL without credentials and options."""
        if self.path is not None:
            return f"unix://{self.path}?db={self.db}"
        scheme = "redis" if self.tls is None else "rediss"
        hosts = ",".join([member.host_and_port() for member in self.members])
        if self.cluster is not None:
            return f"{scheme}+cluster://{hosts}/{self.cluster.tag}"
        if self.sentinels is None:
            return f"{scheme}://{self.host_and_port()}/{self.db}"
        return f"{scheme}+sentinel://{hosts}/{self.sentinels.master_name}/{self.db}"

    def host_and_port(self) -> str:
        """As a URL has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def at(self, place: Place) -> Address:
        """The server at a place that was named, greeted as this one."""
        host, port = place
        return replace(self, host=host, port=port, sentinels=None, cluster=None)

    def new_master(self) -> Master | None:
        """What there is to know of the master, for the connections of one client; None where it is given."""
        if self.cluster is not None:
            return SlotMaster(self.cluster.tag, len(self.cluster.members))
        return Master(self.sentinels.master_name, len(self.sentinels.members)) if self.sentinels else None

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

    def async_connection(
        self, master: Master | None = None
    ) -> tuple[type[redis_connection.AbstractConnection], dict[str, Any]]:
        """redis-py's asyncio connection class for this address and its arguments.

        ``master`` is the knowledge to share with other connections that follow the same Sentinels.
        """
        if self.path is not None:
            return redis_connection.UnixDomainSocketConnection, self.arguments()
        plain: type[redis_connection.AbstractConnection] = redis_connection.Connection
        tls: type[redis_connection.AbstractConnection] = redis_connection.SSLConnection
        if self.members:
            plain, tls = master_connection.MasterConnection, master_connection.TlsMasterConnection
        return (plain if self.tls is None else tls), self.arguments() | self._followed(master)

    def sync_connection(
        self, master: Master | None = None
    ) -> tuple[type[redis.connection.AbstractConnection], dict[str, Any]]:
        """redis-py's synchronous connection class for this address and its arguments; see `async_connection`."""
        if self.path is not None:
            return redis.UnixDomainSocketConnection, self.arguments()
        plain: type[redis.connection.AbstractConnection] = redis.Connection
        tls: type[redis.connection.AbstractConnection] = redis.SSLConnection
        if self.members:
            plain = master_connection.BlockingMasterConnection
            tls = master_connection.BlockingTlsMasterConnection
        return (plain if self.tls is None else tls), self.arguments() | self._followed(master)

    def _followed(self, master: Master | None) -> dict[str, Any]:
        if not self.members:
            return {}
        members = [member.arguments() for member in self.members]
        return {"master": master or self.new_master(), "members": members}

    def arguments(self) -> dict[str, Any]:
        """Those of redis-py's connections."""
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

    Query arguments: ``db``, ``username``, ``password``, ``client_name``, and for rediss ``ssl_*``. Sentinel URLs:
    see above.

    Raises:
        InvalidArgument: the URL does not name a server. The message never repeats the URL.
    """
    if isinstance(url, str) and url.partition("://")[0].lower() in _SENTINEL_SCHEMES:
        return _sentinel_address(url)
    if isinstance(url, str) and url.partition("://")[0].lower() in _CLUSTER_SCHEMES:
        return _cluster_address(url)
    parts, port = _split(url)
    query = _query(parts.query, _ARGUMENTS | _TLS_ARGUMENTS if parts.scheme == "rediss" else _ARGUMENTS)
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
    _check_characters(url)
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
        raise InvalidArgument(
            "url", "must start with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
        )
    return parts, port


def _check_characters(url: str) -> None:
    if not url.isprintable():
        raise InvalidArgument("url", "must hold no control characters")
    if "#" in url:
        raise InvalidArgument("url", "has a '#': in a password it is written %23")


def _sentinel_address(url: str) -> Address:
    """By hand: `urlsplit` takes no list of hosts."""
    _check_characters(url)
    scheme, _, rest = url.partition("://")
    tls = _SENTINEL_SCHEMES[scheme.lower()] == "rediss"
    place, _, text = _joined(rest).partition("?")
    login_and_hosts, _, path = place.partition("/")
    login, _, hosts = login_and_hosts.rpartition("@")
    known = _ARGUMENTS | _SENTINEL_ARGUMENTS
    query = _query(text, known | _TLS_ARGUMENTS if tls else known)
    name, database = _name_and_database(path, query)
    user, _, secret = login.partition(":")
    shared: dict[str, Any] = {"tls": _tls(query) if tls else None}
    sentinel = {"username": query.get("sentinel_username"), "password": query.get("sentinel_password")}
    members = tuple(_member(host, sentinel | shared) for host in hosts.split(","))
    return Address(
        username=unquote(user) or query.get("username"),
        password=unquote(secret) or query.get("password"),
        client_name=query.get("client_name"),
        db=_database(database),
        sentinels=Sentinels(name, members),
        **shared,
    )


def _cluster_address(url: str) -> Address:
    _check_characters(url)
    scheme, _, rest = url.partition("://")
    tls = _CLUSTER_SCHEMES[scheme.lower()] == "rediss"
    place, _, text = rest.partition("?")
    login_and_hosts, _, path = place.partition("/")
    login, _, hosts = login_and_hosts.rpartition("@")
    known = _ARGUMENTS - {"db"}
    query = _query(text, known | _TLS_ARGUMENTS if tls else known)
    tag = unquote(path)
    if not _MASTER_NAME.fullmatch(tag):
        raise InvalidArgument(
            "url",
            "of a Cluster needs the hash tag of its keys: redis+cluster://host:6379,host:6379/<hash tag>",
        )
    user, _, secret = login.partition(":")
    shared: dict[str, Any] = {
        "username": unquote(user) or query.get("username"),
        "password": unquote(secret) or query.get("password"),
        "client_name": query.get("client_name"),
        "tls": _tls(query) if tls else None,
    }
    members = tuple(_member(host, shared, 6379) for host in hosts.split(","))
    return Address(cluster=Cluster(tag, members), **shared)


def _joined(rest: str) -> str:
    """Celery's ``host1;sentinel://host2;sentinel://host3/0`` with its hosts in one list; others as they are."""
    first, *others = re.split(r";(?:rediss?\+)?sentinel://", rest)
    if not others:
        return rest
    hosts = [other.partition("/")[0].partition("?")[0].rpartition("@")[2] for other in others]
    cut = re.search("[/?]", first)
    own = first[: cut.start()] if cut else first
    last = re.search("[/?].*", others[-1]) or re.search("[/?].*", first)
    return ",".join([own, *hosts]) + (last.group() if last else "")


def _member(text: str, shared: dict[str, Any], default_port: int = _SENTINEL_PORT) -> Address:
    parts, port = _split(f"redis://{text}")
    if not parts.hostname or port == 0:
        raise InvalidArgument("url", "names a Sentinel or node without a host or with port 0")
    return Address(host=_host(parts), port=default_port if port is None else port, **shared)


def _name_and_database(path: str, query: dict[str, str]) -> tuple[str, str]:
    steps = [unquote(step) for step in path.split("/") if step]
    name = query.get("master_name") or query.get("service_name")
    if name is None:  # a first step of digits is Celery's database, whose master is named elsewhere
        name = steps.pop(0) if steps and not steps[0].isdigit() else ""
    if not _MASTER_NAME.fullmatch(name) or len(steps) > 1:
        raise InvalidArgument(
            "url", "of Sentinels needs the master's name: redis+sentinel://host:26379,host:26379/<name>/<db>"
        )
    return name, query.get("db") or (steps[0] if steps else "0")


def _host(parts: SplitResult) -> str:
    host = unquote(parts.hostname or "localhost")
    # The host is shown in logs: what is no host's name may be a login that was escaped once too often.
    if _NO_HOST.search(host) or (":" in host and "[" not in parts.netloc.rpartition("@")[2]):
        raise InvalidArgument("url", "has characters in its host name that no host has")
    return host


def _query(text: str, known: frozenset[str]) -> dict[str, str]:
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
