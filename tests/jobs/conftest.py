"""A client and a queue for each test of the jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.client import JobClient, default_client


@pytest.fixture
def queue(prefix: str) -> str:
    """A queue that no other test has."""
    return f"{prefix}queue"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisClient]:
    """A pool on both servers in turn."""
    async with RedisClient(redis_url) as opened:
        yield opened


@pytest.fixture
async def client(redis: RedisClient) -> AsyncIterator[JobClient]:
    """A client on both servers in turn, also the process default."""
    opened = JobClient(redis)
    default_client.install(opened)
    yield opened
    default_client.withdraw(opened)
    await opened.aclose()


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[RedisClient]:
    """A pool on Valkey alone."""
    async with RedisClient(valkey_url) as opened:
        yield opened


@pytest.fixture
async def valkey_client(valkey: RedisClient) -> AsyncIterator[JobClient]:
    """A client on Valkey alone, also the process default."""
    opened = JobClient(valkey)
    default_client.install(opened)
    yield opened
    default_client.withdraw(opened)
    await opened.aclose()
