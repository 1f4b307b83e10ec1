"""How a task's arguments come back from what the codec gives to what the function's annotations say."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

from aioinfra.codec.typed import reader, refuse
from aioinfra.errors import DecodeError

_AWAITABLES = (Awaitable, Coroutine)


@dataclass(frozen=True, slots=True)
class ArgumentPlan:
    """The annotations of a task's own parameters, by position and by name.

    Attributes:
        signature: without the parameter that the worker fills in.
        positional: name and type of each parameter that takes a position.
        by_name: type of each parameter that takes a name.
        more, more_by_name: types of ``*args`` and ``**kwargs``, Any without them.
        returns: the return annotation, Any when there is none or it cannot be resolved.
        simple: whether as many positional arguments as there are parameters are always enough.
    """

    signature: inspect.Signature
    positional: tuple[tuple[str, Any], ...]
    by_name: Mapping[str, Any]
    more: Any
    more_by_name: Any
    returns: Any
    simple: bool

    @classmethod
    def of(cls, function: Callable[..., Any], signature: inspect.Signature) -> ArgumentPlan:
        """The plan of a function; ``signature`` has the parameters that a job's arguments go to."""
        hints = _hints(function)
        returns = hints.get("return", Any)
        if get_origin(returns) in _AWAITABLES and not inspect.iscoroutinefunction(function):
            returns = get_args(returns)[-1]  # a plain function that wraps an async one
        kinds: dict[Any, list[tuple[str, Any]]] = {}
        for name, parameter in signature.parameters.items():
            kinds.setdefault(parameter.kind, []).append((name, hints.get(name, Any)))
        both = kinds.get(inspect.Parameter.POSITIONAL_OR_KEYWORD, [])
        named = kinds.get(inspect.Parameter.KEYWORD_ONLY, [])
        required = [
            name for name, _ in named if signature.parameters[name].default is inspect.Parameter.empty
        ]
        return cls(
            signature,
            (*kinds.get(inspect.Parameter.POSITIONAL_ONLY, []), *both),
            dict([*both, *named]),
            _only(kinds.get(inspect.Parameter.VAR_POSITIONAL)),
            _only(kinds.get(inspect.Parameter.VAR_KEYWORD)),
            returns,
            not required,
        )

    def restore(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decoded arguments as the annotated types.

        Raises:
            DecodeError: they do not fit the function; names the parameter, never the value.
        """
        positional = self.positional
        if kwargs or len(args) != len(positional) or not self.simple:
            try:
                self.signature.bind(*args, **kwargs)
            except TypeError as error:
                raise DecodeError(f"the arguments do not fit the task: {error}") from None
        if not args and not kwargs:
            return (), {}
        named = positional if len(args) <= len(positional) else self._with_more(len(args))
        restored = [
            value if wanted is Any or type(value) is wanted else restore(value, name, wanted)
            for value, (name, wanted) in zip(args, named, strict=False)
        ]
        by_name = {
            name: restore(value, name, self.by_name.get(name, self.more_by_name))
            for name, value in kwargs.items()
        }
        return tuple(restored), by_name

    def wanted(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
        """Name, value and annotation of each argument."""
        for (name, wanted), value in zip(self._with_more(len(args)), args, strict=False):
            yield name, value, wanted
        for name, value in kwargs.items():
            yield name, value, self.by_name.get(name, self.more_by_name)

    def _with_more(self, count: int) -> tuple[tuple[str, Any], ...]:
        return self.positional + tuple(
            (f"argument {at}", self.more) for at in range(len(self.positional), count)
        )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations that can be resolved: some names exist for type checkers alone."""
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - annotations are code, and this one failed; the others one by one
        hints: dict[str, Any] = {}
        names = getattr(function, "__globals__", None)
        for name, annotation in getattr(function, "__annotations__", {}).items():
            with suppress(Exception):
                alone = SimpleNamespace(__annotations__={name: annotation})
                hints |= get_type_hints(alone, names, include_extras=True)
        return hints


def _only(parameters: list[tuple[str, Any]] | None) -> Any:
    return parameters[0][1] if parameters else Any


def restore(value: Any, name: str, wanted: Any) -> Any:
    """One decoded value as its annotated type. A type that no library knows takes the value as it is.

    Raises:
        DecodeError: the value does not fit; says ``name``, never the value.
    """
    if wanted is Any or type(value) is wanted:
        return value
    read = reader(wanted)
    if read is refuse:
        return value
    try:
        return read(value)
    except Exception:  # noqa: BLE001 - beside the libraries' own, a user's constructor may raise anything
        if _is_one(value, wanted):  # a bool for an int; an object, where the codec keeps objects
            return value
        raise DecodeError(f"{name}: the stored value does not fit its annotation") from None


def _is_one(value: Any, wanted: Any) -> bool:
    try:
        return isinstance(value, wanted)
    except TypeError:
        return False
