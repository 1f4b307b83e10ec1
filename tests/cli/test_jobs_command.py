"""`aioinfra jobs`: what it prints, what it changes, and how it ends."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as blocking_redis
from typer.testing import CliRunner, Result

from aioinfra.cli.app import app

ROOT = Path(__file__).resolve().parent.parent.parent

Run = Callable[..., Result]


@pytest.fixture
def queue(prefix: str) -> str:
    return f"{prefix}queue"


@pytest.fixture
def server(redis_url: str) -> Iterator[blocking_redis.Redis]:
    opened = blocking_redis.Redis.from_url(redis_url)
    yield opened
    opened.close()


@pytest.fixture
def run(redis_url: str) -> Run:
    """Run a command of the group in this process, with the server in the environment."""

    def run(*words: str, answer: str | None = None, **env: str | None) -> Result:
        told: dict[str, str | None] = {"REDIS_URL": redis_url, "JOBS_REDIS_URL": None, **env}
        return CliRunner().invoke(app, ["jobs", *words], input=answer, env=told)

    return run


def payload(task: str = "shop.pay") -> str:
    kwargs = {"amount": 7, "password": "hunter2"}
    headers = {"request_id": "r-1", "nonce": "n", "api_token": "t0ken"}
    return json.dumps(
        {"t": None, "f": task, "a": ["4111 1111 1111 1111"], "k": kwargs, "et": 7, "h": headers}
    )


def enqueue(server: blocking_redis.Redis, queue: str, job_id: str, delay: float = 0.0) -> None:
    server.set(f"arq:job:{job_id}", payload(), ex=60)
    server.zadd(queue, {job_id: int((time.time() + delay) * 1000)})


def bury(server: blocking_redis.Redis, queue: str, *ids: str) -> None:
    error = {"type": "shop.NoMoney", "message": "poor\x1b[31m", "traceback": [["shop.py", 3, "pay"]]}
    record = json.dumps(
        {"task": "shop.pay", "reason": "exhausted", "error": error, "attempt": 5, "stalls": 0}
    )
    pipe = server.pipeline()
    for at, job_id in enumerate(ids):
        fields: dict[str | bytes, Any] = {"payload": payload(), "record": record, "at": 60_000 + at}
        pipe.hset(f"aioinfra:dead-letter:{queue}:{job_id}", mapping=fields)
        pipe.zadd(f"aioinfra:dead:{queue}", {job_id: 60_000 + at})
    pipe.execute()


def members(server: blocking_redis.Redis, key: str) -> set[bytes]:
    found: Any = server.zrange(key, 0, -1)
    return set(found)


def as_json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_depths_of_several_queues(run: Run, server: blocking_redis.Redis, queue: str, prefix: str) -> None:
    enqueue(server, queue, f"{prefix}1")
    enqueue(server, queue, f"{prefix}2", delay=60)
    assert run("pause", queue).stdout == f"{queue}: paused\n"
    assert as_json(run("depths", queue, f"{prefix}empty", "--json")) == {
        queue: {"due": 1, "later": 1, "running": 0, "paused": True},
        f"{prefix}empty": {"due": 0, "later": 0, "running": 0, "paused": False},
    }
    head, _, row, *_ = run("depths", queue).stdout.splitlines()
    assert head.split() == ["queue", "due", "later", "running", "paused"]
    assert row.split() == [queue, "1", "1", "0", "yes"]
    assert run("pause", queue).stdout == f"{queue}: nothing to do, was paused already\n"
    assert as_json(run("resume", queue, "--json")) == {"resumed": {queue: True}}
    assert run("resume", queue).stdout == f"{queue}: nothing to do, was not paused\n"


def test_lists_show_where_jobs_are_and_no_arguments(
    run: Run, server: blocking_redis.Redis, queue: str, prefix: str
) -> None:
    enqueue(server, queue, f"{prefix}now")
    enqueue(server, queue, f"{prefix}later", delay=3600)
    table = run("list", queue).stdout
    assert table.splitlines()[0].split() == ["id", "task", "status", "due", "try", "bytes"]
    assert table.splitlines()[2].split()[:3] == [f"{prefix}now", "shop.pay", "queued"]
    assert "hunter2" not in table
    page = as_json(run("list", queue, "--json", "--limit", "1"))
    assert [job["id"] for job in page["jobs"]] == [f"{prefix}now"]
    assert f"more: --cursor {page['cursor']}" in run("list", queue, "--limit", "1").stdout
    rest = as_json(run("list", queue, "--json", "--cursor", str(page["cursor"])))
    assert [(job["id"], job["status"]) for job in rest["jobs"]] == [(f"{prefix}later", "deferred")]
    assert as_json(run("list", queue, "--status", "running", "--json")) == {"jobs": [], "cursor": None}


def test_one_job_is_shown_with_redacted_arguments_on_request_alone(
    run: Run, server: blocking_redis.Redis, queue: str, prefix: str
) -> None:
    job_id = f"{prefix}1"
    enqueue(server, queue, job_id)
    text = run("show", queue, job_id).stdout
    assert "shop.pay" in text
    assert "request_id  r-1" in text
    for secret in ("hunter2", "4111", "t0ken", "amount"):
        assert secret not in text
    data = as_json(run("show", queue, job_id, "--arguments", "--json"))
    assert (data["status"], data["try"]) == ("queued", 1)
    assert data["headers"] == {"request_id": "r-1", "api_token": "[redacted]"}
    assert data["args"] == ["[redacted]"]
    assert data["kwargs"] == {"amount": 7, "password": "[redacted]"}
    assert "hunter2" not in run("show", queue, job_id, "--arguments").stdout


def test_dead_letters_are_listed_shown_brought_back_and_deleted(
    run: Run, server: blocking_redis.Redis, queue: str, prefix: str
) -> None:
    ids = [f"{prefix}{at}" for at in range(4)]
    bury(server, queue, *ids)
    head, _, *rows = run("dead", queue, "--limit", "2").stdout.splitlines()
    assert head.split() == ["died", "id", "task", "reason", "error", "try"]
    assert rows[0].split()[2:] == [ids[3], "shop.pay", "exhausted", "shop.NoMoney", "5"]
    page = as_json(run("dead", queue, "--limit", "2", "--json"))
    assert rows[2] == f"more: --cursor '{page['cursor']}'"
    rest = as_json(run("dead", queue, "--cursor", page["cursor"], "--json"))
    assert [one["id"] for one in (*page["letters"], *rest["letters"])] == ids[::-1]
    assert as_json(run("dead", queue, "--task", "other", "--json"))["letters"] == []
    letter = run("dead", queue, ids[0]).stdout
    assert "shop.NoMoney: poor\\x1b[31m\n  shop.py:3 in pay" in letter
    assert "hunter2" not in letter
    assert as_json(run("dead", queue, ids[0], "--json", "--arguments"))["kwargs"]["amount"] == 7

    server.set(f"arq:job:{ids[1]}", "another's", ex=60)
    some = run("requeue", queue, ids[0], ids[1], "unknown")
    assert (some.exit_code, some.stdout) == (1, "1 requeued\n")
    assert f"{ids[1]}: another job, or its result, has the id; the letter stays" in some.stderr
    assert "unknown: there is no such dead letter" in some.stderr
    assert server.zrange(queue, 0, -1) == [ids[0].encode()]
    assert as_json(run("delete", queue, ids[2], "--dead", "--json")) == {"deleted": 1, "refused": {}}
    assert server.exists(f"aioinfra:dead-letter:{queue}:{ids[2]}") == 0


def test_bulk_verbs_ask(run: Run, server: blocking_redis.Redis, queue: str, prefix: str) -> None:
    ids = [f"{prefix}{at}" for at in range(3)]
    bury(server, queue, *ids)
    for words in (("requeue", queue, "--all"), ("delete", queue, "--dead", "--all")):
        for answer in ("n\n", ""):
            refused = run(*words, answer=answer)
            assert refused.exit_code == 1
            assert "all dead letters" in refused.stderr
    assert server.zcard(f"aioinfra:dead:{queue}") == 3
    assert run("requeue", queue, "--all", answer="y\n").stdout.endswith("3 requeued\n")
    server.delete(queue, *(f"arq:job:{one}" for one in ids))
    bury(server, queue, *ids)
    assert as_json(run("delete", queue, "--dead", "--all", "--task", "shop.pay", "--yes", "--json")) == {
        "deleted": 3
    }


def test_jobs_are_deleted_made_due_and_aborted(
    run: Run, server: blocking_redis.Redis, queue: str, prefix: str
) -> None:
    due, gone, held, later = (f"{prefix}{name}" for name in ("due", "gone", "held", "later"))
    for job_id in (due, gone, held, later):
        enqueue(server, queue, job_id, delay=3600)
    server.set(f"arq:in-progress:{held}", "x", ex=60)
    both = run("delete", queue, gone, held, "unknown", "--json")
    assert both.exit_code == 1
    assert json.loads(both.stdout) == {
        "deleted": 1,
        "refused": {held: "it is running, and was left alone", "unknown": "it is not on this queue"},
    }
    assert run("run-now", queue, due).stdout == "1 due now\n"
    statuses = {one["id"]: one["status"] for one in as_json(run("list", queue, "--json"))["jobs"]}
    assert statuses == {due: "queued", held: "running", later: "deferred"}
    assert run("abort", later, "--queue", queue).stdout == "abort requested\n"
    assert "to be aborted" in run("show", queue, later).stdout
    assert run("abort", f"{prefix}unknown").exit_code == 1
    assert server.zscore("arq:abort", f"{prefix}unknown") is None
    drained = run("drain", queue, "--timeout", "0")
    assert drained.exit_code == 1
    assert "2 jobs are due, 1 run, 0 are due later" in drained.stderr
    server.delete(queue)
    server.zrem("arq:abort", later)
    assert run("drain", queue).stdout == "drained; 0 due, 0 later\n"


def test_junk_is_shown_and_the_terminal_obeys_none_of_it(
    run: Run, server: blocking_redis.Redis, queue: str, prefix: str
) -> None:
    server.set(f"arq:job:{prefix}pickle", pickle.dumps({"f": "x"}), ex=60)
    server.zadd(queue, {f"{prefix}pickle": 1})
    server.zadd(queue, {b"\xff\x1b[31m[bold]": 2})
    server.zadd(f"aioinfra:dead:{queue}", {b"\xff\n": 2})
    server.set(f"aioinfra:dead-letter:{queue}:".encode() + b"\xff\n", "x", ex=60)
    jobs = run("list", queue).stdout
    assert f"{prefix}pickle" in jobs
    assert "<pickle>" in jobs
    assert "\\udcff\\x1b[31m[bold]" in jobs
    assert "\x1b" not in jobs
    assert "\\udcff\\n" in run("dead", queue).stdout
    assert run("show", queue, f"{prefix}pickle", "--arguments").exit_code == 0
    assert run("delete", queue, "\udcff\x1b[31m[bold]").exit_code == 0
    server.delete(queue)
    server.set(queue, "x", ex=60)
    wrong = run("list", queue)
    assert (wrong.exit_code, "WRONGTYPE" in wrong.stderr or "sorted set" in wrong.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "q", "--status", "happy"), "status"),
        (("list", "q", "--limit", "0"), "limit"),
        (("list", "q", "--cursor", "-1"), "cursor"),
        (("dead", "q", "--cursor", "nonsense"), "cursor"),
        (("dead", ""), "queue"),
        (("show", "q", ""), "job_id"),
        (("drain", "q", "--timeout", "nan"), "timeout"),
        (("requeue", "q"), "--all"),
        (("requeue", "q", "a", "--all"), "--all"),
        (("requeue", "q", "a", "--task", "t"), "--all"),
        (("delete", "q", "--all"), "--dead"),
        (("depths", "q", "--url", "nonsense"), "url"),
        (("depths",), "queues"),
    ],
)
def test_wrong_usage_is_status_2_and_named(run: Run, words: tuple[str, ...], said: str) -> None:
    result = run(*words, REDIS_URL="redis://127.0.0.1:1/0")
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_server_that_is_away_is_status_1_without_credentials(run: Run) -> None:
    for result in (
        run("depths", "q", "--url", "redis://:hunter2@127.0.0.1:1/0"),
        run("depths", "q", JOBS_REDIS_URL="redis://:hunter2@127.0.0.1:1/0"),
    ):
        assert result.exit_code == 1
        assert "127.0.0.1:1" in result.stderr
        assert "hunter2" not in result.output


def test_nothing_configured_outside_of_development_is_an_error(run: Run) -> None:
    result = run("depths", "q", REDIS_URL=None, REDIS_HOST=None, ENVIRONMENT="production")
    assert result.exit_code == 2
    assert "REDIS_URL" in result.stderr


def test_a_command_that_is_killed_while_it_requeues_loses_and_doubles_nothing(
    server: blocking_redis.Redis, redis_url: str, queue: str, prefix: str
) -> None:
    ids = {f"{prefix}{at}".encode() for at in range(3_000)}
    bury(server, queue, *(one.decode() for one in ids))
    words = ("jobs", "requeue", queue, "--all", "--yes", "--url", redis_url)
    command = subprocess.Popen(
        [sys.executable, "-m", "aioinfra", *words],
        cwd=ROOT,
        env={**os.environ, "ENVIRONMENT": "production"},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while not server.exists(queue):
            assert time.monotonic() < deadline
            time.sleep(0.0005)
    finally:
        command.kill()
        command.wait(10)
    queued, listed = members(server, queue), members(server, f"aioinfra:dead:{queue}")
    assert queued | listed == ids
    assert not queued & listed
    pipe = server.pipeline()
    for one in ids:
        pipe.exists(b"arq:job:" + one)
        pipe.exists(f"aioinfra:dead-letter:{queue}:".encode() + one)
    found = pipe.execute()
    assert [*zip(found[::2], found[1::2], strict=True)] == [(one in queued, one in listed) for one in ids]
    server.delete(*(b"arq:job:" + one for one in queued), queue, f"aioinfra:dead:{queue}")
    server.delete(*(f"aioinfra:dead-letter:{queue}:".encode() + one for one in listed), b"-")
