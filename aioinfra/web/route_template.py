"""Which route answered a request: its template, since a path as a label would be a series a visitor.

Starlette leaves the matched route in the scope, FastAPI a context that also knows the prefixes of included
routers, Litestar the template itself. A mounted application's routes stand below the mount's path, of which the
scope holds only the concrete text: where that varies it holds parameters, and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

UNMATCHED: Final = "__unmatched__"
"""The template of every request that no route answered."""


class RouteTemplates:
    """Tells templates; remembers the mount's path under which each route was met first."""

    def __init__(self) -> None:
        # By identity, since routes cannot be hashed; each holds its route, so that no id is used twice.
        self._mount_paths: dict[int, tuple[Any, str]] = {}

    def of(self, scope: Mapping[str, Any]) -> str:
        """The template under which a finished request counts, such as ``/users/{id}``. O(1)."""
        # FastAPI 0.137 and later: scope["route"].path lacks the prefixes of include_router.
        effective = (scope.get("fastapi") or {}).get("effective_route_context")
        route = scope.get("route")
        path = getattr(effective, "path", None) or getattr(route, "path", None) or scope.get("path_template")
        if not path:
            path = _path_of_endpoint(scope)
        if not path:
            return _litestars_mount(scope)
        root = str(scope.get("root_path") or "")
        if _is_mount(route):  # the mounted application has no routes of its own, or none that fits
            # Where the path of a mount with parameters would be, root_path has their values.
            root = root.removesuffix(path) if root.endswith(path) else ""
            path = f"{path}/*"
        return self._mount_path(scope, route, root) + str(path) if root else str(path)

    def _mount_path(self, scope: Mapping[str, Any], route: Any, root: str) -> str:
        mounted = str(scope.get("app_root_path") or "")
        below = root[len(mounted) :] if root.startswith(mounted) else ""
        own = getattr(route, "param_convertors", {})
        if not below or not set(scope.get("path_params") or {}) <= set(own):
            return ""
        # A mount whose parameter has the name of one of the route's passes the test above. Its path varies.
        _, first = self._mount_paths.setdefault(id(route), (route, below))
        if first == below:
            return below
        self._mount_paths[id(route)] = (route, "")
        return ""


def _path_of_endpoint(scope: Mapping[str, Any]) -> str | None:
    """The path of a plain route inside FastAPI, which leaves only the endpoint in the scope."""
    endpoint = scope.get("endpoint")
    if endpoint is None:
        return None
    routes = getattr(scope.get("app"), "routes", ())
    return next((str(route.path) for route in routes if getattr(route, "endpoint", None) is endpoint), None)


def _litestars_mount(scope: Mapping[str, Any]) -> str:
    """Litestar gives what it mounts no template. The mount's path takes no parameters. O(routes), like a match."""
    handler = scope.get("route_handler")
    if not getattr(handler, "is_mount", False):
        return UNMATCHED
    routes = getattr(scope.get("litestar_app") or scope.get("app"), "routes", ())
    paths = (str(route.path) for route in routes if getattr(route, "route_handler", None) is handler)
    return next((f"{path.rstrip('/')}/*" for path in paths), UNMATCHED)


def _is_mount(route: Any) -> bool:
    return route is not None and hasattr(route, "routes") and not hasattr(route, "methods")
