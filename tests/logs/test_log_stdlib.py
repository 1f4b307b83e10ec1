"""Other libraries' loggers, an application's own set-up, and what is put back afterwards."""

from __future__ import annotations

import asyncio
import io
import logging
import logging.config
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arq
import arq.logs
import httpx
import pytest
import structlog
import uvicorn
import uvicorn.config
from arq.connections import RedisSettings

from aioinfra.logs import bound, current_logging, get_logger, setup_logging
from aioinfra.logs.stdlib import PipelineHandler
from tests.logs.log_capture import Captured, isolated_logging

SECRET = "hunter2-PLANTED"


@pytest.fixture
def clean_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with isolated_logging(monkeypatch):
        yield


@pytest.fixture
def logged(clean_logging: None) -> Captured:
    return Captured().setup()


def test_a_record_becomes_the_same_line(logged: Captured) -> None:
    log = logging.getLogger("lib.part")
    with bound(request_id="req-1"):
        log.warning("user %s\nforged", "x", extra={"password": SECRET, "count": 3, "level": "no"})
    try:
        raise ValueError(f"token={SECRET}")
    except ValueError:
        log.exception("failed")
    first, second = logged.lines
    assert first["logger_name"] == "lib.part"
    assert first["module"] == "test_log_stdlib"
    assert first["function_name"] == "test_a_record_becomes_the_same_line"
    assert first["message"] == "user x\nforged"
    assert (first["request_id"], first["password"], first["count"]) == ("req-1", "[redacted]", 3)
    assert (first["level"], first["level_"]) == ("WARNING", "no")
    assert second["exception"]["message"] == "token=[redacted]"
    assert len(logged.text.splitlines()) == 2


def test_secrets_in_other_libraries_texts_are_masked(logged: Captured) -> None:
    logging.getLogger("httpx").warning("GET %s", f"https://api.test/x?api_key={SECRET}&page=2")
    logging.getLogger("redis").warning(f"cannot reach redis://:{SECRET}@host")
    assert SECRET not in logged.text
    assert logged.lines[0]["message"] == "GET https://api.test/x?api_key=[redacted]&page=2"


def test_a_wrong_format_string_loses_no_line(logged: Captured) -> None:
    (handler,) = (each for each in logging.getLogger().handlers if isinstance(each, PipelineHandler))
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("x",), "levelno": 30}))
    assert logged.line["message"] == "%d (not formatted: TypeError)"


def test_custom_levels_keep_their_names(logged: Captured) -> None:
    logging.addLevelName(25, "NOTICE")
    logging.getLogger("lib").log(25, "x")
    get_logger("own").log(25, "y")
    assert [line["level"] for line in logged.lines] == ["NOTICE", "NOTICE"]


def test_levels_hold_for_third_parties_too(clean_logging: None) -> None:
    logged = Captured().setup("warning,lib.loud=debug")
    logging.getLogger("lib").info("no")
    logging.getLogger("lib.loud.deep").debug("yes")
    assert logged.line["message"] == "yes"


def test_structlogs_own_loggers_enter_the_pipeline(logged: Captured) -> None:
    log = structlog.get_logger("third.party")
    log.bind(a=1).info("hello", b=2)
    structlog.get_logger().warning("unnamed")
    first, second = logged.lines
    assert (first["logger_name"], first["message"], first["a"], first["b"]) == ("third.party", "hello", 1, 2)
    assert first["function_name"] == "test_structlogs_own_loggers_enter_the_pipeline"
    assert second["logger_name"] == "structlog"


def test_the_same_set_up_again_changes_nothing(logged: Captured) -> None:
    first = logged.logging
    assert Captured.setup(logged).logging is first
    logging.getLogger("lib").warning("once")
    get_logger("own").warning("once")
    assert len(logged.lines) == 2


def test_another_set_up_takes_over_with_loggers_made_before(logged: Captured) -> None:
    log = get_logger("own")
    log.info("first")
    other = Captured().setup("error", "console")
    assert "first" in logged.stream.getvalue(), "what waited was written before the change"
    log.info("no")
    log.error("second")
    logging.getLogger("lib").error("third")
    assert len(other.text.splitlines()) == 2
    assert len(logged.stream.getvalue().splitlines()) == 1


def test_console_handlers_of_others_are_adopted_and_given_back(
    clean_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    library = logging.getLogger("lib.with.handler")
    console, file = logging.StreamHandler(sys.stderr), logging.StreamHandler(io.StringIO())
    library.addHandler(console)
    library.addHandler(file)
    library.propagate = False
    logged = Captured().setup()
    library.warning("one line")
    assert logged.line["message"] == "one line"
    assert file.stream.getvalue() == "one line\n", "handlers that do not write to the console stay"
    logged.logging.uninstall()
    assert console in library.handlers
    assert not library.propagate
    library.warning("as before")
    assert capsys.readouterr().err == "as before\n"
    library.handlers.clear()
    library.propagate = True


def test_an_application_with_its_own_logging_is_left_alone(
    clean_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """aioinfra.logs is imported and used, setup_logging is not called."""
    own = logging.getLogger("own.app")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s %(funcName)s %(message)s"))
    own.addHandler(handler)
    own.setLevel(logging.INFO)
    log = get_logger("own.app.part")
    log.info("hello %s", "you", amount=5, password=SECRET)
    log.debug("no")
    own.removeHandler(handler)
    here = "test_an_application_with_its_own_logging_is_left_alone"
    assert capsys.readouterr().err == f"own.app.part {here} hello you amount=5 password=[redacted]\n"


def test_an_application_with_its_own_structlog_is_left_alone(
    clean_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.configure(processors=[structlog.processors.KeyValueRenderer(sort_keys=True)])
    try:
        get_logger("x").bind(a=1).info("hello", b=2)
        assert capsys.readouterr().out == "a=1 b=2 event='hello'\n"
        logged = Captured().setup()
        structlog.get_logger().info("mine")
        assert capsys.readouterr().out == "event='mine'\n", "set-up does not replace the configuration"
        get_logger("x").info("through the pipeline")
        assert logged.line["message"] == "through the pipeline"
        logged.logging.uninstall()
        assert structlog.is_configured()
    finally:
        structlog.reset_defaults()


async def _hello(_scope: Any, _receive: Any, send: Any) -> None:
    logging.getLogger("app").info("handling")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.mark.parametrize("order", ["logging first", "uvicorn first"])
async def test_uvicorn_writes_each_line_once(
    clean_logging: None, order: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """uvicorn installs handlers of its own on its loggers; a second setup_logging catches late ones."""
    logged = Captured()
    if order == "logging first":
        logged.setup()
    server = uvicorn.Server(uvicorn.Config(_hello, port=0, lifespan="off"))
    logged.setup()
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/path")).text == "hello"
    server.should_exit = True
    await serving
    own = [line for line in logged.lines if line["logger_name"].startswith("uvicorn")]
    messages = [line["message"] for line in own]
    assert sum("Uvicorn running" in message for message in messages) == 1
    assert sum("GET /path" in message for message in messages) == 1
    assert [line["message"] for line in logged.lines if line["logger_name"] == "app"] == ["handling"]
    out, err = capfd.readouterr()
    assert "GET /path" not in out + err


async def greet(_ctx: dict[str, Any]) -> str:
    return "hello"


@pytest.mark.filterwarnings("ignore:Call to deprecated close")  # by arq, of its connection
@pytest.mark.parametrize("order", ["logging first", "arq first"])
async def test_arqs_worker_writes_each_line_once(
    clean_logging: None, order: str, capfd: pytest.CaptureFixture[str], valkey_url: str, prefix: str
) -> None:
    """Its command line gives the logger ``arq`` a handler; a second setup_logging catches a late one."""
    logged = Captured()
    if order == "logging first":
        logged.setup()
    logging.config.dictConfig(arq.logs.default_log_config(verbose=False))
    logged.setup()
    server = RedisSettings(unix_socket_path=valkey_url.removeprefix("unix://").partition("?")[0])
    redis = await arq.create_pool(server, default_queue_name=f"{prefix}arq")
    await redis.enqueue_job("greet", _job_id=f"{prefix}job")
    worker = arq.Worker(
        [arq.func(f"{__name__}.greet", name="greet")], redis_pool=redis, queue_name=f"{prefix}arq", burst=True
    )
    await worker.async_run()
    await worker.close()
    lines = [line for line in logged.lines if line["logger_name"].startswith("arq")]
    assert sum(line["message"].startswith("Starting worker for 1 functions") for line in lines) == 1
    assert sum("→" in line["message"] and "greet()" in line["message"] for line in lines) == 1
    assert sum("hello" in line["message"] for line in lines) == 1
    out, err = capfd.readouterr()
    assert "greet" not in out + err


def test_an_application_that_had_configured_logging_by_itself_keeps_its_files_and_gets_its_console_back(
    clean_logging: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"own": {"format": "own %(message)s"}},
        "handlers": {
            "console": {"class": "logging.StreamHandler", "formatter": "own", "stream": "ext://sys.stderr"},
            "file": {
                "class": "logging.FileHandler",
                "formatter": "own",
                "filename": str(tmp_path / "own.log"),
            },
        },
        "loggers": {"own": {"level": "INFO", "handlers": ["console", "file"], "propagate": False}},
    }
    logging.config.dictConfig(config)
    own = logging.getLogger("own")
    try:
        own.info("before")
        logged = Captured().setup()
        logged.setup()
        own.info("between")
        get_logger("shop").info("ours")
        assert [line["message"] for line in logged.lines] == ["between", "ours"]
        logged.logging.uninstall()
        own.info("after")
        assert capsys.readouterr().err == "own before\nown after\n"
        assert (tmp_path / "own.log").read_text() == "own before\nown between\nown after\n"
        assert (own.level, own.propagate) == (logging.INFO, False)
    finally:
        for handler in list(own.handlers):
            own.removeHandler(handler)
            handler.close()
        own.propagate = True


def test_levels_change_at_run_time_for_the_standard_librarys_loggers_too(logged: Captured) -> None:
    lib, below = logging.getLogger("lib"), logging.getLogger("lib.part")
    below.debug("no")
    logged.logging.set_level("debug", "lib")
    below.debug("1")
    logged.logging.set_levels("error,lib.part=info")
    below.info("2")
    lib.warning("no")
    get_logger("shop").warning("no")
    logged.logging.set_levels("debug")
    below.debug("3")
    get_logger("shop").debug("4")
    assert [line["message"] for line in logged.lines] == ["1", "2", "3", "4"]


def test_the_librarys_own_loggers_pass_once(logged: Captured) -> None:
    for name in ("aioinfra.cache", "arq.worker", "redis"):
        logging.getLogger(name).warning("from %s", name)
    assert [line["message"] for line in logged.lines] == [
        "from aioinfra.cache",
        "from arq.worker",
        "from redis",
    ]


def test_dict_config_after_the_set_up_closes_nothing(logged: Captured) -> None:
    """logging.config closes every handler it knows of; the pipeline has nothing to close."""
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    logging.getLogger("lib").warning("still here")
    assert logged.line["message"] == "still here"


async def test_logging_goes_on_after_aclose(logged: Captured) -> None:
    get_logger("a").info("one")
    await logged.logging.aclose()
    assert len(logged.stream.getvalue().splitlines()) == 1
    get_logger("a").info("two")
    assert len(logged.lines) == 2
    assert current_logging() is logged.logging


def test_nothing_is_set_up_by_importing() -> None:
    assert current_logging() is None
    assert not structlog.is_configured()
    assert setup_logging is not None
