"""An environment of its own for every contestant, made when it is first needed and kept.

With uv where that is installed, else with venv and pip; either asks the package index that it is configured for.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.errors import BenchmarkError
from benchmarks.peers.catalogue import ENVIRONMENTS, OWN

DIRECTORY: Final = ".bench"
TIMEOUT: Final = 600.0
STAMP: Final = "complete"


class InstallError(BenchmarkError):
    """A contestant's environment could not be made; the text is the installer's last word."""


class Environments:
    """Environments under ``directory``. One process at a time makes each of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()

    def python(self, name: str) -> str:
        """The interpreter of an environment, which is made first if there is none with these requirements.

        Raises:
            InstallError: something could not be installed.
        """
        if name == OWN:
            return sys.executable
        home = self._directory / name
        mark = fingerprint(ENVIRONMENTS[name])
        with self._locked(name):
            if not complete(home, mark):
                make(home, ENVIRONMENTS[name])
                (home / STAMP).write_text(mark, encoding="ascii")
        return str(interpreter(home))

    def missing(self, names: set[str]) -> list[str]:
        """Those that have to be made, in order."""
        return [
            name
            for name in sorted(names - {OWN})
            if not complete(self._directory / name, fingerprint(ENVIRONMENTS[name]))
        ]

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def interpreter(home: Path) -> Path:
    return home / "bin" / "python"


def fingerprint(requirements: tuple[str, ...]) -> str:
    """Changes with the requirements and the Python version."""
    text = "\n".join((*sorted(requirements), platform.python_version()))
    return hashlib.sha256(text.encode()).hexdigest()


def complete(home: Path, mark: str) -> bool:
    stamp = home / STAMP
    return stamp.is_file() and stamp.read_text(encoding="ascii") == mark and interpreter(home).exists()


def make(home: Path, requirements: tuple[str, ...]) -> None:
    """Make an environment anew.

    Raises:
        InstallError: something could not be installed.
    """
    shutil.rmtree(home, ignore_errors=True)
    python = str(interpreter(home))
    if uv := shutil.which("uv"):
        run([uv, "venv", "--quiet", "--python", sys.executable, str(home)])
        run([uv, "pip", "install", "--quiet", "--python", python, *requirements])
    else:
        run([sys.executable, "-m", "venv", str(home)])
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])


def run(command: list[str]) -> None:
    """Run one step; whatever ends this ends it and its children too.

    Raises:
        InstallError: it failed or took too long.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise InstallError(f"took longer than {TIMEOUT:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise InstallError(reason(output))


def reason(output: str) -> str:
    """The line that says why, without addresses: an index's may hold a password."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    found = (errors or lines or ["no reason given"])[-1]
    return re.sub(r"\w+://\S+", "<address>", found)[:200]
