"""What a decorated function says that it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_type_hints

from aioinfra.cache.keys import check_key
from aioinfra.codec.schema import fingerprint
from aioinfra.errors import EncodeError
from aioinfra.qualified_name import qualified_name


def _itself(annotation: Any) -> Any:
    return annotation


class Shape:
    """The type of a decorated function's values, and what its keys begin with.

    Read at the first call, not at decoration: the annotation may name its own class, or one that is defined below.

    Args:
        function: the decorated one.
        start: gives what its keys begin with, up to the type.
        values: what an annotation says of one value.

    Attributes:
        annotation: of one value; Any before `resolve`.
        problem: why the annotation is not known.
        start: of the keys; empty before `resolve`.
    """

    __slots__ = ("_function", "_start", "_values", "annotation", "problem", "start")

    def __init__(
        self, function: Callable[..., Any], start: Callable[[], str], values: Callable[[Any], Any] = _itself
    ) -> None:
        self._function = function
        self._start = start
        self._values = values
        self.annotation: Any = Any
        self.problem = ""
        self.start = ""

    def resolve(self) -> str:
        """Read the annotation; the start of the keys."""
        annotation, self.problem = return_annotation(self._function)
        self.annotation = self._values(annotation)
        self.start = check_key(f"{self._start()}:{fingerprint(self.annotation)}:", "function")
        return self.start

    def explained(self, error: EncodeError) -> EncodeError:
        """The error of a value that cannot be kept, which may be since its annotation is not known."""
        if not self.problem:
            return error
        name = qualified_name(self._function)
        reason = f"{error.reason}; the return annotation of {name} could not be resolved: {self.problem}"
        return EncodeError(error.argument, reason)


def return_annotation(function: Callable[..., Any]) -> tuple[Any, str]:
    """The resolved return annotation, Any where that fails or there is none; and why it fails, for a message.

    It alone is resolved: that a parameter's is not known at run time, as with imports under TYPE_CHECKING, matters
    to no result.
    """
    annotations = getattr(function, "__annotations__", {})
    if "return" not in annotations:
        return Any, ""
    alone = SimpleNamespace(
        __annotations__={"return": annotations["return"]},
        __type_params__=getattr(function, "__type_params__", ()),
    )
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return get_type_hints(alone, names, include_extras=True)["return"], ""
    except NameError as error:
        return Any, f"{error.name!r} is not defined in its module at run time"
    except Exception as error:  # noqa: BLE001 - evaluating an annotation runs whatever it holds
        return Any, type(error).__name__
