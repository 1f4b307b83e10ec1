"""`aioinfra cache explain` and `warm`: what they print, what they change, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as blocking_redis
from typer.testing import CliRunner, Result

from aioinfra.cache.manager import CacheManager
from aioinfra.cli.app import app
from aioinfra.codec.dictionaries import train
from aioinfra.codec.envelope import Envelope
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.layout import Stamp

Run = Callable[..., Result]


@pytest.fixture
def server(redis_url: str) -> Iterator[blocking_redis.Redis]:
    opened = blocking_redis.Redis.from_url(redis_url)
    yield opened
    opened.close()


@pytest.fixture
def run(redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command of the group in this process, with the server in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*words: str) -> Result:
        env = {"REDIS_URL": redis_url}
        return CliRunner().invoke(app, ["cache", *words, "--namespace", prefix], env=env)

    return run


@pytest.fixture
def module(tmp_path: Path, prefix: str) -> str:
    """A module of sources, with a name of its own."""
    name = "sources_" + prefix.rstrip(":")
    (tmp_path / f"{name}.py").write_text(
        "number = 5\n"
        "async def load():\n"
        "    return {'name': 'ada'}\n"
        "async def fail():\n"
        "    raise LookupError('nothing')\n"
        "plain = {str(number): number for number in range(1000)}\n"
        "def pairs():\n"
        "    yield 'a', load\n"
        "    yield 'b\\x1b', fail\n"
        "    yield 'c', 3\n"
        "async def gone():\n"
        "    raise OSError('the database is gone')\n"
        "    yield\n"
    )
    return name


async def fill(url: str, prefix: str) -> None:
    async with CacheManager(url, namespace=prefix) as cache:
        await cache.set("k", {"secret": "x" * 2000}, ttl=60, tags=["user:1"])
        await cache.set("old", 1, tags=["user:2"])
        await cache.invalidate_tag("user:2")


async def test_explain_tells_why(run: Run, redis_url: str, prefix: str, server: blocking_redis.Redis) -> None:
    await fill(redis_url, prefix)
    done = await asyncio.to_thread(run, "explain", "k")
    assert done.exit_code == 0, done.output
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert (lines["key"], lines["layer"], lines["state"]) == ("'k'", "server", "fresh")
    assert lines["sizes"].startswith(f"{server.strlen(prefix + 'k')} bytes")
    assert lines["tags"] == "'user:1'"
    assert "xxx" not in done.output

    done = await asyncio.to_thread(run, "explain", "old", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["state"], found["reasons"]) == ("unusable", ["tag 'user:2' was invalidated"])

    done = await asyncio.to_thread(run, "explain", "noth\x1bing")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[:2] == ["key        'noth\\x1bing'", "layer      absent"]
    assert (await asyncio.to_thread(run, "explain", "")).exit_code == 2


def test_explain_writes_nothing(run: Run, server: blocking_redis.Redis, prefix: str) -> None:
    assert run("explain", "k").exit_code == 1
    assert list(server.scan_iter(match=f"*{prefix}*", count=10_000)) == []


def test_the_caches_own_server_is_asked(
    run: Run, own_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, module: str, prefix: str
) -> None:
    own = own_server("--appendonly", "no")
    monkeypatch.setenv("CACHE_REDIS_URL", own.url)
    assert run("warm", f"{module}:plain").exit_code == 0
    with blocking_redis.Redis.from_url(own.url) as client:
        assert client.exists(f"{prefix}999") == 1
    assert run("explain", "999").exit_code == 0
    monkeypatch.delenv("CACHE_REDIS_URL")
    assert run("explain", "999").exit_code == 1


def test_explain_looks_for_the_dictionary(run: Run, server: blocking_redis.Redis, prefix: str) -> None:

    samples = [json.dumps({"name": f"user {at}", "mail": f"{at}@example.com"}).encode() for at in range(500)]
    envelope = Envelope(JsonCodec())
    dictionary = train(samples, 4096)
    envelope.dictionaries.use(dictionary)
    server.set(
        f"{prefix}k", envelope.seal(json.loads(samples[7]) | {"more": "user 8" * 9}, Stamp(1000, 1060))
    )
    found = json.loads(run("explain", "k", "--json").stdout)
    assert found["dictionary"] == dictionary.id
    assert found["reasons"] == [f"dictionary {dictionary.id} is unknown: it is not on the server"]
    server.set(f"aioinfra:cache-meta:{prefix}dict:{dictionary.id}", dictionary.content, ex=60)
    assert json.loads(run("explain", "k", "--json").stdout)["reasons"] == []


def test_warm_stores_and_reports(run: Run, module: str, server: blocking_redis.Redis, prefix: str) -> None:
    done = run("warm", f"{module}:plain", "--ttl", "500", "--rate", "20000")
    assert done.exit_code == 0, done.output
    assert done.stdout == "stored 1000, failed 0\n"
    left: Any = server.ttl(f"{prefix}999")
    assert 400 < left <= 500

    done = run("warm", f"{module}:pairs", "--concurrency", "2")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == "stored 2, failed 1"
    assert "LookupError" in done.stdout
    assert "\x1b" not in done.stdout
    found = json.loads(run("warm", f"{module}.pairs", "--json").stdout)
    assert found == {"stored": 2, "failed": 1, "failures": {"b\x1b": "LookupError"}}


@pytest.mark.parametrize(
    "words",
    [
        ["nothing.here:x"],
        ["{module}:nothing"],
        ["{module}:plain", "--rate", "0"],
        ["{module}:plain", "--concurrency", "0"],
        ["{module}:plain", "--ttl", "-1"],
        ["{module}:plain", "--serialization", "pickle"],
        ["{module}:number"],
    ],
)
def test_warm_refuses_what_is_senseless(run: Run, module: str, words: list[str]) -> None:
    done = run("warm", *[word.format(module=module) for word in words])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output


def test_an_error_of_the_source_is_shown_as_it_is(run: Run, module: str) -> None:
    done = run("warm", f"{module}:gone")
    assert isinstance(done.exception, OSError)


def test_a_terminal_gets_a_bar(redis_url: str, prefix: str, module: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "aioinfra", "cache", "warm", f"{module}:plain", "--rate", "2000"]
    done = subprocess.Popen(
        [*command, "--namespace", prefix],
        cwd=tmp_path,
        env={**os.environ, "REDIS_URL": redis_url, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        shown += piece
    os.close(ours)
    output, _ = done.communicate(timeout=30)
    assert output == b"stored 1000, failed 0\n"
    assert b"warming" in shown
    assert b"100%" in shown
