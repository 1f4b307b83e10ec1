"""A child process that never outlives its parent, and whose pid stays its own until the kit lets go of it.

    gate      a shell that waits for one line, then becomes the program (exec: same pid)
    watchdog  a shell that waits for the parent's end, then kills the program's process group

The gate opens when the watchdog stands, so there is no moment at which a SIGKILL of the parent leaves an orphan.
A watchdog instead of PDEATHSIG: that one follows the *thread* that started the child, and a stopped child's
grandchildren would stay. The child is looked at without being reaped (WNOWAIT) until `close`: no signal of the
kit can reach a pid that was given to somebody else. Linux.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_GATE = 'read -r _ && exec "$@" </dev/null'
_WATCHDOG = 'read -r _; kill -s KILL -- "-$0"; test -z "$1" || rm -rf -- "$1"'
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class ChildOptions:
    """How a child is started.

    Attributes:
        output: file descriptor that takes its standard output and error.
        env: its whole environment, or None for the parent's.
        cwd: its working directory, or None for the parent's.
        pass_fds: file descriptors that it inherits.
        remove: directory that the watchdog removes when the parent dies.
    """

    output: int = subprocess.DEVNULL
    env: Mapping[str, str] | None = None
    cwd: Path | str | None = None
    pass_fds: Sequence[int] = ()
    remove: Path | None = None


class ChildProcess:
    """One child in a process group of its own, so that a terminal's Ctrl-C does not reach it.

    Starts at once. Owned by whoever made it, who calls `close`.
    """

    def __init__(self, command: Sequence[str], options: ChildOptions = ChildOptions()) -> None:
        self._popen = subprocess.Popen(  # noqa: S603 - the program is the caller's
            ["/bin/sh", "-c", _GATE, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=options.output,
            stderr=options.output,
            env=options.env,
            cwd=options.cwd,
            pass_fds=options.pass_fds,
            process_group=0,
        )
        self.pid = self._popen.pid
        self._code: int | None = None
        try:
            self._watchdog = subprocess.Popen(  # noqa: S603 - as above
                ["/bin/sh", "-c", _WATCHDOG, str(self.pid), str(options.remove or "")],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            self._popen.communicate()  # end of file: the gate stays shut
            raise
        self._open_gate()

    def _open_gate(self) -> None:
        gate = self._popen.stdin
        if gate is None:  # pragma: no cover - it was asked for
            return
        with contextlib.suppress(BrokenPipeError):
            gate.write(b"\n")
            gate.flush()
        gate.close()

    @property
    def code(self) -> int | None:
        """The exit status, minus the signal's number when one killed it; None while it runs."""
        if self._code is None:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is not None:
                exited = found.si_code == os.CLD_EXITED
                self._code = found.si_status if exited else -found.si_status
        return self._code

    @property
    def running(self) -> bool:
        """Whether it has not ended; True also while it is stopped."""
        return self.code is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing when it has ended."""
        if self.running:
            os.kill(self.pid, number)

    def freeze(self) -> None:
        """SIGSTOP; returns when the process stands still."""
        if self.running:
            os.kill(self.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """SIGCONT; nothing when it was not stopped."""
        self.send(signal.SIGCONT)

    async def exited(self, timeout: float) -> int:
        """Wait for its end; the exit status as `code`.

        Raises:
            TimeoutError: it still runs after ``timeout`` seconds.
        """
        pause = _FIRST_PAUSE
        async with asyncio.timeout(timeout):
            while (code := self.code) is None:
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
        return code

    def wait(self, timeout: float) -> int:
        """As `exited`, blocking the thread."""
        pause, deadline = _FIRST_PAUSE, time.monotonic() + timeout
        while (code := self.code) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} still runs after {timeout:g} s")
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
        return code

    def close(self) -> None:
        """SIGKILL its whole group if anything is left of it, and reap it. Takes milliseconds; may be repeated."""
        if self._popen.returncode is not None:
            return
        self._watchdog.kill()
        self._watchdog.communicate()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(30)
        self._popen.wait()
