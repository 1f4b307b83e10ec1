"""One secret, planted wherever a service may let one slip; none of the outputs shows it."""

from __future__ import annotations

import json
import logging
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import BaseModel, SecretStr

from aioinfra.config import Settings
from aioinfra.errors import ConfigError
from aioinfra.logs import get_logger, log_exceptions, set_request_context
from aioinfra.redact import DEFAULT_REDACTOR
from tests.logs.log_capture import Captured, isolated_logging

SECRET = "hunter2-PLANTED"
URL = f"redis://user:{SECRET}@host:6379/0"


@pytest.fixture
def clean_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with isolated_logging(monkeypatch):
        yield


@dataclass
class Login:
    name: str
    password: str


class Model(BaseModel):
    user_email: str
    token: SecretStr


class Client:
    """Its repr shows what it was made with, as many do."""

    def __repr__(self) -> str:
        return f"Client(url={URL!r}, api_key='{SECRET}')"


def cyclic() -> dict[str, Any]:
    value: dict[str, Any] = {"password": SECRET, "list": [{"authorization": f"Bearer {SECRET}"}]}
    value["self"] = value["list"][0]["up"] = value
    value["list"].append(value["list"])
    return value


VALUES: dict[str, Callable[[], Any]] = {
    "nested": lambda: {"a": [{"b": ({"password": SECRET, "url": URL},)}]},
    "cyclic": cyclic,
    "object": lambda: Login("ada", SECRET),
    "model": lambda: Model(user_email=SECRET, token=SecretStr(SECRET)),
    "repr": Client,
    "repr in a container": lambda: {"clients": [Client(), {Client()}]},
    "exception": lambda: ConnectionError(f"cannot reach {URL}, token={SECRET}"),
    "pairs": lambda: [("cookie", SECRET), ("set-cookie", SECRET)],
    "URL": lambda: URL,
    "URL in a container": lambda: {"brokers": [URL, f"https://host/path?access_token={SECRET}"]},
    "read-only mapping": lambda: types.MappingProxyType({"credit_card": SECRET, "ssn": SECRET}),
    "bytes": f"password={SECRET}".encode,
}


def fail(value: Any) -> None:
    password = SECRET  # noqa: F841 - a local that must not be logged
    try:
        raise ValueError(
            f"refused: {value!r}" if isinstance(value, Client) else "refused", {"password": SECRET}
        )
    except ValueError as error:
        error.add_note(f"authorization: Bearer {SECRET}")
        raise ExceptionGroup("both", [ConnectionError(URL), RuntimeError(f"api_key={SECRET}")]) from error


def speak(log: Any, value: Any) -> None:
    """Every way to log a value."""
    log.warning("a field", extra={"value": value, "api_key": value})
    log.warning("in the text %s", value)
    log.warning("in the text %(password)s", {"password": SECRET, "value": value})
    try:
        fail(value)
    except ExceptionGroup:
        log.exception("failed", extra={"value": value})
        log.error("failed", exc_info=sys.exc_info(), stack_info=True)


def speak_ours(value: Any) -> None:
    """What only our own loggers can."""
    log = get_logger("ours", session=SECRET).bind(value=value, user_password=value)
    set_request_context(credentials=value, user_email=SECRET)
    log.warning("bound", kwargs={"value": value, "secret": SECRET})
    log.warning(value)
    with pytest.raises(ExceptionGroup):
        log_exceptions(fail)(value)


@pytest.mark.parametrize("log_format", ["json", "plain", "pretty"])
@pytest.mark.parametrize("kind", VALUES)
def test_no_line_shows_the_secret(
    clean_logging: None, capfd: pytest.CaptureFixture[str], log_format: str, kind: str
) -> None:
    captured = Captured().setup(log_format=log_format)
    value = VALUES[kind]()
    loggers: tuple[Any, ...] = (get_logger("a"), logging.getLogger("a"), structlog.get_logger("a"))
    for log in loggers:
        speak(log, value)
        assert SECRET not in captured.text
    speak_ours(value)
    text = captured.text
    assert (text.count("a field"), text.count("in the text"), text.count("bound")) == (3, 6, 1)
    assert SECRET not in text
    out, err = capfd.readouterr()
    assert SECRET not in out + err


@pytest.mark.parametrize("kind", VALUES)
def test_before_the_set_up_neither(clean_logging: None, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    value = VALUES[kind]()
    log = get_logger("ours", session=SECRET)
    log.warning("a field", value=value, api_key=value)
    log.warning("in the text %s", value)
    assert len(caplog.records) == 2
    assert SECRET not in caplog.text


@pytest.mark.parametrize("kind", VALUES)
def test_a_preview_of_a_payload_neither(kind: str) -> None:
    safe = DEFAULT_REDACTOR.value(
        {"args": [VALUES[kind]()], "kwargs": {"token": SECRET, "v": VALUES[kind]()}}
    )
    assert SECRET not in repr(safe)
    json.dumps(safe, default=repr)  # plain, and without cycles


@pytest.mark.parametrize(
    "variables",
    [
        {"REDIS_URL": f"redis://user:{SECRET}@host:port/x"},
        {"REDIS_URL": f"nonsense://{SECRET}"},
        {"REDIS_PASSWORD": SECRET, "REDIS_PORT": SECRET},
        {"LOG_LEVEL": SECRET, "REDIS_PASSWORD": SECRET},
        {"LOG_FORMAT": SECRET},
    ],
    ids="+".join,
)
def test_an_error_of_the_settings_and_its_line_show_no_secret(
    clean_logging: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    captured = Captured().setup()
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError) as refused:
        Settings.from_env()
    get_logger("a").error("cannot start: %s", refused.value, exc_info=refused.value)
    assert captured.line["exception"]["type"].endswith("ConfigError")
    assert SECRET not in captured.text
    assert SECRET not in repr(refused.value)
