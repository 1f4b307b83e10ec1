"""`aioinfra cache`: what it prints, what it changes, and how it ends."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis as blocking_redis
from typer.testing import CliRunner, Result

from aioinfra.cli.app import app
from aioinfra.codec.dictionaries import Dictionary
from aioinfra.codec.envelope import Envelope
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.layout import Stamp
from benchmarks.cache_compression import customers

Run = Callable[..., Result]


@pytest.fixture
def server(redis_url: str) -> Iterator[blocking_redis.Redis]:
    opened = blocking_redis.Redis.from_url(redis_url)
    yield opened
    opened.close()


@pytest.fixture
def run(redis_url: str, prefix: str) -> Run:
    """Run a command of the group in this process, with the server in the environment."""

    def run(*words: str, **env: str | None) -> Result:
        told: dict[str, str | None] = {"REDIS_URL": redis_url, **env}
        return CliRunner().invoke(app, ["cache", *words, "--namespace", prefix], env=told)

    return run


def fill(server: blocking_redis.Redis, prefix: str, values: list[Any]) -> None:
    envelope = Envelope(JsonCodec())
    pipe = server.pipeline(transaction=False)
    for at, value in enumerate(values):
        pipe.set(f"{prefix}{at}", envelope.seal(value, Stamp(1000.0, 1060.0)), ex=60)
    pipe.execute()


def records(count: int) -> list[Any]:
    return [json.loads(record) for record in customers(count, seed=6)]


def as_json(result: Result, status: int = 0) -> Any:
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def current(server: blocking_redis.Redis, prefix: str) -> Dictionary | None:
    content: Any = server.get(f"aioinfra:cache-meta:{prefix}dict-current")
    return None if content is None else Dictionary(content)


def test_training_shows_what_it_saves_and_publishes(
    run: Run, server: blocking_redis.Redis, prefix: str
) -> None:
    fill(server, prefix, records(600))
    done = run("train")
    assert done.exit_code == 0, done.output
    published = current(server, prefix)
    assert published is not None
    lines = done.stdout.splitlines()
    assert lines[0] == "120 values that the training has not seen:"
    assert lines[2].split() == ["stored", "bytes", "ratio"]
    ratios = {" ".join(line.split()[:-2]): float(line.split()[-1]) for line in lines[4:8]}
    assert ratios["as they are"] == ratios["without a dictionary"] == 1.0  # too small for zstd alone
    assert ratios["with the new dictionary"] >= 2.5 * ratios["zstd alone, at every size"] > 2.5
    assert lines[-1].startswith(
        f"published dictionary {published.id}: {len(published.content)} bytes, from 480 values"
    )
    assert "example.com" not in done.output


def test_a_dry_run_publishes_nothing(run: Run, server: blocking_redis.Redis, prefix: str) -> None:
    fill(server, prefix, records(200))
    found = as_json(run("train", "--dry-run", "--json", "--samples", "150", "--size", "2"))
    assert not found["published"]
    assert found["samples"] + found["held_out"]["count"] == 150
    assert found["bytes"] <= 2048
    assert found["held_out"]["current"] is None
    assert found["ratio"] == pytest.approx(
        found["held_out"]["plain"] / found["held_out"]["dictionary"], abs=0.001
    )
    assert current(server, prefix) is None
    assert "a dry run" in run("train", "--dry-run").stdout


def test_training_again_is_compared_with_the_current_one_and_not_published_for_nothing(
    run: Run, server: blocking_redis.Redis, prefix: str
) -> None:
    fill(server, prefix, records(300))
    first = as_json(run("train", "--json"))
    assert first["published"]
    again = as_json(run("train", "--json"), status=1)
    assert not again["published"]
    assert again["held_out"]["current"] == pytest.approx(again["held_out"]["dictionary"], rel=0.1)
    refused = run("train", "--size", "4")
    assert refused.exit_code == 1
    assert "it saves less than a tenth" in refused.stdout
    assert "with the current dictionary" in refused.stdout
    forced = as_json(run("train", "--size", "4", "--force", "--json"))
    assert forced["published"]
    kept = current(server, prefix)
    assert kept is not None
    assert kept.id == forced["id"] != first["id"]


def test_versions_are_listed(run: Run, server: blocking_redis.Redis, prefix: str) -> None:
    assert as_json(run("dictionaries", "--json")) == []
    fill(server, prefix, records(200))
    first = as_json(run("train", "--json"))["id"]
    second = as_json(run("train", "--json", "--size", "4", "--force"))["id"]
    versions = as_json(run("dictionaries", "--json"))
    assert {one["id"]: one["current"] for one in versions} == {first: False, second: True}
    head, _, *rows = run("dictionaries").stdout.splitlines()
    assert head.split() == ["id", "published", "bytes", "days", "left", "current"]
    assert sorted(int(row.split()[0]) for row in rows) == sorted([first, second])
    assert [row.split()[-1] for row in rows].count("yes") == 1


def test_what_cannot_be_compressed_is_said(run: Run, server: blocking_redis.Redis, prefix: str) -> None:
    draw = random.Random(1)
    fill(server, prefix, [draw.randbytes(300) for _ in range(200)])
    done = run("train")
    assert done.exit_code == 1
    assert "less than a tenth" in done.output
    assert current(server, prefix) is None


def test_too_few_values_are_said(run: Run, server: blocking_redis.Redis, prefix: str) -> None:
    fill(server, prefix, records(20))
    done = run("train")
    assert done.exit_code == 1
    assert "16 samples are too few" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--samples", "10"), "samples"),
        (("--size", "0"), "size"),
        (("--size", "100000"), "size"),
        (("--seconds", "0"), "seconds"),
        (("--url", "nonsense://"), "url"),
    ],
)
def test_wrong_usage_is_told_by_name(run: Run, words: tuple[str, ...], named: str) -> None:
    done = run("train", *words)
    assert done.exit_code == 2
    assert named in done.stderr


def test_an_empty_namespace_is_wrong_usage(redis_url: str) -> None:
    done = CliRunner().invoke(app, ["cache", "dictionaries", "--namespace", "", "--url", redis_url])
    assert done.exit_code == 2
    assert "namespace" in done.stderr


def test_no_server_is_a_line_and_a_status(run: Run) -> None:
    for command in ("train", "dictionaries"):
        done = run(command, "--url", "redis://:s3cret@127.0.0.1:1/0")
        assert done.exit_code == 1
        assert done.stderr.startswith("aioinfra cache: ")
        assert "s3cret" not in done.output
