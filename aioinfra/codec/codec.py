"""The seam between values and bytes."""

from __future__ import annotations

from typing import Any, Final, Protocol

from aioinfra.errors import DecodeError, EncodeError, PayloadTooLarge

# The codec byte of the envelope. A number is never given to another codec.
RAW: Final = 0  # bytes as they are; the envelope's own
JSON: Final = 1
MSGPACK: Final = 2
SIGNED_PICKLE: Final = 3


class Codec(Protocol):
    """Writes values as bytes and reads them back. Holds no state between calls."""

    @property
    def id(self) -> int:
        """The codec byte of the envelope."""
        ...

    @property
    def name(self) -> str:
        """The name that users choose it by."""
        ...

    def encode(self, value: Any) -> bytes:
        """Bytes that `decode` turns into an equal value.

        Raises:
            EncodeError: there are none.
        """
        ...

    def decode(self, payload: bytes) -> Any:
        """The value of bytes from anywhere.

        Raises:
            DecodeError: these bytes hold no value of this codec and type.
        """
        ...

    def typed(self, annotation: Any) -> Codec:
        """This codec for values of one type, which it restores. ``Any`` means the codec's plain types."""
        ...


def encode_error(codec: str, error: Exception) -> EncodeError:
    """Why a value cannot be written, without any part of the value in the message."""
    if isinstance(error, PayloadTooLarge):
        reason = str(error)
    elif isinstance(error, RecursionError):
        reason = "nested too deeply, or contains itself"
    elif isinstance(error, OverflowError):
        reason = "holds an integer beyond 64 bits"
    elif isinstance(error, UnicodeError):
        reason = "holds text with a lone surrogate"
    elif isinstance(error, TypeError) and str(error).startswith("Encoding objects of type"):
        reason = str(error)  # names the type alone
    elif type(error).__name__ == "ValidationError":
        reason = "is not of the annotated type"
    else:
        reason = f"{type(error).__name__} while encoding"
    return EncodeError("value", f"{codec}: {reason}")


def changed_error(codec: str) -> EncodeError:
    """The value would come back as something else."""
    return EncodeError(
        "value",
        f"{codec}: would not read back equal to what is written (NaN, a tuple, a set, keys that are not "
        "text, an object); return it from a function annotated with its type, or use another serialization",
    )


def decode_error(codec: str, error: Exception) -> DecodeError:
    """Why bytes cannot be read. Names the kind of failure only: the rest may quote the payload."""
    return DecodeError(f"not a {codec} payload of the expected type ({type(error).__name__})")
