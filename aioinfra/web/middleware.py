"""One ASGI layer for what every request needs: an id, its context, a line in the access log, metrics.

Pure ASGI and outermost, so that a 500 carries the id as well, and a context that is set in a dependency's thread
is seen here: the request's scope is shared, not copied (see `aioinfra.context`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from aioinfra import context
from aioinfra.logs.failures import remember_context
from aioinfra.logs.logger import get_logger
from aioinfra.web import failure
from aioinfra.web.observer import HttpObserver
from aioinfra.web.route_template import RouteTemplates

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

access = get_logger("api.access")

REQUEST_ID_HEADER: Final = b"x-request-id"
_ACCEPTED_HEADERS: Final = (REQUEST_ID_HEADER, b"x-correlation-id")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_LONGEST_ID: Final = 128
_CLIENT_GONE: Final = 499


class RequestMiddleware:
    """See the module. Everything but HTTP requests passes through untouched.

    Args:
        app: the ASGI application; put this around everything else.
        observer: told of every request; None measures nothing.
        access_log: whether to write a line a request to the logger ``api.access``.
    """

    def __init__(self, app: App, observer: HttpObserver | None = None, *, access_log: bool = True) -> None:
        self._app = app
        self._observer = observer
        self._access_log = access_log
        self._templates = RouteTemplates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _accepted_id(scope["headers"]) or context.new_id()
        token = context.open_scope({context.REQUEST_ID: request_id})
        response = _Response(send, request_id)
        outside = scope.get(
            "app"
        )  # an application that this stands inside of; those within put themselves there
        observer = self._observer
        if observer is not None:
            observer.request_started()
        started = time.perf_counter()
        try:
            await self._app(scope, receive, response.send)
        except Exception as error:
            remember_context(error)  # the server logs it when our scope is closed
            if response.status == 0:
                await _answer_failure(outside, scope, response)
            raise
        finally:
            self._ended(scope, response, time.perf_counter() - started)
            context.close_scope(token)

    def _ended(self, scope: Scope, response: _Response, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        route = self._templates.of(scope)
        status = response.status or _CLIENT_GONE
        if self._observer is not None:
            self._observer.request_finished(method, route, status, seconds)
        if self._access_log and access.is_enabled_for(logging.INFO):
            client = scope.get("client")
            access.info(
                "request",
                method=method,
                path=scope["path"],
                route=route,
                status=status,
                seconds=round(seconds, 6),
                client=client[0] if client else None,
            )


class _Response:
    """Passes a response on, with the request's id among its headers."""

    __slots__ = ("_send", "header", "status")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.header = (REQUEST_ID_HEADER, request_id.encode("ascii"))
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            others = [pair for pair in message.get("headers", ()) if pair[0].lower() != REQUEST_ID_HEADER]
            message = {**message, "headers": [*others, self.header]}
        await self._send(message)


async def _answer_failure(outside: Any, scope: Scope, response: _Response) -> None:
    if failure.answers_itself(outside):
        response.status = failure.SERVER_ERROR
        failure.hand_id_out(outside, scope, response.header)
    else:
        await failure.answer(response.send)


def _accepted_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The id that the client sent, if it may stand in a log line: strict alphabet, bounded length, given once."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _ACCEPTED_HEADERS:
            if name in found:
                return None
            found[name] = value
    for name in _ACCEPTED_HEADERS:
        value = found.get(name, b"")
        if value and len(value) <= _LONGEST_ID:
            text = value.decode("latin-1")
            if context.is_valid_id(text):
                return text
    return None
