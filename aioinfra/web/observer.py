"""What the middleware tells whoever measures requests."""

from __future__ import annotations

from typing import Protocol


class HttpObserver(Protocol):
    """Called on the event loop for every request. Must not block, raise or await."""

    def request_started(self) -> None:
        """A request came in."""
        ...

    def request_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has ended.

        Args:
            method: one of the standard methods, else ``OTHER``.
            route: the route's template, never the path: its values are few.
            status: of the response; 500 when the application raised, 499 when the client went away first.
            seconds: from the request to the end of the response's body.
        """
        ...
