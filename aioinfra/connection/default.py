"""The process' Redis client, for applications that want the server itself."""

from __future__ import annotations

from typing import Final

from aioinfra.connection.pool import RedisClient
from aioinfra.process_default import ProcessDefault

default_redis: Final = ProcessDefault[RedisClient]("Redis client")
"""A Service installs its own."""


def get_redis_client() -> RedisClient:
    """The client of the Service that is open in this process; it stays the service's to close. No I/O.

    Without parameters, so that a web framework takes it as it is: ``Depends(get_redis_client)``. Its calls belong
    to the service's event loop and raise WrongEventLoop elsewhere: another loop makes a client of its own.

    Raises:
        NotInstalled: no service is open.
    """
    return default_redis.require()
