"""Which server is used when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from aioinfra.config import RedisUrl, Settings
from aioinfra.connection.embedded import EmbeddedOptions
from aioinfra.connection.locate import Located, locate, locate_async, locate_jobs
from aioinfra.errors import ConfigError, InvalidArgument
from tests.conftest import OwnServerFactory

SECRET = "hunter2"


def url_of(text: str) -> RedisUrl:
    return RedisUrl(text)


def test_an_explicit_url_wins() -> None:
    settings = Settings(redis_url=url_of("redis://settings/0"))
    assert locate(settings, url="redis://explicit/0") == Located(
        "redis://explicit/0", None, "the url argument"
    )


def test_the_settings_come_next_and_are_named() -> None:
    assert locate(Settings(redis_url=url_of("redis://one/0"))) == Located("redis://one/0", None, "REDIS_URL")
    assert locate(Settings(redis_host="two")) == Located("redis://two:6379/0", None, "REDIS_HOST")


@pytest.mark.parametrize("environment", ["production", "staging", "prod", "testing", "local"])
def test_outside_development_nothing_set_is_an_error_that_says_what_to_set(
    tmp_path: Path, environment: str
) -> None:
    settings = Settings(environment=environment, aioinfra_state_dir=tmp_path / "state")
    with pytest.raises(ConfigError, match="set REDIS_URL"):
        locate(settings)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("environment", ["development", "dev", "test"])
def test_in_development_nothing_set_is_the_embedded_server(tmp_path: Path, environment: str) -> None:
    located = locate(Settings(environment=environment, aioinfra_state_dir=tmp_path / "state"))
    assert located.embedded is not None
    with located.embedded, redis.Redis.from_url(located.url) as client:
        assert client.config_get("dir") == {"dir": str(tmp_path / "state" / "data")}
        assert located.origin == f"the embedded server in {tmp_path / 'state'}"


async def test_the_async_way_starts_the_same_server_and_keeps_the_loop_free(tmp_path: Path) -> None:
    settings = Settings(aioinfra_state_dir=tmp_path / "state")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    located = await locate_async(settings)
    ticking.cancel()
    assert ticks > 5
    assert located.embedded is not None
    async with located.embedded:
        again = await locate_async(settings, options=EmbeddedOptions(state_dir=tmp_path / "state"))
        assert again.embedded is not None
        assert again.url == located.url
        again.embedded.close()
    assert await locate_async(settings, url="redis://explicit/0") == locate(
        settings, url="redis://explicit/0"
    )


def test_a_configured_server_that_is_down_is_not_replaced(
    tmp_path: Path, own_server: OwnServerFactory
) -> None:
    server = own_server()
    settings = Settings(redis_url=url_of(server.url), aioinfra_state_dir=tmp_path / "state")
    server.kill()
    assert locate(settings) == Located(server.url, None, "REDIS_URL")
    assert not (tmp_path / "state").exists()


def test_jobs_have_their_own_server_or_share_the_base_one() -> None:
    assert locate_jobs(Settings(redis_url=url_of("redis://base/0"))) is None
    own = Settings(jobs_redis_url=url_of("redis://jobs/0"), environment="production")
    assert locate_jobs(own) == Located("redis://jobs/0", None, "JOBS_REDIS_URL")
    assert locate_jobs(own, url="redis://explicit/0") == Located(
        "redis://explicit/0", None, "the url argument"
    )
    celery = Settings(celery_broker_url=url_of("redis://broker/0"))
    assert locate_jobs(celery) == Located("redis://broker/0", None, "CELERY_BROKER_URL")


def test_a_url_that_names_no_server_is_refused_by_its_source_and_stays_hidden() -> None:
    with pytest.raises(InvalidArgument) as refused:
        locate(Settings(), url=f"http://:{SECRET}@host")
    assert refused.value.argument == "url"
    assert SECRET not in str(refused.value)
    wrong = f"redis://:{SECRET}@host/zero"
    with pytest.raises(ConfigError, match=r"^REDIS_URL: ") as variable:
        locate(Settings(redis_url=url_of(wrong)))
    with pytest.raises(ConfigError, match=r"^JOBS_REDIS_URL: ") as jobs:
        locate_jobs(Settings(jobs_redis_url=url_of(wrong)))
    assert SECRET not in str(variable.value) + str(jobs.value)


def test_credentials_are_not_in_the_repr() -> None:
    located = locate(Settings(), url=f"redis://:{SECRET}@host/0")
    assert SECRET in located.url
    assert SECRET not in repr(located)
