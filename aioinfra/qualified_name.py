"""The name by which other processes know a function or a class: for tasks and cache keys."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def qualified_name(named: Callable[..., Any]) -> str:
    """Module and qualified name of a function or class, ``shop.mail.send``.

    A script knows itself as ``__main__``; here it has the name under which others import it, so that
    ``python shop.py`` and a worker of ``shop`` mean the same function.
    """
    return f"{module_name(named.__module__)}.{named.__qualname__}"


def module_name(module: str) -> str:
    """The name under which others import a module that may be ``__main__`` here."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name).removesuffix(".__main__")
    return Path(getattr(main, "__file__", None) or "__main__").stem
