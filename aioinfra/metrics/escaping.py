"""Text that is safe on a metrics page. Format: https://prometheus.io/docs/instrumenting/exposition_formats/"""

from __future__ import annotations

from typing import Final

LONGEST_LABEL: Final = 128
"""Characters of a label's value."""

_LABEL = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_HELP = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def plain(value: object) -> str:
    """Any label value as text that UTF-8 can encode; lone surrogates become their escapes."""
    text = value if type(value) is str else str(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def label_value(value: object) -> str:
    """As `plain`, and cut: a label that somebody fills with texts costs a bounded amount."""
    return plain(value)[:LONGEST_LABEL]


def escape_label(text: str) -> str:
    """A label value between its quotes."""
    return text.translate(_LABEL)


def escape_help(text: str) -> str:
    """A HELP text."""
    return plain(text).translate(_HELP)


class EscapedText(str):
    """A label value that formats escaped and compares as it is: aioprometheus' own renderer formats, and does not
    escape."""

    __slots__ = ()

    def __format__(self, _spec: str) -> str:
        return escape_label(self)


def format_value(value: float) -> str:
    """A sample's value; what is no number at all is NaN, so that one bad value does not break the page."""
    if type(value) is int:
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return "NaN"
    if number != number:  # NaN is the one value that is not itself
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "+Inf" if number > 0 else "-Inf"
    return repr(number)
