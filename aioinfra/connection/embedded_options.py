"""How the embedded server is started, checked before anything happens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aioinfra.errors import InvalidArgument

_CONFIG_NAME: Final = re.compile(r"[a-z][a-z0-9-]*")
_LONGEST_START: Final = 86_400
_NO_PATH: Final = re.compile(
    "[\0\ud800-\udc7f\udd00-\udfff]"
)  # NUL, and what stands for no byte of a file's name
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
        _check_configs(self.config)


def _check_state_dir(value: object) -> None:
    if not isinstance(value, str | Path) or not str(value) or _NO_PATH.search(str(value)):
        raise InvalidArgument("state_dir", "must be a path")


def _check_timeout(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument("start_timeout", "must be a number of seconds")
    if not 0 < value <= _LONGEST_START:  # false for NaN, too
        raise InvalidArgument("start_timeout", f"must be positive and at most {_LONGEST_START:,} seconds")


def _check_port(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
        raise InvalidArgument("port", "must be a whole number from 0 to 65535")


def _check_configs(config: object) -> None:
    if not isinstance(config, Mapping):
        raise InvalidArgument("config", "must be a mapping, with names as in valkey.conf")
    for name, value in config.items():
        _check_config(name, value)


def _check_config(name: object, value: object) -> None:
    if not isinstance(name, str) or not _CONFIG_NAME.fullmatch(name):
        raise InvalidArgument("config", "names are as in valkey.conf: lower-case letters, digits and '-'")
    if name in _OWN_CONFIG:
        raise InvalidArgument("config", f"{name} is set by aioinfra")
    if not isinstance(value, str) or not value.isprintable():
        raise InvalidArgument("config", f"{name} must be text on one line, as in valkey.conf")
