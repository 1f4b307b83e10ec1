"""A service over HTTP: one middleware for all that a request needs, and the operations pages."""

from __future__ import annotations

from aioinfra.web.middleware import App, RequestMiddleware
from aioinfra.web.routes import (
    health_routes,
    metrics_route,
    operations_app,
    service_lifespan,
    service_routes,
)
from aioinfra.web.service_middleware import ServiceMiddleware

__all__ = [
    "App",
    "RequestMiddleware",
    "ServiceMiddleware",
    "health_routes",
    "metrics_route",
    "operations_app",
    "service_lifespan",
    "service_routes",
]
