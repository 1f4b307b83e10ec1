"""One start of the embedded server: lock, join or spawn a guardian, wait for the answer. See guardian.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from aioinfra.connection.embedded_options import EmbeddedOptions
from aioinfra.connection.file_lock import POLL, FileLock
from aioinfra.connection.state_dir import Running, StateDir
from aioinfra.errors import EmbeddedServerError

RECHECK: Final = 0.25  # seconds of waiting for the server between two looks whether its guardian lives
SLOWEST_REPLY: Final = 1.0  # seconds for one PING: a server that loads its data replies only now and then
_GUARDIAN: Final = Path(__file__).with_name("guardian.py")
_KEPT_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ", "LANG", "LC_ALL")
_DAMAGED: Final = (
    "it cannot read its append-only file, which is damaged or of another server's format and was left as it is: "
    "mend it, or move the data directory away"
)
_REASONS: Final = (
    (b"reading the append only file", _DAMAGED),
    (b"FATAL CONFIG FILE ERROR", "it does not accept its configuration"),
    (b"bind: Address already in use", "its TCP port is taken"),
)
_ANSWERS: Final = "it answers"
_LOADING: Final = "it is still loading its data; a longer start_timeout may help"


class Start:
    """One call of start_embedded: joins or starts, until the server answers or the time is up."""

    def __init__(self, options: EmbeddedOptions, binary: Path, state: StateDir, users_lock: FileLock) -> None:
        self._options = options
        self._binary = binary
        self._state = state
        self._users_lock = users_lock
        self._start_lock = FileLock(state.lock("start"))
        self._deadline = time.monotonic() + options.start_timeout
        self._loading = False  # the server has said that it is loading its data

    def run(self) -> Running:
        waited = False
        while True:
            if not self._start_lock.acquire(deadline=self._deadline):
                raise self._late("another process is busy starting or stopping it")
            try:
                running = self._join_or_start(waited=waited)
            finally:
                self._start_lock.release()
            answer = self._wait_for_answer(running.socket)
            if answer is _ANSWERS:
                return running
            if time.monotonic() >= self._deadline:
                raise self._late(answer)
            waited = True  # next round: has the guardian given up, or been killed?

    def _join_or_start(self, *, waited: bool) -> Running:
        """Become a user of a server that is guarded. The caller holds start.lock."""
        if not self._users_lock.acquire(deadline=self._deadline, shared=True):
            raise self._late("its users.lock is held exclusively")
        if self._guardian_lives():
            return self._checked(self._state.running())
        failure = self._state.failure()
        if waited and failure is not None:
            raise EmbeddedServerError(
                f"the embedded server cannot start: {self._explain(failure)}; {self._log}"
            )
        running = self._state.prepare_start(self._options.port, self._options.config)
        self._spawn_guardian(running)
        return running

    def _guardian_lives(self) -> bool:
        probe = FileLock(self._state.lock("guardian"))
        free = probe.try_acquire()
        probe.release()
        return not free

    def _checked(self, running: Running) -> Running:
        if (running.port, running.config) != (self._options.port, dict(self._options.config)):
            raise EmbeddedServerError(
                f"the server in {self._state.path} runs with another port or config: use another state_dir"
            )
        return running

    def _spawn_guardian(self, running: Running) -> None:
        arguments = (str(_GUARDIAN), str(self._state.path), str(self._binary), running.socket)
        log = os.open(self._state.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # It forks and ends, so that what guards is nobody's child and leaves no zombie with us.
            ended = subprocess.run(  # noqa: S603  # our own program
                (sys.executable, "-I", "-S", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
                start_new_session=True,
                timeout=max(0.001, self._deadline - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise self._late("its guardian did not start") from None
        finally:
            os.close(log)
        if ended.returncode:
            raise EmbeddedServerError(f"the guardian of the embedded server cannot start; {self._log}")

    def _wait_for_answer(self, path: str) -> str:
        """Ask until the server answers, for RECHECK seconds or one slow reply; says how it went."""
        until = min(self._deadline, time.monotonic() + RECHECK)
        while (answer := self._ask(path)) is not _ANSWERS and time.monotonic() < until:
            time.sleep(POLL)
        # A busy loader replies now and then only: what it said once explains its silence.
        return _LOADING if self._loading and answer is not _ANSWERS else answer

    def _ask(self, path: str) -> str:
        answer = _ask(path, max(POLL, min(SLOWEST_REPLY, self._deadline - time.monotonic())))
        self._loading = self._loading or answer is _LOADING
        return answer

    def _late(self, state: str) -> EmbeddedServerError:
        waited = f"within {self._options.start_timeout:g} s"
        return EmbeddedServerError(f"the embedded server did not answer {waited}: {state}; {self._log}")

    @property
    def _log(self) -> str:
        return f"see {self._state.log}"

    def _explain(self, failure: str) -> str:
        """The guardian's words, and ours for a known cause. Never the log's own lines: they quote secrets."""
        log = self._state.log.read_bytes() if self._state.log.exists() else b""
        return "; ".join((failure, *(text for mark, text in _REASONS if mark in log)))


def _ask(path: str, timeout: float) -> str:
    """PING the server; one of a few sentences."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(timeout)
        try:
            probe.connect(path)
            probe.sendall(b"PING\r\n")
            reply = probe.recv(64)
        except TimeoutError:
            return "it accepts connections and does not reply"
        except OSError:
            return f"nothing listens on {path}"
    if reply.startswith(b"-LOADING"):
        return _LOADING
    return _ANSWERS if reply.startswith(b"+PONG") else "it refuses PING"
