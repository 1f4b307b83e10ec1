"""The 500 that a request gets whose application raised before it answered, with the request's id.

Where nobody outside makes one, we do. Where the middleware stands inside a Starlette application with its own (a
handler for 500 or Exception, the debug page), that one does, outside of us and past our ``send``: its response gets
the id from the request's scope.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

SERVER_ERROR: Final = 500

_SCOPE_KEY: Final = "aioinfra.failed_request_id"
_TEXT: Final = b"Internal Server Error"
_HEADERS: Final = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"%d" % len(_TEXT)),
)


async def answer(send: Callable[[MutableMapping[str, Any]], Awaitable[None]]) -> None:
    """Send the plain 500. What the application raised is what counts: a client that is gone is no error here."""
    with contextlib.suppress(Exception):
        await send({"type": "http.response.start", "status": SERVER_ERROR, "headers": list(_HEADERS)})
        await send({"type": "http.response.body", "body": _TEXT})


def answers_itself(app: Any) -> bool:
    """Whether the application around the middleware makes its own 500."""
    handlers = getattr(app, "exception_handlers", {})
    return bool(getattr(app, "debug", False)) or SERVER_ERROR in handlers or Exception in handlers


def hand_id_out(app: Any, scope: MutableMapping[str, Any], header: tuple[bytes, bytes]) -> None:
    """Let the application's own 500 to this request carry the id."""
    scope[_SCOPE_KEY] = header
    errors = sys.modules.get("starlette.middleware.errors")
    outermost: Any = getattr(app, "middleware_stack", None)
    if errors is None or type(outermost) is not errors.ServerErrorMiddleware or _SCOPE_KEY in vars(outermost):
        return
    vars(outermost)[_SCOPE_KEY] = True  # once an application; it reads both of these after we have raised
    outermost.debug_response = _with_id(outermost.debug_response)
    if outermost.handler is not None:
        adapt = _with_id_async if errors.is_async_callable(outermost.handler) else _with_id
        outermost.handler = adapt(outermost.handler)


def _with_id(make: Callable[[Any, Exception], Any]) -> Callable[[Any, Exception], Any]:
    def made(request: Any, error: Exception) -> Any:
        return _marked(request, make(request, error))

    return made


def _with_id_async(
    make: Callable[[Any, Exception], Awaitable[Any]],
) -> Callable[[Any, Exception], Awaitable[Any]]:
    async def made(request: Any, error: Exception) -> Any:
        return _marked(request, await make(request, error))

    return made


def _marked(request: Any, response: Any) -> Any:
    header = request.scope.get(_SCOPE_KEY)
    if header is not None and hasattr(response, "headers"):
        name, value = header
        response.headers[name.decode("ascii")] = value.decode("ascii")
    return response
