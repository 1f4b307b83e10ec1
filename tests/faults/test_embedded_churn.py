"""The embedded server under processes that come and go, and whatever kills its processes meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis

from aioinfra.connection.embedded import EmbeddedOptions, start_embedded
from tests.faults.workload import ROOT

pytest_plugins = ["aioinfra.testing.pytest_plugin"]

USERS, USES = 24, 2
ORPHANS_GONE_WITHIN = 2.0

# 24 processes, forked so that they run from the same moment. Each uses the server a few times: it adds members of
# its own to a set and reports those that were acknowledged; then it leaves, in order or by SIGKILL, which its
# parent makes good with a new process. A use that lost its server or guardian starts anew.
CROWD = """
import os, random, signal, sys, time
import redis
from aioinfra.connection.embedded import EmbeddedOptions, start_embedded
from aioinfra.errors import EmbeddedServerError
state_dir, seed, users, uses = sys.argv[1], *map(int, sys.argv[2:5])
EXPECTED = (redis.RedisError, EmbeddedServerError, OSError)

def use(name, draw):
    number, left, deadline = 0, draw.randrange(5, 40), time.monotonic() + 20
    while left and time.monotonic() < deadline:
        try:
            with start_embedded(EmbeddedOptions(state_dir=state_dir, start_timeout=20)) as server:
                with redis.Redis.from_url(server.url, socket_timeout=2) as client:
                    while left:
                        number, left = number + 1, left - 1
                        client.sadd("members", f"{name}:{number}")
                        os.write(1, f"{name}:{number}\\n".encode())
                        time.sleep(draw.uniform(0, 0.02))
        except EXPECTED:
            time.sleep(0.05)
    if left:
        os.write(1, b"stuck\\n")

for user in range(users):
    if os.fork() == 0:
        draw = random.Random(f"{seed}:{user}")
        for turn in range(uses):
            if os.fork() == 0:
                use(f"{user}:{turn}", draw)
                if draw.random() < 0.5:
                    os.kill(os.getpid(), signal.SIGKILL)
                os._exit(0)
            os.wait()
            draw.random()
            time.sleep(draw.uniform(0, 0.1))
        os._exit(0)
for _ in range(users):
    os.wait()
"""


def processes_of(state_dir: Path) -> list[psutil.Process]:
    """The guardians and servers of a state directory: they work in it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(state_dir) and lives(process):
                found.append(process)
    return found


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_server(process: psutil.Process) -> bool:
    try:
        return Path(process.exe()).name == "valkey-server"
    except (psutil.Error, OSError):
        return False


class Killer(threading.Thread):
    """Kills the server or its guardian every so often, and counts the servers that live at one moment."""

    def __init__(self, state_dir: Path, draw: random.Random) -> None:
        super().__init__(name="killer")
        self._state_dir = state_dir
        self._draw = draw
        self._over = threading.Event()
        self.killed = {"server": 0, "guardian": 0}
        self.most_servers = 0

    def run(self) -> None:
        pause = 0.3
        victims = self._draw.sample(["server", "guardian"], 2)  # in turn
        while not self._over.wait(pause):
            found = processes_of(self._state_dir)
            servers = [process for process in found if is_server(process)]
            # Looked at twice: one may have ended while the list was made, and its heir have started.
            self.most_servers = max(self.most_servers, sum([lives(process) for process in servers]))
            victim = victims[0]
            targets = servers if victim == "server" else [one for one in found if one not in servers]
            for process in targets[:1]:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
                    self.killed[victim] += 1
                    victims.reverse()
            pause = self._draw.uniform(0.1, 0.6)

    def stop(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "state"
    for process in processes_of(tmp_path / "state"):
        process.kill()


def test_churn_under_kills_keeps_one_server_every_acknowledged_write_and_no_orphan(
    state_dir: Path, seed: int
) -> None:
    killer = Killer(state_dir, random.Random(seed))
    crowd = subprocess.Popen(
        [sys.executable, "-c", CROWD, str(state_dir), str(seed), str(USERS), str(USES)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    killer.start()
    try:
        acknowledged = crowd.communicate(timeout=50)[0].split()
    except subprocess.TimeoutExpired:
        os.killpg(crowd.pid, signal.SIGKILL)
        crowd.communicate()
        raise
    finally:
        killer.stop()
    assert "stuck" not in acknowledged
    assert min(killer.killed.values()) > 0, killer.killed
    assert killer.most_servers == 1
    with start_embedded(EmbeddedOptions(state_dir=state_dir)) as server:
        with redis.Redis.from_url(server.url) as client:
            kept = {member.decode() for member in client.smembers("members")}
        assert sum(is_server(process) for process in processes_of(state_dir)) == 1
    assert len(acknowledged) > USERS * USES
    lost = set(acknowledged) - kept
    left_at = time.monotonic()
    while processes_of(state_dir):
        assert time.monotonic() - left_at < ORPHANS_GONE_WITHIN
        time.sleep(0.02)
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged writes are gone"
