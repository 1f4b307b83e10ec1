"""What a command line means by ``package.module:name``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from aioinfra.errors import InvalidArgument


def load_target(target: str) -> Any:
    """The object that ``package.module:name`` or ``package.module.name`` means.

    The current directory is importable, as it is for ``python -m``.

    Raises:
        InvalidArgument: there is no such module or name. An error inside the module is raised as it is.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    module_name, colon, path = target.partition(":")
    if not colon:
        module_name, _, path = target.rpartition(".")
    if not module_name or not path:
        raise InvalidArgument("target", "must look like package.module:name")
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise InvalidArgument("target", f"there is no module {error.name!r} here") from None
        raise
    for name in path.split("."):
        if not hasattr(value, name):
            raise InvalidArgument("target", f"{module_name} has no {path!r}")
        value = getattr(value, name)
    return value
