"""The process that owns the embedded server. Run as ``python -I -S guardian.py STATE_DIR BINARY SOCKET``.

It imports the standard library alone, and shares no memory with the processes it serves: the four lock files
in the state directory are the whole protocol. The kernel drops a lock with its last holder, also on SIGKILL.

    start.lock     exclusive  whoever starts (a user) or stops (the guardian) the server, for that moment
    users.lock     shared     every user process, for as long as it uses the server
    guardian.lock  exclusive  the guardian, for life
    data.lock      exclusive  the guardian and, inherited, the server: whoever writes the data directory

Invariants
- A user takes users.lock, and the guardian looks whether it is free, only under start.lock: nobody joins a
  server that is being stopped.
- A guardian starts a server only while it holds data.lock: never two servers on one data directory, not
  even while a server outlives a killed guardian for a moment.
- The server dies with the guardian (PDEATHSIG, so on Linux alone). The guardian ends with its last user, or
  after MAX_FAILURES servers in a row that ended, unkilled, before they answered: `failure` then says why.
- One thread and one wait: a thread blocked in flock would make fork and pid reuse unsafe, and a lock cannot
  be selected on. So users.lock is tried every TICK seconds; a dead server wakes the wait at once.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

TICK = 0.2  # seconds between two looks at users.lock
STARTING_TICK = 0.01  # the same, and between two PINGs, until the server has answered
MAX_FAILURES = 5
FIRST_PAUSE = 0.05  # seconds before the third start of a server that does not come up; doubles each time
DATA_WAIT = 5.0  # seconds for a killed guardian's server to end
STOP_GRACE = 10.0  # seconds from SIGTERM to SIGKILL: a slow disk may still be taking the last writes
REPEAT_TERM = 0.5  # seconds; a SIGTERM that arrives between fork and exec is lost
KILLED = (signal.SIGKILL, signal.SIGTERM)  # somebody's doing, so no failure of the server
PR_SET_PDEATHSIG = 1
LOCK_TAKEN = 3  # exit status


def open_lock(name: str) -> int:
    return os.open(name, os.O_RDWR | os.O_CREAT, 0o600)


def try_lock(fd: int) -> bool:
    """Take the lock exclusively if it is free."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def say(text: str) -> None:
    """One line into the log, which is standard error."""
    line = f"{os.getpid()}:guardian {time.strftime('%d %b %Y %H:%M:%S')} {text}\n"
    with suppress(OSError):  # a full disk must not take the guardian, and with it the server
        os.write(2, line.encode(errors="replace"))


class Guardian:
    """Keeps one server alive until its last user is gone. The working directory is the state directory."""

    def __init__(self, binary: str, socket_path: str, guardian_lock: int) -> None:
        self._binary = binary
        self._socket_path = socket_path
        self._guardian_lock = guardian_lock  # held by being open
        self._start_lock = open_lock("start.lock")
        self._users_lock = open_lock("users.lock")
        self._data_lock = open_lock("data.lock")
        self._libc = ctypes.CDLL(None)  # loaded here: after a fork there should be little left to do
        self._wake, wake_write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        self._asked_to_stop = False
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler is what makes the wakeup fd fire
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_stop_signal)
        self._server = 0  # pid of a child that is not reaped yet, else 0
        self._answered = False
        self._failures = 0  # servers in a row that ended before they answered
        self._start_at = 0.0  # monotonic; when the next server may start

    def run(self) -> None:
        """Serve until there is no reason to. The kernel drops every lock at the end of the process."""
        if self._take_data():
            self._serve()
        else:
            self._give_up("another server still writes the data directory")
        self._remove_socket()

    def _serve(self) -> None:
        while not self._is_unused():
            if not self._server and time.monotonic() >= self._start_at:
                self._spawn()
            self._wait(TICK if self._answered else STARTING_TICK)
            self._reap()
            if self._failures >= MAX_FAILURES:
                return
            if self._server and not self._answered:
                self._answered = self._ping()
        self._stop_server()

    def _take_data(self) -> bool:
        deadline = time.monotonic() + DATA_WAIT
        while not try_lock(self._data_lock):
            if time.monotonic() >= deadline:
                return False
            time.sleep(STARTING_TICK)
        return True

    def _is_unused(self) -> bool:
        """True when this guardian has to stop; it then holds start.lock, so that nobody joins any more."""
        if not try_lock(self._start_lock):
            return False  # somebody is joining right now
        if self._asked_to_stop or try_lock(self._users_lock):
            return True
        fcntl.flock(self._start_lock, fcntl.LOCK_UN)
        return False

    def _spawn(self) -> None:
        own_pid = os.getpid()
        self._answered = False
        self._server = os.fork()
        if self._server == 0:
            try:
                self._become_server(own_pid)
            finally:
                os._exit(127)

    def _become_server(self, guardian_pid: int) -> None:
        # Before PDEATHSIG is asked for: Python's handler would swallow the signal until exec.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        if sys.platform == "linux":
            self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guardian_pid:
            os._exit(0)  # the guardian ended before it could take us with it
        os.set_inheritable(self._data_lock, True)
        try:
            os.execv(self._binary, [self._binary, "server.conf"])  # noqa: S606  # no shell is the point
        except OSError as error:
            say(f"cannot run {self._binary}: {error.strerror}")

    def _wait(self, seconds: float) -> None:
        """Sleep, but no longer than to the next signal."""
        if select.select([self._wake], [], [], seconds)[0]:
            os.read(self._wake, 4096)

    def _reap(self) -> None:
        """Notice that the server ended, and decide when the next one starts."""
        if not self._server:
            return
        pid, status = os.waitpid(self._server, os.WNOHANG)
        if not pid:
            return
        self._server = 0
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        say(f"the server ended ({how})")
        if self._answered:
            self._failures, self._answered = 0, False
        elif -code not in KILLED:
            self._count_failure(how)

    def _count_failure(self, how: str) -> None:
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            self._give_up(f"the server ended {MAX_FAILURES} times before it answered (last: {how})")
        elif self._failures > 1:
            self._start_at = time.monotonic() + FIRST_PAUSE * 2 ** (self._failures - 2)

    def _ping(self) -> bool:
        """True when the server answers, and not merely that it is loading its data."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(0.1)
            try:
                probe.connect(self._socket_path)
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False

    def _stop_server(self) -> None:
        """SIGTERM, and SIGKILL after the grace. The server is our child, so its pid cannot be reused."""
        kill_at = time.monotonic() + STOP_GRACE
        term_at = 0.0
        while self._server:
            now = time.monotonic()
            if now >= kill_at:
                os.kill(self._server, signal.SIGKILL)
            elif now >= term_at:
                os.kill(self._server, signal.SIGTERM)
                term_at = now + REPEAT_TERM
            self._wait(0.05)
            if os.waitpid(self._server, os.WNOHANG)[0]:
                self._server = 0

    def _give_up(self, reason: str) -> None:
        say(f"giving up: {reason}")
        Path("failure").write_text(reason, encoding="utf-8")

    def _remove_socket(self) -> None:
        with suppress(OSError):  # with somebody else's file in it the directory stays
            Path(self._socket_path).unlink(missing_ok=True)
            Path(self._socket_path).parent.rmdir()

    def _on_stop_signal(self, *_: object) -> None:
        self._asked_to_stop = True


def main(state_dir: str, binary: str, socket_path: str) -> int:
    """Detach from the process that started this one, then guard.

    The lock is taken before the fork: when the starter sees this process end with 0, a guardian exists.
    """
    os.umask(0o077)
    os.chdir(state_dir)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what the starter's thread had blocked is not ours
    guardian_lock = open_lock("guardian.lock")
    if not try_lock(guardian_lock):
        return LOCK_TAKEN
    if os.fork():
        return 0
    Guardian(binary, socket_path, guardian_lock).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
