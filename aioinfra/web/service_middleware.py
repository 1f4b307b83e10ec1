"""`RequestMiddleware` with the metrics of a service."""

from __future__ import annotations

from collections.abc import Callable

from aioinfra.metrics.observers import HttpMetrics
from aioinfra.service import Service
from aioinfra.web.middleware import App, RequestMiddleware, Scope


class ServiceMiddleware(RequestMiddleware):
    """Request id, context, access log, metrics and a span for an application of this service; put it outermost.

    Args:
        app: the ASGI application.
        service: whose metrics count the requests. It need not be open yet.
        access_log: whether to write a line a request to the logger ``api.access``.
        trust_headers: whether a request's correlation id and ``traceparent`` are taken; see `RequestMiddleware`.
    """

    def __init__(
        self,
        app: App,
        service: Service,
        *,
        access_log: bool = True,
        trust_headers: bool | Callable[[Scope], bool] = True,
    ) -> None:
        super().__init__(
            app, HttpMetrics(service.metrics), access_log=access_log, trust_headers=trust_headers
        )
