"""The name by which other processes know a function: for tasks and cache keys."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def qualified_name(function: Callable[..., Any]) -> str:
    """Module and qualified name, ``shop.mail.send``.

    A script knows itself as ``__main__``; here it has the name under which others import it, so that
    ``python shop.py`` and a worker of ``shop`` mean the same function.
    """
    return f"{_module_name(function)}.{function.__qualname__}"


def _module_name(function: Callable[..., Any]) -> str:
    if function.__module__ != "__main__":
        return function.__module__
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name).removesuffix(".__main__")
    return Path(getattr(main, "__file__", None) or "__main__").stem
