"""A task's signature: what of it is the job's own, and what the worker fills in."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

from aioinfra.codec.typed import unsupported_class
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.arguments import ArgumentPlan
from aioinfra.jobs.context import JobContext

T = TypeVar("T")

_CONTEXT_TEXT = re.compile(r"([\w.]+\.)?(JobContext(\s*\|\s*None)?|Optional\[([\w.]+\.)?JobContext\])")


class TaskSignature:
    """The parameters of a task's function.

    Args:
        function: the function.

    Attributes:
        context_parameter: the one annotated JobContext, which the worker fills in, or None.
        own: the signature without it: where a job's arguments go.

    Raises:
        InvalidArgument: the JobContext stands where no type checker can leave it out.
    """

    __slots__ = ("_function", "_least", "_most", "_plan", "_position", "context_parameter", "own")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        signature = inspect.signature(function)
        self.context_parameter = _context_parameter(signature)
        self._position = _position(signature, self.context_parameter)
        self.own = _without(signature, self.context_parameter)
        self._least, self._most = _counts(self.own)
        self._plan: ArgumentPlan | None = None

    def check(self, task: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that do not fit. Raises InvalidArgument; names the task."""
        if not kwargs and self._least <= len(args) <= self._most:
            return  # binding costs as much as encoding the job
        try:
            self.own.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArgument(task, str(error)) from None

    def check_returns(self) -> None:
        """Refuse a return annotation whose values cannot be stored and restored.

        One that cannot be resolved yet (a class defined further down) is left to the first result.

        Raises:
            InvalidArgument: names the class in the annotation.
        """
        unsupported = unsupported_class(ArgumentPlan.of(self._function, self.own).returns)
        if unsupported is not None:
            raise InvalidArgument(
                "return annotation",
                f"a {unsupported} cannot be stored as JSON and restored; return what can, or set keep_result=0",
            )

    def call_with_context(
        self, function: Callable[..., T], context: JobContext, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        """Call ``function`` with the context put where the signature has it."""
        position = self._position
        if position is None or position > len(args):
            return function(*args, **{**kwargs, str(self.context_parameter): context})
        return function(*args[:position], context, *args[position:], **kwargs)

    def plan(self) -> ArgumentPlan:
        """How arguments and result are restored to their annotated types; made once, at first use."""
        if self._plan is None:
            self._plan = ArgumentPlan.of(self._function, self.own)
        return self._plan


def _context_parameter(signature: inspect.Signature) -> str | None:
    """The parameter that the worker fills in."""
    for at, (name, parameter) in enumerate(signature.parameters.items()):
        if not _is_context(parameter.annotation):
            continue
        if parameter.default is parameter.empty and (at or parameter.kind is parameter.KEYWORD_ONLY):
            raise InvalidArgument(
                name,
                "must be the first parameter, or `JobContext | None = None`: type checkers would demand it of "
                "whoever enqueues",
            )
        return name
    return None


def _is_context(annotation: Any) -> bool:
    """Whether an annotation, which may be text, is JobContext or JobContext | None."""
    if isinstance(annotation, str):
        return _CONTEXT_TEXT.fullmatch(annotation) is not None
    return annotation is JobContext or set(get_args(annotation)) == {JobContext, type(None)}


def _position(signature: inspect.Signature, name: str | None) -> int | None:
    """Where a parameter stands among the positional ones; None when it takes a keyword only."""
    for position, parameter in enumerate(signature.parameters.values()):
        if parameter.name == name:
            return None if parameter.kind is parameter.KEYWORD_ONLY else position
    return None


def _without(signature: inspect.Signature, name: str | None) -> inspect.Signature:
    kept = [parameter for parameter in signature.parameters.values() if parameter.name != name]
    return signature.replace(parameters=kept)


def _counts(signature: inspect.Signature) -> tuple[float, float]:
    """How many positional arguments alone always fit: at least, at most; none when keywords are required."""
    least, most = 0.0, 0.0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = float("inf")
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += parameter.default is parameter.empty
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            return float("inf"), -1.0
    return least, most
