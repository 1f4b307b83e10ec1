"""`RequestMiddleware` with the metrics of a service."""

from __future__ import annotations

from aioinfra.metrics.observers import HttpMetrics
from aioinfra.service import Service
from aioinfra.web.middleware import App, RequestMiddleware


class ServiceMiddleware(RequestMiddleware):
    """Request id, context, access log and metrics for an application of this service; put it outermost.

    Args:
        app: the ASGI application.
        service: whose metrics count the requests. It need not be open yet.
        access_log: whether to write a line a request to the logger ``api.access``.
    """

    def __init__(self, app: App, service: Service, *, access_log: bool = True) -> None:
        super().__init__(app, HttpMetrics(service.metrics), access_log=access_log)
