"""The connections of a service's pools on its metrics page."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from aioinfra.connection.pool import RedisClient
from aioinfra.metrics.registry import MetricsRegistry


def show_pools(metrics: MetricsRegistry, clients: Mapping[str, RedisClient], stack: AsyncExitStack) -> None:
    """Read the figures of these clients, by the names of their pools, at every scrape until the stack unwinds."""
    connections = metrics.gauge("aioinfra_redis_connections")
    limit = metrics.gauge("aioinfra_redis_connections_limit")

    def read() -> None:
        for pool, client in clients.items():
            figures = client.figures()
            connections.labels(pool, "idle").set(figures.idle)
            connections.labels(pool, "in_use").set(figures.in_use)
            limit.labels(pool).set(figures.max_connections)

    metrics.before_scrape(read)
    stack.callback(metrics.forget, read)
    stack.callback(read)  # closed by now: nothing is connected
