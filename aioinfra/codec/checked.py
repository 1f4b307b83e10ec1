"""What the text and the binary codec share: every encode reads its own output back and compares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

from aioinfra.codec.bounds import MOST_VALUES
from aioinfra.codec.codec import changed_error, decode_error, encode_error
from aioinfra.codec.models import Dump, Load, names_model


class CheckedCodec(ABC):
    """Values of one annotation as bytes; without one, of the format's plain types."""

    __slots__ = ("_dump", "_load")

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that users choose it by."""

    def __init__(self, annotation: Any = Any) -> None:
        self._dump, self._load = self._writer_and_reader(annotation)

    def encode(self, value: Any) -> bytes:
        """The bytes. O(size), twice: they are read back and compared.

        Raises:
            EncodeError: not writable, or not equal when read back.
        """
        try:
            payload = self._dump(value)
            if len(payload) > MOST_VALUES:
                self._check_values(payload)
            back = self._load(payload)
            same = bool(back == value) or self._differs_by_nan(back, value)
        except Exception as error:  # noqa: BLE001 - user types run their own code here
            raise encode_error(self.name, error) from None
        if not same:
            raise changed_error(self.name)
        return payload

    def decode(self, payload: bytes) -> Any:
        """The value.

        Raises:
            PayloadTooLarge: more than `MOST_VALUES` values; nothing was decoded.
            DecodeError: not of this format, or not of the annotated type.
        """
        if len(payload) > MOST_VALUES:  # else it cannot hold as many: no call on the hot path
            self._check_values(payload)
        try:
            return self._load(payload)
        except Exception as error:  # noqa: BLE001 - user types run their own code here
            raise decode_error(self.name, error) from None

    def typed(self, annotation: Any) -> Self:
        """The codec for values of an annotation."""
        return self if annotation is Any else type(self)(annotation)

    def _writer_and_reader(self, annotation: Any) -> tuple[Dump, Load]:
        if annotation is Any:
            return self._plain()
        if not names_model(annotation):
            try:
                return self._by_msgspec(annotation)
            except (TypeError, RecursionError):
                pass  # a union or class that msgspec refuses; pydantic may know it
        try:
            return self._by_pydantic(annotation)
        except Exception:  # noqa: BLE001 - neither library can restore it: only plain types pass the comparison
            return self._plain()

    @staticmethod
    def _differs_by_nan(_back: Any, _value: Any) -> bool:
        """Whether NaN is all that makes two values unequal; False where a format has no NaN."""
        return False

    @staticmethod
    @abstractmethod
    def _check_values(payload: bytes) -> None: ...

    @staticmethod
    @abstractmethod
    def _plain() -> tuple[Dump, Load]: ...

    @staticmethod
    @abstractmethod
    def _by_msgspec(annotation: Any) -> tuple[Dump, Load]:
        """Raises TypeError for an annotation that msgspec refuses."""

    @staticmethod
    @abstractmethod
    def _by_pydantic(annotation: Any) -> tuple[Dump, Load]: ...
