"""A state directory that holds junk: what a start writes anew it does, for the rest it says what to remove."""

from __future__ import annotations

import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from aioinfra.connection.embedded import EmbeddedOptions, EmbeddedServer, start_embedded
from aioinfra.connection.state_dir import LONGEST_SOCKET
from aioinfra.errors import EmbeddedServerError, InvalidArgument

FILES = [
    "server.json", "server.conf", "server.log", "server.log.1", "failure",
    "start.lock", "users.lock", "guardian.lock", "data.lock",
]  # fmt: skip


def make_link_to_nowhere(path: Path) -> None:
    path.symlink_to("/nonexistent/there")


def make_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


NO_FILES: list[Callable[[Path], None]] = [
    Path.mkdir, make_link_to_nowhere, make_link_to_itself, os.mkfifo, make_socket,
]  # fmt: skip


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


def start(state_dir: Path) -> EmbeddedServer:
    return start_embedded(EmbeddedOptions(state_dir=state_dir, start_timeout=20))


def answers(server: EmbeddedServer) -> bool:
    with redis.Redis.from_url(server.url) as client:
        return bool(client.ping())


@pytest.mark.parametrize("junk", [b"", random.Random(1).randbytes(500)], ids=["empty", "binary"])
def test_what_leftover_files_hold_does_not_matter(state_dir: Path, junk: bytes) -> None:
    for name in (*FILES, ".gitignore"):
        (state_dir / name).write_bytes(junk)
    with start(state_dir) as server:
        assert answers(server)


@pytest.mark.parametrize("make", NO_FILES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", [*FILES, "data"])
def test_what_is_no_file_is_named_with_its_role_and_what_to_do(
    state_dir: Path, name: str, make: Callable[[Path], None]
) -> None:
    if name == "data":
        make = Path.touch if make is Path.mkdir else make
    make(state_dir / name)
    began = time.monotonic()
    with pytest.raises(EmbeddedServerError, match=rf"{re.escape(name)}, [a-z' ]+, is no \w+: remove it"):
        start(state_dir)
    assert time.monotonic() - began < 5, "reading a pipe waits for ever"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_closed_to_us_is_named(state_dir: Path, name: str) -> None:
    (state_dir / name).touch(mode=0)
    with pytest.raises(EmbeddedServerError, match=rf"{re.escape(name)}, .*: chmod 600 it, or remove it"):
        start(state_dir)


def test_a_gitignore_of_any_kind_is_left_alone(state_dir: Path) -> None:
    make_link_to_nowhere(state_dir / ".gitignore")
    with start(state_dir) as server:
        assert answers(server)
    assert (state_dir / ".gitignore").is_symlink()


@pytest.fixture
def running(state_dir: Path) -> Iterator[EmbeddedServer]:
    with start(state_dir) as server:
        yield server


LONG = f"/{'x' * LONGEST_SOCKET}"


@pytest.mark.parametrize(
    "facts",
    [
        b"", b"\xff\xfe", b"[]", b"7", b"null", b"{}", b"[" * 100_000,
        b'{"socket": 7, "port": 0, "config": {}}',
        b'{"socket": "", "port": 0, "config": {}}',
        b'{"socket": "/a\\u0000b", "port": 0, "config": {}}',
        b'{"socket": "\\ud800", "port": 0, "config": {}}',
        b'{"socket": "%s", "port": 0, "config": {}}' % LONG.encode(),
        b'{"socket": "/s", "port": "0", "config": {}}',
        b'{"socket": "/s", "port": 0, "config": {"a": 1}}',
        b'{"socket": "/s", "port": 0, "config": 7}',
    ],
)  # fmt: skip
def test_a_damaged_record_of_the_running_server_is_named(running: EmbeddedServer, facts: bytes) -> None:
    record = running.state_dir / "server.json"
    record.write_bytes(facts)
    with pytest.raises(EmbeddedServerError, match=r"server\.json, .*, is damaged: end the processes"):
        start(running.state_dir)
    assert answers(running), "whoever uses it goes on"


def test_a_directory_in_the_place_of_the_socket_is_named(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "r"
    runtime.mkdir(mode=0o700)
    if len(str(runtime)) > LONGEST_SOCKET - 30:
        pytest.skip("the temporary directory's path is too long for a socket")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with start(state_dir) as server:
        place = Path(server.url.removeprefix("unix://").partition("?")[0])
    while place.parent.exists():  # the guardian removes it once the server has ended
        time.sleep(0.01)
    place.mkdir(mode=0o700, parents=True)
    place.parent.chmod(0o700)
    with pytest.raises(
        EmbeddedServerError, match="where the server's socket belongs, is a directory: remove it"
    ):
        start(state_dir)
    place.rmdir()
    place.parent.rmdir()
    make_link_to_nowhere(place.parent)
    with pytest.raises(EmbeddedServerError, match="must be a directory of yours with mode 0700"):
        start(state_dir)


def test_the_state_directory_itself_may_be_no_directory(tmp_path: Path) -> None:
    for make in NO_FILES[1:4]:
        make(tmp_path / make.__name__)
        with pytest.raises(EmbeddedServerError, match="as state_dir"):
            start(tmp_path / make.__name__)


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800"])
def test_what_can_be_no_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match="state_dir"):
        EmbeddedOptions(state_dir=path)


@pytest.mark.parametrize(
    "wrong",
    [{"start_timeout": 10**400}, {"config": None}, {"config": 5}, {"config": []}, {"config": {5: "a"}}],
    ids=str,
)
def test_what_is_no_option_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        EmbeddedOptions(**wrong)
    assert [refused.value.argument] == list(wrong)
