"""Making a coroutine's first step at once, and the rest where it belongs.

Most jobs end in their first step, and a call to the server is on its way after it; a timer or a turn of the loop
would cost more than the step. From Python 3.12 on asyncio has eager tasks; this is what the engine needs of them.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


def start(call: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Make the first step now, in the caller's task; the rest runs as a task of its own.

    For coroutines whose first step does not ask for the current task, as `asyncio.timeout` does.
    """
    try:
        waiting = call.send(None)
    except StopIteration as ended:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        future.set_result(ended.value)
        return future
    except Exception as error:  # noqa: BLE001 - the future's, whoever awaits it
        future = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future
    return asyncio.create_task(_rest(call, waiting))


async def _rest(call: Coroutine[Any, Any, T], waiting: Any) -> T:
    result: T = await resumed(call, waiting)
    return result


@types.coroutine
def resumed(call: Coroutine[Any, Any, Any], waiting: Any) -> Generator[Any, Any, Any]:
    """Await the rest of a coroutine that has been sent into once, and waits for ``waiting``."""
    while True:
        try:
            yield waiting
        except BaseException as error:  # noqa: BLE001 - thrown in by the loop, meant for the coroutine
            try:
                waiting = call.throw(error)
            except StopIteration as ended:
                return ended.value
        else:
            return (yield from call)  # a types.coroutine may delegate to a coroutine
