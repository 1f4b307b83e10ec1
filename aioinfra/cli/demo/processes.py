"""The demo's child processes: started with their own log file, stopped by pid, within bounds."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

GRACE: Final = 15.0  # seconds for a graceful stop, then SIGKILL


class ChildDiedError(Exception):
    """A child process ended by itself. The message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every child gets: its working directory, the directory of the log files, the environment."""

    directory: Path
    logs: Path
    environment: Mapping[str, str] = field(repr=False)  # may hold a password


class Child:
    """One process. It stops when it is told to, and also when this process is gone (see child.py)."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(
        cls, name: str, module: str, arguments: Sequence[str], surroundings: Surroundings
    ) -> Child:
        """Run ``python -m module arguments``; what it prints goes to its log file.

        A session of its own keeps the terminal's Ctrl-C from it: this process decides when it ends.
        """
        log = surroundings.logs / f"{name}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "aioinfra.cli.demo.child", module, *arguments),
                stdin=PIPE,
                stdout=output,
                stderr=STDOUT,
                cwd=surroundings.directory,
                env=dict(surroundings.environment),
                start_new_session=True,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise when the process has ended.

        Raises:
            ChildDiedError: it has.
        """
        if self._process.returncode is not None:
            raise ChildDiedError(f"{self.name} ended with {self._process.returncode}\n{self._last_lines()}")

    async def stop(self) -> int:
        """Ask with SIGTERM, insist with SIGKILL after the grace; returns the exit code."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    def _last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


class Children:
    """All children of a run; ends those started last first, whatever happened in between."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._running: list[Child] = []

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, name: str, module: str, *arguments: str) -> Child:
        """Start one more."""
        child = await Child.start(name, module, arguments, self._surroundings)
        self._running.append(child)
        return child

    def check(self) -> None:
        """Raise when any has ended.

        Raises:
            ChildDiedError: one has.
        """
        for child in self._running:
            child.check()

    async def stop(self) -> dict[str, int]:
        """Stop those still running, one after the other: the workers drain while the server still answers.

        Returns:
            Exit codes by name.
        """
        codes: dict[str, int] = {}
        while self._running:
            child = self._running[-1]
            codes[child.name] = await asyncio.shield(asyncio.ensure_future(child.stop()))
            self._running.pop()
        return codes
