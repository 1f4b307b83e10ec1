"""One server span a request, whoever makes it.

An instrumentation outside of us     has made it: the request runs inside of a span
FastAPI, when it traces itself       makes it, further in, and knows more of the request
else                                 we do; a FastAPI application that is mounted further in is told not to
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from aioinfra.tracing import Tracing
from aioinfra.tracing.setup import global_provider
from aioinfra.web.failure import SERVER_ERROR

CLIENT_GONE: Final = 499
"""The status of a request that nobody waited for; nginx's number."""

_FASTAPI_KEY: Final = "fastapi.telemetry"
_DEEPEST: Final = 50


async def in_server_span(
    tracing: Tracing,
    app: Any,
    scope: MutableMapping[str, Any],
    headers: Mapping[str, str],
    call: Callable[[], Awaitable[None]],
    answered: Callable[[int], tuple[str, str, int]],
) -> None:
    """Await ``call`` inside of the request's server span.

    Args:
        tracing: of this process.
        app: the application that is called.
        scope: of the request.
        headers: those of the request that were accepted.
        call: calls it.
        answered: method, route and status, once it has been called; given the status of a request without one.
    """
    if tracing.in_span() or traces_itself(app):
        await call()
        return
    if "fastapi" in sys.modules:
        scope.setdefault(_FASTAPI_KEY, None)  # FastAPI's own mark of a request that it is not to trace
    with tracing.server_span(scope["method"][:16], headers) as span:
        status = CLIENT_GONE
        try:
            await call()
        except Exception:
            status = SERVER_ERROR
            raise
        finally:
            tracing.end_server_span(span, *answered(status))


def traces_itself(app: Any) -> bool:
    """Whether an application, below the middlewares around it, is a FastAPI that makes server spans."""
    for _ in range(_DEEPEST):
        config = getattr(getattr(app, "_native_telemetry", None), "config", None)
        if isinstance(config, Mapping):
            return bool(config.get("tracing")) and (
                config.get("tracer_provider") is not None or global_provider() is not None
            )
        app = getattr(app, "app", None) or getattr(app, "_app", None)
        if app is None:
            return False
    return False
