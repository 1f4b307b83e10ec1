"""Which of the two formats a client is answered in, by its Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from typing import Final

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_LONGEST_HEADER: Final = 2_000
_VERSIONS: Final = frozenset({"1.0.0", "0.0.1"})
_SPECIFIC: Final = {"text/plain": 3, "text/*": 2, "*/*": 1}


def negotiate(accept: str | None) -> str:
    """The content type of the answer: OpenMetrics when it is asked for and nothing is wanted more, else text.

    Args:
        accept: the header as it came, or None.
    """
    wanted = -1.0
    text: tuple[int, float] = (0, 0.0)  # the most specific range that plain text matches, and its weight
    for part in (accept or "")[:_LONGEST_HEADER].split(","):
        media, parameters = _media_range(part)
        weight = _weight(parameters.get("q", "1"))
        if media == "application/openmetrics-text" and parameters.get("version", "1.0.0") in _VERSIONS:
            wanted = max(wanted, weight)
        elif media in _SPECIFIC:
            text = max(text, (_SPECIFIC[media], weight))
    return OPENMETRICS if wanted > 0 and wanted >= text[1] else TEXT


def _media_range(part: str) -> tuple[str, dict[str, str]]:
    media, *parameters = part.split(";")
    pairs = (parameter.partition("=") for parameter in parameters)
    return media.strip().lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _weight(text: str) -> float:
    """0 to 1; what is no weight counts as 0."""
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
