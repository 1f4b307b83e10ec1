"""The one explicit process default that module-level conveniences act on.

`Service` installs its parts on entry and withdraws them on exit. There is no implicit default: a
convenience used before that raises NotInstalled, and a second install raises instead of replacing.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from aioinfra.errors import LifecycleError, NotInstalled

T = TypeVar("T")


class ProcessDefault(Generic[T]):
    """A slot for one value per process. ``what`` completes the sentence 'no ... is installed'."""

    __slots__ = ("_what", "current")

    def __init__(self, what: str) -> None:
        self._what = what
        self.current: T | None = None
        """The default, or None. Read it; `install` and `withdraw` change it."""

    def install(self, value: T) -> None:
        """Make ``value`` the default.

        Raises:
            LifecycleError: another value is installed.
        """
        if self.current is not None and self.current is not value:
            raise LifecycleError(f"another {self._what} is already the process default")
        self.current = value

    def withdraw(self, value: T) -> None:
        """Take ``value`` back; nothing happens when it is not the default."""
        if self.current is value:
            self.current = None

    def require(self) -> T:
        """The default.

        Raises:
            NotInstalled: there is none.
        """
        if self.current is None:
            raise NotInstalled(
                f"no {self._what} is installed: enter a Service (`async with service:`) or pass one explicitly"
            )
        return self.current
