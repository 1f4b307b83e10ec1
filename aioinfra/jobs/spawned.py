"""A spawned process that leads a group of its own, and whose pid stays its own until it is reaped.

Its end is looked at without being reaped (WNOWAIT), so that no signal can reach a pid that was given to somebody
else. A group of its own: a terminal's Ctrl-C goes to whoever started it, and a kill takes along what it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05


class SpawnedProcess:
    """Starts at once; blocks for a millisecond or two. Owned by whoever made it, who calls `kill` and `reap`.

    Args:
        command: the program and its arguments.
        fd: a file descriptor that it inherits; the only one beside standard output and error.
        env: added to this process' environment.
    """

    def __init__(self, command: Sequence[str], fd: int, env: Mapping[str, str] | None = None) -> None:
        self._popen = subprocess.Popen(  # noqa: S603 - this interpreter, with arguments of ours
            command,
            stdin=subprocess.DEVNULL,
            env=None if env is None else {**os.environ, **env},
            pass_fds=(fd,),
            start_new_session=True,
        )
        self.pid = self._popen.pid

    @property
    def status(self) -> int | None:
        """The exit status, minus the signal's number when one killed it; None while it runs."""
        if self._popen.returncode is not None:
            return self._popen.returncode
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; nothing when it has ended."""
        if self.status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL it and what is left of its group. Does not wait."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    async def ended(self) -> int:
        """Wait for its end without reaping it; its exit status."""
        pause = _FIRST_PAUSE
        while (status := self.status) is None:
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
        return status

    async def reap(self) -> int:
        """Wait for its end, and let go of its pid; its exit status."""
        status = await self.ended()
        self.kill()  # what it has left behind
        self._popen.wait()
        return status


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
