"""Typed settings from the environment and a `.env` file.

    environment, then .env -> empty and foreign left out -> types and ranges -> Settings (frozen)

Errors name variables and never repeat a value: it may be a secret in the wrong place. Names that look like a
mistyped variable of ours are listed in `near_misses`, since a foreign name itself is no error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values
from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    Secret,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from aioinfra.codec.pickle import LEAST_KEY_BYTES
from aioinfra.errors import ConfigError
from aioinfra.redact import MASK

SENTINEL_SCHEMES: Final = ("redis+sentinel", "rediss+sentinel", "sentinel")
CLUSTER_SCHEMES: Final = ("redis+cluster", "rediss+cluster")
URL_SCHEMES: Final = ("redis", "rediss", "unix", *SENTINEL_SCHEMES, *CLUSTER_SCHEMES)
DEVELOPMENT: Final = frozenset({"development", "dev", "test"})
LOG_LEVELS: Final = frozenset({"DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL"})
_QUERY: Final = re.compile("[?#]")
_HOST: Final = r"(?:[\w.-]*|\[[\da-fA-F:.%]+\])(?::\d{1,5})?"
_LOCATION: Final = re.compile(
    rf"rediss?://{_HOST}(/\d*)?|(?:rediss?\+)?sentinel://{_HOST}(,{_HOST})*(/[\w.-]+(/\d+)?)?|unix:///.*"
)
_LOCATION_PARTS: Final = ("redis_host", "redis_port", "redis_db", "redis_password", "redis_username")


class RedisUrl(Secret[str]):
    """A server's URL; shown without user, password and query."""

    @property
    def location(self) -> str:
        """Scheme, host, port and path, as far as the URL is sound: else any part may be of the password."""
        scheme, _, rest = self.get_secret_value().strip().partition("://")
        place, *query = _QUERY.split(rest, maxsplit=1)
        if not place.startswith("/"):
            place = place.rpartition("@")[2]
        shown = f"{scheme}://{place}"
        if "@" in "".join(query) or not _LOCATION.fullmatch(shown):
            return f"{scheme if scheme in URL_SCHEMES else 'redis'}://{MASK}"
        return shown

    def _display(self) -> str:
        return self.location


class Settings(BaseSettings):
    """What aioinfra knows from its environment. ``Settings(...)`` takes what is written alone; see `from_env`.

    Attributes are the variables in lower case; AIOINFRA_STATE_DIR is ``aioinfra_state_dir``.

    Raises:
        ValueError: pydantic's ValidationError, for a value that does not fit; values are hidden.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        case_sensitive=True,
        alias_generator=str.upper,
        populate_by_name=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
        str_strip_whitespace=True,
    )

    redis_url: RedisUrl | None = None
    redis_host: str | None = None
    redis_port: int | None = Field(default=None, ge=1, le=65535)
    redis_db: int | None = Field(default=None, ge=0)
    redis_username: str | None = None
    redis_password: SecretStr | None = None
    redis_max_connections: int = Field(default=50, ge=1, le=100_000)
    cache_redis_url: RedisUrl | None = None
    cache_namespace: str | None = Field(default=None, max_length=1024)
    cache_signing_key: SecretStr | None = None
    jobs_redis_url: RedisUrl | None = None
    celery_broker_url: RedisUrl | None = None
    celery_result_backend: SecretStr | None = None
    log_level: str = "INFO"
    log_format: Literal["json", "console"] | None = None
    log_dir: Path | None = None
    environment: str = "development"
    service_name: str = Field(default="app", max_length=128)
    prometheus_enabled: bool = True
    prometheus_port: int = Field(default=9464, ge=1, le=65535)
    logfire_token: SecretStr | None = None
    aioinfra_state_dir: Path = Path(".aioinfra")

    _near_misses: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def from_env(cls, env_file: str | Path | None = ".env") -> Self:
        """Read the environment, and below it ``env_file`` when that exists; relative to the working directory.

        Raises:
            ConfigError: names every variable whose value does not fit and says what would.
        """
        names = _names_in(env_file)
        try:
            read = _EnvironmentSettings(_env_file=env_file)  # type: ignore[call-arg]  # pydantic-settings' own
        except ValidationError as error:
            problems = [
                _describe(detail["loc"], detail["msg"]) for detail in error.errors(include_input=False)
            ]
        else:
            settings = cls(**read.model_dump(exclude_unset=True))
            settings._near_misses = near_misses((*os.environ, *names))
            return settings
        # Outside of the handler: the ValidationError in __context__ would hold the values.
        raise ConfigError("; ".join(problems))

    @property
    def near_misses(self) -> tuple[str, ...]:
        """Variables that are set and look like ours mistyped: ``"REDIS_ULR looks like REDIS_URL"``."""
        return self._near_misses

    @property
    def notices(self) -> tuple[str, ...]:
        """What whoever set the variables should know; near misses included. Never contains a value."""
        found = list(self._near_misses)
        if self.redis_url is not None:
            parts = [name.upper() for name in _LOCATION_PARTS if getattr(self, name) is not None]
            found += [f"{name} is ignored: REDIS_URL is set" for name in parts]
        if self.celery_broker_url is not None:
            used = self.jobs_redis_url is None
            found.append(
                "CELERY_BROKER_URL is read as JOBS_REDIS_URL: better say it so"
                if used
                else "CELERY_BROKER_URL is ignored: JOBS_REDIS_URL is set"
            )
        return tuple(found)

    @property
    def is_development(self) -> bool:
        """True in development and tests, where a missing Redis is replaced by the embedded server."""
        return self.environment in DEVELOPMENT

    def cache_url(self) -> tuple[RedisUrl, str] | None:
        """The URL of the base Redis and the variable it came from; None when none is configured.

        What has no server of its own is there. CACHE_REDIS_URL stands in for it where nothing else is set.
        """
        if self.redis_url is not None:
            return self.redis_url, "REDIS_URL"
        for name in _LOCATION_PARTS:
            if getattr(self, name) is not None:
                return RedisUrl(self._joined_url()), name.upper()
        return self.own_cache_url()

    def own_cache_url(self) -> tuple[RedisUrl, str] | None:
        """The URL of the cache's own Redis and its variable; None when it shares the base one."""
        return None if self.cache_redis_url is None else (self.cache_redis_url, "CACHE_REDIS_URL")

    def cache_signing_keys(self) -> tuple[str, ...] | None:
        """The secrets of CACHE_SIGNING_KEY, newest first; None when there are none."""
        if self.cache_signing_key is None:
            return None
        return tuple(key.strip() for key in self.cache_signing_key.get_secret_value().split(","))

    def jobs_url(self) -> tuple[RedisUrl, str] | None:
        """The URL of the jobs' own Redis and its variable; None when they share the base one."""
        if self.jobs_redis_url is not None:
            return self.jobs_redis_url, "JOBS_REDIS_URL"
        if self.celery_broker_url is not None:
            return self.celery_broker_url, "CELERY_BROKER_URL"
        return None

    def _joined_url(self) -> str:
        host = self.redis_host or "localhost"
        host = f"[{host}]" if ":" in host else host
        user = quote(self.redis_username or "", safe="")
        password = self.redis_password
        secret = f"{user}:{quote(password.get_secret_value(), safe='')}@" if password is not None else ""
        return f"redis://{secret}{host}:{self.redis_port or 6379}/{self.redis_db or 0}"

    @model_validator(mode="wrap")
    @classmethod
    def _hide_inputs(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """`hide_input_in_errors` keeps values out of the error's text, but not out of its ``errors()``."""
        try:
            return validate(values)
        except ValidationError as error:
            hidden = _without_inputs(error)
        raise hidden

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, values: Any) -> Any:
        """Empty means unset, and so does what Kubernetes puts there for a service named redis."""
        if not isinstance(values, dict):
            return values
        return {
            name: value
            for name, value in values.items()
            if not (isinstance(value, str) and (not value.strip() or _is_service_link(name, value)))
        }

    @field_validator("redis_url", "cache_redis_url", "jobs_redis_url", "celery_broker_url", mode="after")
    @classmethod
    def _check_url(cls, url: RedisUrl | None) -> RedisUrl | None:
        if url is None:
            return None
        text = url.get_secret_value()
        scheme, _, rest = text.partition("://")
        scheme = scheme.lower()
        try:
            if (
                scheme in SENTINEL_SCHEMES + CLUSTER_SCHEMES
            ):  # `urlsplit` takes no list of hosts; `parse_address` reads all of it
                named = bool(rest)
            else:
                parts = urlsplit(text)
                named = bool(parts.path if scheme == "unix" else parts.hostname) and parts.port != 0
        except ValueError:
            named = False
        odd = not text.isprintable() or any(mark in text for mark in " #")
        if not named or odd or scheme not in URL_SCHEMES:
            raise ValueError(
                "must be redis://host:port/db, rediss://host:port/db, unix:///path?db=0 or "
                "redis+sentinel://host:port,host:port/name/db, for a cache also redis+cluster://host:port,host:port/tag"
            )
        return RedisUrl(text)

    @field_validator("redis_host", mode="after")
    @classmethod
    def _check_host(cls, host: str | None) -> str | None:
        if host is not None and (not host.isprintable() or any(mark in host for mark in " /@?#[]")):
            raise ValueError("must be a host name or address alone; for a URL there is REDIS_URL")
        return host

    @field_validator("celery_result_backend", mode="after")
    @classmethod
    def _refuse_result_backend(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            raise ValueError("is not supported, since results live with their queue: unset it")
        return value

    @field_validator("cache_signing_key", mode="after")
    @classmethod
    def _check_signing_key(cls, value: SecretStr | None) -> SecretStr | None:
        given = () if value is None else value.get_secret_value().split(",")
        if any(len(key.strip().encode()) < LEAST_KEY_BYTES for key in given):
            raise ValueError(
                f"must be a secret of at least {LEAST_KEY_BYTES} bytes, or several with commas between them"
            )
        return value

    @field_validator("log_dir", "logfire_token", "cache_namespace", "cache_signing_key", mode="after")
    @classmethod
    def _check_printable(cls, value: Path | SecretStr | str | None) -> Path | SecretStr | str | None:
        """A line break or a control character comes from a file that was pasted whole."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        if not text.isprintable():
            raise ValueError("must be one line of printable characters")
        return value

    @field_validator("log_level", mode="after")
    @classmethod
    def _check_log_level(cls, text: str) -> str:
        for part in text.split(","):
            module, mark, level = part.strip().rpartition("=")
            if level.strip().upper() not in LOG_LEVELS or bool(mark) != bool(module.strip()):
                raise ValueError("must be a level, or levels such as info,aioinfra.cache=debug")
        return text

    @field_validator("log_format", "environment", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_login(self) -> Self:
        if self.redis_username is not None and self.redis_password is None and self.redis_url is None:
            raise ValueError("REDIS_USERNAME needs REDIS_PASSWORD")
        return self

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what was written: a service that is given its settings does not depend on the environment."""
        return (sources["init_settings"],)


class _EnvironmentSettings(Settings):
    """The same, read from the environment and under the variables' exact names."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=False)

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        return sources["env_settings"], sources["dotenv_settings"]


VARIABLES: Final = tuple(name.upper() for name in Settings.model_fields)


def near_misses(names: Iterable[str]) -> tuple[str, ...]:
    """Names that are none of ours but one slip away from one: a sentence each, sorted."""
    known = frozenset(VARIABLES)
    strangers = sorted({name for name in names if name not in known})
    return tuple(
        f"{name} looks like {ours}"
        for name in strangers
        for ours in VARIABLES
        if name.upper() == ours or _is_slip(name, ours)
    )


def _is_slip(name: str, ours: str) -> bool:
    """One typing error apart; two in a long name that begins alike."""
    allowed = 2 if len(ours) >= 12 and name[:1] == ours[0] else 1
    return abs(len(name) - len(ours)) <= allowed and _distance(name, ours) <= allowed


def _distance(left: str, right: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours (optimal string alignment); O(n m)."""
    rows = [list(range(len(right) + 1))]
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            cost = min(rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (a != b))
            if i > 1 and j > 1 and (a, b) == (right[j - 2], left[i - 2]):
                cost = min(cost, rows[i - 2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def _names_in(env_file: str | Path | None) -> tuple[str, ...]:
    """The variables that a `.env` file sets.

    Raises:
        ConfigError: it exists and cannot be read.
    """
    if env_file is None or not Path(env_file).is_file():
        return ()
    try:
        return tuple(dotenv_values(env_file))
    except (OSError, UnicodeDecodeError) as error:
        reason = f"{env_file} cannot be read: {type(error).__name__}"
    raise ConfigError(reason)  # outside of the handler: a UnicodeDecodeError holds the file's bytes


def _is_service_link(name: str, value: str) -> bool:
    """Kubernetes sets REDIS_PORT=tcp://10.0.0.1:6379 in every pod beside a service named redis."""
    return name.upper().endswith("_PORT") and value.startswith("tcp://")


def _without_inputs(error: ValidationError) -> ValidationError:
    """The same error with the same messages, and with none of the values in it."""
    return ValidationError.from_exception_data(
        error.title,
        [
            InitErrorDetails(
                type=PydanticCustomError(detail["type"], "{text}", {"text": detail["msg"]}),
                loc=detail["loc"],
                input=MASK,
            )
            for detail in error.errors(include_url=False, include_context=False, include_input=False)
        ],
        hide_input=True,
    )


def _describe(location: tuple[int | str, ...], message: str) -> str:
    text = message.removeprefix("Value error, ")
    return f"{str(location[0]).upper()}: {text}" if location else text
