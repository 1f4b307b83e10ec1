"""Which server is used when.

    an explicit URL -> the settings (REDIS_URL, or REDIS_HOST and friends; for jobs JOBS_REDIS_URL first)
                    -> nothing set: in development the embedded server, elsewhere ConfigError

A configured server that cannot be reached is never replaced: two processes that silently work on different
servers are worse than an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from aioinfra.config import RedisUrl, Settings
from aioinfra.connection.address import parse_address
from aioinfra.connection.embedded import (
    EmbeddedOptions,
    EmbeddedServer,
    start_embedded,
    start_embedded_async,
)
from aioinfra.errors import ConfigError, InvalidArgument

EXPLICIT: Final = "the url argument"


@dataclass(frozen=True, slots=True)
class Located:
    """The server to use.

    Attributes:
        url: with credentials, so not part of the repr.
        embedded: set when this is the embedded server: whoever located it closes it.
        origin: where the choice comes from, for logs: a variable's name, the argument, the embedded server.
    """

    url: str = field(repr=False)
    embedded: EmbeddedServer | None
    origin: str


def locate(settings: Settings, *, url: str | None = None, options: EmbeddedOptions | None = None) -> Located:
    """The base server, for the cache and for whatever has no server of its own.

    No I/O unless it comes to the embedded server, which is started or joined (see `start_embedded`). Without
    ``options`` its data lies in ``settings.aioinfra_state_dir``.

    Raises:
        InvalidArgument: ``url`` is no URL of a server.
        ConfigError: a variable is not, or none is set and this is no development environment.
        EmbeddedServerError: the embedded server cannot be started.
    """
    found = _configured(settings, url)
    return found or _on_embedded(start_embedded(options or _options(settings)))


async def locate_async(
    settings: Settings, *, url: str | None = None, options: EmbeddedOptions | None = None
) -> Located:
    """As `locate`, without blocking the event loop."""
    found = _configured(settings, url)
    return found or _on_embedded(await start_embedded_async(options or _options(settings)))


def locate_jobs(settings: Settings, *, url: str | None = None) -> Located | None:
    """The jobs' own server; None when they share the base one. No I/O.

    Raises:
        InvalidArgument: ``url`` is no URL of a server.
        ConfigError: JOBS_REDIS_URL or CELERY_BROKER_URL is not.
    """
    if url is not None:
        return _explicit(url)
    return _from_settings(settings.jobs_url())


def _configured(settings: Settings, url: str | None) -> Located | None:
    """The server that somebody named; None when nobody did and the embedded one may stand in."""
    if url is not None:
        return _explicit(url)
    found = _from_settings(settings.cache_url())
    if found is None and not settings.is_development:
        raise ConfigError(
            "no Redis is configured: set REDIS_URL (or REDIS_HOST and friends). The embedded server is for "
            "development and tests alone, that is for ENVIRONMENT unset, development, dev or test"
        )
    return found


def _explicit(url: str) -> Located:
    parse_address(url)
    return Located(url, None, EXPLICIT)


def _from_settings(found: tuple[RedisUrl, str] | None) -> Located | None:
    if found is None:
        return None
    url, variable = found
    text = url.get_secret_value()
    try:
        parse_address(text)
    except InvalidArgument as error:
        raise ConfigError(f"{variable}: {error.reason}") from None
    return Located(text, None, variable)


def _options(settings: Settings) -> EmbeddedOptions:
    return EmbeddedOptions(state_dir=settings.aioinfra_state_dir)


def _on_embedded(server: EmbeddedServer) -> Located:
    return Located(server.url, server, f"the embedded server in {server.state_dir}")
