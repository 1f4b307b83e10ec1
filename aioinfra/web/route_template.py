"""Which route answered a request: its template, since a path as a label would be a series a visitor.

Starlette leaves the matched route in the scope, FastAPI a context that also knows the prefixes of included
routers; a mounted application's routes stand below the mount's own path.
"""

from __future__ import annotations

from typing import Any, Final

UNMATCHED: Final = "__unmatched__"
"""The template of every request that no route answered."""


def route_template(scope: dict[str, Any]) -> str:
    """The template under which a finished request counts, such as ``/users/{id}``. O(1)."""
    # FastAPI 0.137 and later: scope["route"].path lacks the prefixes of include_router.
    effective = (scope.get("fastapi") or {}).get("effective_route_context")
    route = scope.get("route")
    path = getattr(effective, "path", None) or getattr(route, "path", None)
    if path is None:
        return UNMATCHED
    below = _mount_path(scope)
    if _is_mount(route):  # the mounted application has no routes of its own, or none that fits
        return f"{path}/*"
    return below + str(path)


def _is_mount(route: Any) -> bool:
    return route is not None and hasattr(route, "routes") and not hasattr(route, "methods")


def _mount_path(scope: dict[str, Any]) -> str:
    """The path of the mounts above the route, or '' where it holds parameters: their values are not a template."""
    mounted, root = str(scope.get("app_root_path") or ""), str(scope.get("root_path") or "")
    below = root[len(mounted) :] if root.startswith(mounted) else ""
    return below if _is_template_free(scope) else ""


def _is_template_free(scope: dict[str, Any]) -> bool:
    """Whether the mount's path can be told from root_path: it can when the mount has no parameters of its own.

    A mount with parameters would put their values into the template; its routes then count without it.
    """
    route = scope.get("route")
    own = getattr(route, "param_convertors", {})
    return set(scope.get("path_params") or {}) <= set(own)
