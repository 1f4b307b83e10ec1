"""One ASGI layer for what every request needs: an id, its context, a line in the access log, metrics, a span.

Pure ASGI and outermost, so that a 500 carries the id as well, and a context that is set in a dependency's thread
is seen here: the request's scope is shared, not copied (see `aioinfra.context`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from aioinfra import context
from aioinfra.logs.failures import remember_context
from aioinfra.logs.logger import get_logger
from aioinfra.tracing import Tracing, current_tracing
from aioinfra.web import failure
from aioinfra.web.headers import REQUEST_ID_HEADER, accepted
from aioinfra.web.observer import HttpObserver
from aioinfra.web.route_template import RouteTemplates
from aioinfra.web.server_span import CLIENT_GONE, in_server_span

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

access = get_logger("api.access")

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class RequestMiddleware:
    """See the module. Everything but HTTP requests passes through untouched.

    Args:
        app: the ASGI application; put this around everything else.
        observer: told of every request; None measures nothing.
        access_log: whether to write a line a request to the logger ``api.access``.
        trust_headers: whether the correlation id and the ``traceparent`` of a request are taken, if they are sound:
            True, False, or a function of the ASGI scope. Where anybody may send requests, a ``traceparent`` lets
            them choose what is sampled.
    """

    def __init__(
        self,
        app: App,
        observer: HttpObserver | None = None,
        *,
        access_log: bool = True,
        trust_headers: bool | Callable[[Scope], bool] = True,
    ) -> None:
        self._app = app
        self._observer = observer
        self._access_log = access_log
        self._trust = trust_headers
        self._templates = RouteTemplates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = self._accepted(scope)
        request_id = headers.get(context.REQUEST_ID) or context.new_id()
        token = context.open_scope({context.REQUEST_ID: request_id, **_trace(headers)})
        tracing = current_tracing()
        response = _Response(send, request_id, tracing)
        path = scope["path"]  # Litestar leaves there what is below a mount
        outside = scope.get("app")  # an application that this is inside of; those within put themselves there
        observer = self._observer
        if observer is not None:
            observer.request_started()
        started = time.perf_counter()
        try:
            if tracing is None:
                await self._app(scope, receive, response.send)
            else:
                await self._traced(tracing, headers, (scope, receive, response))
        except Exception as error:
            remember_context(error)  # the server logs it when our scope is closed
            if response.status == 0:
                await _answer_failure(outside, scope, response)
            raise
        finally:
            self._ended(scope, path, response, time.perf_counter() - started)
            context.close_scope(token)

    def _accepted(self, scope: Scope) -> dict[str, str]:
        trust = self._trust
        if trust is not True and (trust is False or not trust(scope)):
            return {}
        return accepted(scope["headers"])

    async def _traced(
        self, tracing: Tracing, headers: Mapping[str, str], request: tuple[Scope, Receive, _Response]
    ) -> None:
        scope, receive, response = request

        def call() -> Awaitable[None]:
            return self._app(scope, receive, response.send)

        def answered(status: int) -> tuple[str, str, int]:
            return _method(scope), self._templates.of(scope), response.status or status

        await in_server_span(tracing, self._app, scope, headers, call, answered)

    def _ended(self, scope: Scope, path: str, response: _Response, seconds: float) -> None:
        method = _method(scope)
        route = self._templates.of(scope)
        status = response.status or CLIENT_GONE
        if self._observer is not None:
            self._observer.request_finished(method, route, status, seconds)
        if self._access_log and access.is_enabled_for(logging.INFO):
            client = scope.get("client")
            access.info(
                "request",
                method=method,
                path=path,
                route=route,
                status=status,
                seconds=round(seconds, 6),
                client=client[0] if client else None,
            )


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in _METHODS else "OTHER"


def _trace(headers: Mapping[str, str]) -> Mapping[str, str]:
    parent = headers.get(context.TRACEPARENT)
    return {} if parent is None else {context.TRACEPARENT: parent}


class _Response:
    """Passes a response on, with the request's id among its headers."""

    __slots__ = ("_send", "_tracing", "header", "status")

    def __init__(self, send: Send, request_id: str, tracing: Tracing | None) -> None:
        self._send = send
        self._tracing = tracing
        self.header = (REQUEST_ID_HEADER, request_id.encode("ascii"))
        self.status = 0

    def send(self, message: Message) -> Awaitable[None]:
        """The server's own awaitable: a coroutine around it would cost every message of every response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != REQUEST_ID_HEADER]
            headers.append(self.header)
            message = {**message, "headers": headers}
            if self._tracing is not None:
                self._tracing.note()  # a span that the framework made: for the access line and the metrics
        return self._send(message)


async def _answer_failure(outside: Any, scope: Scope, response: _Response) -> None:
    if failure.answers_itself(outside):
        response.status = failure.SERVER_ERROR
        failure.hand_id_out(outside, scope, response.header)
    else:
        await failure.answer(response.send)
