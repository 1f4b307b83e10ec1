"""Settings from the environment: what is accepted, what is refused, and that nothing secret is ever shown."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from aioinfra.config import VARIABLES, RedisUrl, Settings, near_misses
from aioinfra.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[1]
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of ours is set, and there is no .env."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def set_all(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def secret_url(found: tuple[RedisUrl, str] | None) -> tuple[str, str] | None:
    return (found[0].get_secret_value(), found[1]) if found else None


def test_nothing_set_is_development_without_a_server() -> None:
    settings = Settings.from_env()
    assert settings == Settings()
    assert settings.cache_url() is None
    assert settings.jobs_url() is None
    assert settings.is_development
    assert settings.notices == ()


def test_every_variable_is_read_and_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(
        monkeypatch,
        REDIS_URL="rediss://user:pw@redis.example:6380/3",
        REDIS_MAX_CONNECTIONS="7",
        JOBS_REDIS_URL="unix:///run/redis.sock?db=2",
        CACHE_NAMESPACE="shop:",
        CACHE_SIGNING_KEY=f"{SECRET} and more of it, {SECRET} as it was",
        LOG_LEVEL="info,aioinfra.cache=debug",
        LOG_FORMAT="JSON",
        ENVIRONMENT="Production",
        SERVICE_NAME="shop",
        PROMETHEUS_ENABLED="no",
        PROMETHEUS_PORT="9999",
        LOG_DIR="/var/log/shop",
        LOGFIRE_TOKEN="pylf_" + SECRET,
        AIOINFRA_STATE_DIR="state",
    )
    settings = Settings.from_env()
    assert secret_url(settings.cache_url()) == ("rediss://user:pw@redis.example:6380/3", "REDIS_URL")
    assert secret_url(settings.jobs_url()) == ("unix:///run/redis.sock?db=2", "JOBS_REDIS_URL")
    assert settings.cache_namespace == "shop:"
    assert settings.cache_signing_keys() == (f"{SECRET} and more of it", f"{SECRET} as it was")
    assert (settings.redis_max_connections, settings.prometheus_port) == (7, 9999)
    assert (settings.log_level, settings.log_format) == ("info,aioinfra.cache=debug", "json")
    assert (settings.environment, settings.is_development) == ("production", False)
    assert (settings.service_name, settings.prometheus_enabled) == ("shop", False)
    assert (settings.aioinfra_state_dir, settings.log_dir) == (Path("state"), Path("/var/log/shop"))
    assert settings.logfire_token is not None
    assert settings.logfire_token.get_secret_value() == "pylf_" + SECRET


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({"REDIS_HOST": "cache"}, "redis://cache:6379/0"),
        ({"REDIS_PORT": "7000"}, "redis://localhost:7000/0"),
        ({"REDIS_DB": "0"}, "redis://localhost:6379/0"),
        ({"REDIS_PASSWORD": "p@ss:/w"}, "redis://:p%40ss%3A%2Fw@localhost:6379/0"),
        ({"REDIS_USERNAME": "me", "REDIS_PASSWORD": "pw"}, "redis://me:pw@localhost:6379/0"),
        ({"REDIS_HOST": "::1", "REDIS_DB": "4"}, "redis://[::1]:6379/4"),
    ],
)
def test_any_part_alone_makes_a_url(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], url: str
) -> None:
    set_all(monkeypatch, **values)
    found = secret_url(Settings.from_env().cache_url())
    assert found is not None
    assert found[0] == url
    assert found[1] in values


def test_the_url_wins_over_the_parts_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, REDIS_URL="redis://one/0", REDIS_HOST="two", REDIS_PASSWORD=SECRET)
    settings = Settings.from_env()
    assert secret_url(settings.cache_url()) == ("redis://one/0", "REDIS_URL")
    assert settings.notices == (
        "REDIS_HOST is ignored: REDIS_URL is set",
        "REDIS_PASSWORD is ignored: REDIS_URL is set",
    )


def test_empty_means_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SERVICE_NAME=from-file\nREDIS_PORT=\n")
    set_all(monkeypatch, REDIS_URL="", REDIS_DB=" ", LOG_FORMAT="", SERVICE_NAME="", CELERY_RESULT_BACKEND="")
    settings = Settings.from_env()
    assert settings.cache_url() is None
    assert settings.service_name == "from-file"


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# ours\nexport REDIS_HOST='from file'\nREDIS_HOST=file\nREDIS_DB=2\nOTHER=1\n"
    )
    monkeypatch.setenv("REDIS_DB", "5")
    assert secret_url(Settings.from_env().cache_url()) == ("redis://file:6379/5", "REDIS_HOST")
    assert Settings.from_env(env_file=None).redis_host is None
    assert Settings.from_env(env_file="missing").redis_host is None


def test_settings_written_in_code_do_not_read_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("REDIS_DB=2\n")
    monkeypatch.setenv("REDIS_HOST", "elsewhere")
    assert Settings(environment="test").cache_url() is None
    with pytest.raises(ValueError, match="redis_ulr"):
        Settings(redis_ulr="redis://x")  # type: ignore[call-arg]  # a slip must not pass at run time either


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.from_env().redis_db = 3


BAD_VALUES = {
    "REDIS_URL": f"http://user:{SECRET}@host/0",
    "REDIS_HOST": f"redis://:{SECRET}@host",
    "REDIS_PORT": SECRET,
    "REDIS_DB": f"-1{SECRET}",
    "REDIS_MAX_CONNECTIONS": SECRET,
    "JOBS_REDIS_URL": f"redis://:{SECRET}@host:99999/0",
    "CELERY_BROKER_URL": f"amqp://guest:{SECRET}@host//",
    "CELERY_RESULT_BACKEND": f"redis://:{SECRET}@host/1",
    "LOG_LEVEL": SECRET,
    "LOG_FORMAT": SECRET,
    "PROMETHEUS_ENABLED": SECRET,
    "PROMETHEUS_PORT": SECRET,
    "SERVICE_NAME": SECRET * 100,
    "LOG_DIR": f"logs\x1b{SECRET}",
    "LOGFIRE_TOKEN": f"a token\n{SECRET}",
    "CACHE_NAMESPACE": f"shop\n{SECRET}:",
    "CACHE_SIGNING_KEY": f"a secret of 16 bytes,{SECRET}",  # the second is too short
}


def everything_shown(error: BaseException) -> str:
    """All that a log, a traceback or a reader of the exception's chain can see."""
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(error.args)
    for linked in (error.__cause__, error.__context__):
        shown += everything_shown(linked) if linked is not None else ""
    return shown


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_bad_value_names_its_variable_and_stays_hidden(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, BAD_VALUES[name])
    with pytest.raises(ConfigError) as refused:
        Settings.from_env()
    assert str(refused.value).startswith(f"{name}: ")
    assert SECRET not in everything_shown(refused.value)


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"PROMETHEUS_PORT={SECRET}\n")
    set_all(monkeypatch, **{name: value for name, value in BAD_VALUES.items() if name != "PROMETHEUS_PORT"})
    with pytest.raises(ConfigError) as refused:
        Settings.from_env()
    assert set(re.findall(r"([A-Z_]+): ", str(refused.value))) == set(BAD_VALUES)
    assert SECRET not in everything_shown(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis:///0",
        "unix://",
        "localhost:6379",
        "redis://a b/0",
        "redis://h\n/0",
        "redis://h:0/0",
    ],
)
def test_what_is_no_server_url_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(ConfigError, match=r"REDIS_URL: must be redis://"):
        Settings.from_env()


@pytest.mark.parametrize("level", ["loud", "info,", "=debug", "aioinfra.cache=", "info,x=loud"])
def test_what_is_no_log_level_is_refused(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("LOG_LEVEL", level)
    with pytest.raises(ConfigError, match="LOG_LEVEL"):
        Settings.from_env()


def test_a_user_name_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_USERNAME", "me")
    with pytest.raises(ConfigError, match="REDIS_USERNAME needs REDIS_PASSWORD"):
        Settings.from_env()


def test_secrets_are_hidden_in_every_view_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(
        monkeypatch,
        REDIS_URL=f"redis://{SECRET}:{SECRET}@host:1/0?password={SECRET}",
        REDIS_PASSWORD=SECRET,
        JOBS_REDIS_URL=f"redis://:{SECRET}@jobs/0",
        CELERY_BROKER_URL=f"redis://:{SECRET}@broker/0",
        LOGFIRE_TOKEN=SECRET,
        CACHE_SIGNING_KEY=SECRET * 3,
    )
    settings = Settings.from_env()
    found = settings.cache_url()
    views = (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump()))
    assert SECRET not in "".join((*views, repr(found), *settings.notices))
    assert "redis://host:1/0" in repr(settings)


UNSOUND_URLS = [
    f"redis://:a/{SECRET}@host:1/0",
    f"redis://user:a?{SECRET}@host/0",
    f"redis://user:a#{SECRET}@host/0",
    f"redis://user:1?{SECRET}@host/0",
    f"redis://host:1/0#{SECRET}",
    f"redis://host:{SECRET}/0",
    f"redis://host/{SECRET}",
    f"redis://[{SECRET}/0",
    f"redis://user%3A{SECRET}%40host/0",
    f"unix://:a/{SECRET}@/run/redis.sock",
    f"{SECRET}@host",
]


@pytest.mark.parametrize("url", UNSOUND_URLS)
def test_no_view_of_an_unsound_url_shows_its_password(url: str) -> None:
    wrapped = RedisUrl(url)
    shown = repr(wrapped) + str(wrapped) + wrapped.location
    try:
        shown += repr(Settings(redis_url=wrapped))
    except ValidationError as error:
        shown += str(error) + repr(error.errors()) + repr(error.__context__) + repr(error.__cause__)
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("redis://user:pw@my_host:7000/3?client_name=a", "redis://my_host:7000/3"),
        ("redis://user:a@b@[::1]/0", "redis://[::1]/0"),
        ("unix:///run/a@b.sock?db=2", "unix:///run/a@b.sock"),
    ],
)
def test_the_location_of_a_sound_url_stays_readable(url: str, location: str) -> None:
    assert RedisUrl(url).location == location


@pytest.mark.parametrize("name", [*BAD_VALUES, "UNKNOWN"])
def test_settings_written_in_code_are_refused_without_their_values(name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**{name.lower(): BAD_VALUES.get(name, SECRET)})  # type: ignore[arg-type]  # wrong on purpose
    details = refused.value.errors()
    assert [detail["loc"] for detail in details] == [(name.lower(),)]
    assert SECRET not in everything_shown(refused.value) + repr(details) + refused.value.json()


def test_the_celery_broker_is_read_with_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://broker:6379/1")
    settings = Settings.from_env()
    assert secret_url(settings.jobs_url()) == ("redis://broker:6379/1", "CELERY_BROKER_URL")
    assert "CELERY_BROKER_URL is read as JOBS_REDIS_URL" in settings.notices[0]
    monkeypatch.setenv("JOBS_REDIS_URL", "redis://jobs:6379/1")
    settings = Settings.from_env()
    assert secret_url(settings.jobs_url()) == ("redis://jobs:6379/1", "JOBS_REDIS_URL")
    assert "CELERY_BROKER_URL is ignored" in settings.notices[0]


def test_the_celery_result_backend_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://localhost/1")
    with pytest.raises(ConfigError, match=r"CELERY_RESULT_BACKEND: .*results live with their queue"):
        Settings.from_env()


def test_what_kubernetes_sets_for_a_service_named_redis_is_no_setting_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_all(
        monkeypatch,
        REDIS_PORT="tcp://10.0.0.1:6379",
        REDIS_PORT_6379_TCP="tcp://10.0.0.1:6379",
        REDIS_SERVICE_HOST="10.0.0.1",
        REDIS_SERVICE_PORT="6379",
    )
    settings = Settings.from_env()
    assert settings.cache_url() is None
    assert settings.near_misses == ()


def test_names_that_look_mistyped_are_reported_wherever_they_are_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"ENVIROMENT=production\nREDIS_PASSWRD={SECRET}\n")
    set_all(monkeypatch, REDIS_ULR=f"redis://:{SECRET}@host/0", redis_url="redis://lower")
    settings = Settings.from_env()
    assert settings.near_misses == (
        "ENVIROMENT looks like ENVIRONMENT",
        "REDIS_PASSWRD looks like REDIS_PASSWORD",
        "REDIS_ULR looks like REDIS_URL",
        "redis_url looks like REDIS_URL",
    )
    assert settings.notices == settings.near_misses
    assert settings.cache_url() is None


@pytest.mark.parametrize(
    "name",
    ["REDIS_URI", "REDISURL", "LOGLEVEL", "LOG_LEVL", "SEVICE_NAME", "PROMETHEUS_PROT", "LOGFIRE_TOKN"],
)
def test_common_slips_are_seen(name: str) -> None:
    assert len(near_misses([name])) == 1


@pytest.mark.parametrize(
    "name",
    [
        *(
            "PATH",
            "HOME",
            "DEVICE_NAME",
            "LOG_FILE",
            "LOG_DRIVER",
            "REDIS_TLS",
            "DATABASE_URL",
            "DB_HOST",
            "ENV",
        ),
        *("LOGNAME", "CELERY_TIMEZONE", "PROMETHEUS_MULTIPROC_DIR", "SERVICE_PORT", "VIRTUAL_ENV"),
        *VARIABLES,
    ],
)
def test_foreign_names_and_our_own_are_no_slips(name: str) -> None:
    assert near_misses([name]) == ()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"REDIS_PASSWORD=" + SECRET.encode() + b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"\.env cannot be read: UnicodeDecodeError") as refused:
        Settings.from_env()
    assert SECRET not in everything_shown(refused.value)


def test_a_malformed_line_of_the_file_is_reported_without_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".env").write_text(f"REDIS PASSWORD {SECRET}\nREDIS_DB=3\n")
    with caplog.at_level(logging.DEBUG):
        assert Settings.from_env().redis_db == 3
    assert SECRET not in caplog.text


def test_the_example_file_and_the_settings_name_the_same_variables() -> None:
    text = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", text, re.MULTILINE)) == set(VARIABLES)


def test_the_example_file_shows_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Uncommented, it says what unset says, apart from the server it names."""
    text = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    (tmp_path / ".env").write_text(re.sub(r"^#(?=[A-Z][A-Z0-9_]*=)", "", text, flags=re.MULTILINE))
    shown, default = Settings.from_env(), Settings()
    server = {"redis_url", "redis_host", "redis_port", "redis_db", "jobs_redis_url"}
    assert shown.model_dump(exclude=server) == default.model_dump(exclude=server)
    assert secret_url(shown.cache_url()) == ("redis://localhost:6379/0", "REDIS_URL")
    assert shown._joined_url() == "redis://localhost:6379/0"


def test_importing_the_package_does_not_load_pydantic() -> None:
    code = "import sys, aioinfra; print(*(name for name in sys.modules if name.startswith(('pydantic', 'dotenv'))))"
    answer = subprocess.run(
        (sys.executable, "-c", code),
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env=os.environ,
    )
    assert answer.stdout.strip() == ""
